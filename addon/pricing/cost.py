"""Prices per token in msat, the worst case that is held, the exact cost that is charged.

Everything is an exact `Decimal` until the end, where the sum is rounded up to the msat, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Final

from addon.catalog import UsdPrice
from addon.money import MAX_MSAT, ceil_msat

MSAT_PER_BTC: Final = Decimal(100_000_000_000)
_DIGITS: Final = 60
"""Enough that no sum of prices times token counts is ever rounded on the way."""


@dataclass(frozen=True, slots=True)
class Price:
    """msat per request and per token. None: cache as input, reasoning as output."""

    request: Decimal
    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None

    @property
    def dearest_input(self) -> Decimal:
        """What an input token can cost at most: a cache write may be dearer than plain input."""
        return max(p for p in (self.input, self.cache_read, self.cache_write) if p is not None)

    @property
    def dearest_output(self) -> Decimal:
        return max(p for p in (self.output, self.reasoning) if p is not None)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is paid for. The cached, written and reasoning tokens are subsets of input and output."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Charge:
    """What a request costs, in msat. `shortfall_msat`: what it would have cost beyond its hold."""

    input_msat: int
    output_msat: int
    shortfall_msat: int = 0

    @property
    def total_msat(self) -> int:
        return self.input_msat + self.output_msat


def price_in_sats(*, request: Decimal, per_1k_input: Decimal, per_1k_output: Decimal) -> Price:
    """The static prices: sats per request and per 1,000 tokens. 1 sat per 1,000 is 1 msat each."""
    return Price(request * 1000, per_1k_input, per_1k_output)


def price_in_usd(usd: UsdPrice, *, btc_usd: Decimal, exchange_fee: Decimal, provider_fee: Decimal) -> Price:
    """USD prices in msat. Both fees are multipliers of 1 or more: a fee raises the price."""
    with localcontext(prec=_DIGITS):
        rate = MSAT_PER_BTC / btc_usd * exchange_fee * provider_fee
        scaled = [None if p is None else p * rate for p in (usd.cache_read, usd.cache_write, usd.reasoning)]
        return Price(usd.request * rate, usd.input * rate, usd.output * rate, *scaled)


def worst_case(price: Price, *, input_tokens: int, output_tokens: int, minimum_msat: int) -> int:
    """The most a request can cost within these bounds, in msat: what is held for it."""
    with localcontext(prec=_DIGITS):
        exact = price.request + price.dearest_input * input_tokens + price.dearest_output * output_tokens
        return max(ceil_msat(exact), minimum_msat)


def charge(price: Price, tokens: Tokens, *, hold_msat: int, minimum_msat: int) -> Charge:
    """The exact cost, rounded up once, at least the minimum and at most the hold.

    The request fee counts as input, so that input + output is the total.
    """
    with localcontext(prec=_DIGITS):
        exact_in, exact_out = _input(price, tokens), _output(price, tokens)
        # figures beyond all money there is are an upstream's nonsense: they cost the hold, and never nothing
        total, inputs = (ceil_msat(min(exact, Decimal(MAX_MSAT))) for exact in (exact_in + exact_out, exact_in))
    inputs += max(0, minimum_msat - total)
    total = max(total, minimum_msat)
    told = min(total, hold_msat)
    inputs = min(inputs, told)
    return Charge(inputs, told - inputs, total - told)


def _input(price: Price, tokens: Tokens) -> Decimal:
    read, written = tokens.cache_read, tokens.cache_write
    plain = tokens.input - read - written
    read_price = price.input if price.cache_read is None else price.cache_read
    write_price = price.input if price.cache_write is None else price.cache_write
    return price.request + price.input * plain + read_price * read + write_price * written


def _output(price: Price, tokens: Tokens) -> Decimal:
    thought = price.output if price.reasoning is None else price.reasoning
    return price.output * (tokens.output - tokens.reasoning) + thought * tokens.reasoning
