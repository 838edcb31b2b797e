"""What is held at most, and what is charged exactly, in msat.

Prices are exact `Decimal`s and the way into msat is an exact fraction; the sum is rounded up once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from typing import Final

from addon.catalog import Tariff
from addon.money import MAX_MSAT, ceil_msat

MSAT_PER_BTC: Final = 100_000_000_000
_EXACT: Final = Context(prec=400)
"""So many digits that no sum of prices times counts is ever rounded on the way."""

_INPUT: Final = ("input", "cache_read", "cache_write", "cache_write_1h")
_OUTPUT: Final = ("output", "reasoning")


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs here: its tariff, and msat for one unit of the tariff's currency, both fees in it."""

    tariff: Tariff
    msat_per_unit: Fraction

    def msat(self, amount: Decimal) -> Fraction:
        """An amount of the tariff's currency, exactly."""
        return Fraction(amount) * self.msat_per_unit


@dataclass(frozen=True, slots=True)
class Quantities:
    """What is paid for. All but the first two and the last five are parts of others.

    `input` and `output` are tokens, everything counted; `cache_read`, `cache_write`, `input_audio` and
    `input_image` are parts of the input, `cache_write_1h` of `cache_write`, `cached_audio` of `cache_read`;
    `reasoning`, `output_audio`, `output_image` of the output. The rest is counted: images, searches, seconds of
    audio, characters of text.
    """

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    cached_audio: int = 0
    input_image: int = 0
    output_audio: int = 0
    output_image: int = 0
    images_sent: int = 0
    images_made: int = 0
    searches: int = 0
    seconds: int = 0
    characters: int = 0


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
    return Price(Tariff(request * 1000, per_1k_input, per_1k_output), Fraction(1))


def price_in_usd(usd: Tariff, *, usd_per_btc: Decimal, exchange_fee: Decimal, provider_fee: Decimal) -> Price:
    """A tariff in USD, sold for msat. Both fees are multipliers of 1 or more: a fee raises the price."""
    return Price(usd, MSAT_PER_BTC / Fraction(usd_per_btc) * Fraction(exchange_fee) * Fraction(provider_fee))


def dearest_input(price: Price, most: Quantities) -> Decimal:
    """What an input token of such a request can cost at most: a cache write may be dearer than plain input."""
    media = [p for p in ("input_audio", "cached_audio", "input_image") if getattr(most, p)]
    return price.tariff.dearest((*_INPUT, *media), most.input)


def dearest_output(price: Price, most: Quantities) -> Decimal:
    media = [p for p in ("output_audio", "output_image") if getattr(most, p)]
    return price.tariff.dearest((*_OUTPUT, *media), most.input)


def worst_case(price: Price, most: Quantities, *, minimum_msat: int) -> int:
    """The most a request within these bounds can cost, in msat, at any hour: what is held for it.

    Of media only whether there can be any counts: each token is priced as the dearest one that can be there.
    """
    counted = (
        ("image_sent", most.images_sent),
        ("image_made", most.images_made),
        ("search", most.searches),
        ("second", most.seconds),
        ("character", most.characters),
    )
    with localcontext(_EXACT):
        exact = price.tariff.dearest(("request",), most.input)
        exact += dearest_input(price, most) * most.input + dearest_output(price, most) * most.output
        for part, count in counted:
            if count:
                exact += price.tariff.dearest((part,), most.input) * count
    return max(_ceil(price.msat(exact)), minimum_msat)


def charge(price: Price, used: Quantities, *, hold_msat: int, minimum_msat: int, held_at_ms: int) -> Charge:
    """The exact cost, rounded up once, at least the minimum and at most the hold.

    The tier is that of the input that was reported and of the hour of the hold. What is not output counts as
    input, the request fee too, so that input + output is the total.
    """
    tariff = price.tariff.applied(used.input, held_at_ms)
    with localcontext(_EXACT):
        exact_in, exact_out = _input(tariff, used), _output(tariff, used)
        total, inputs = _ceil(price.msat(exact_in + exact_out)), _ceil(price.msat(exact_in))
    inputs += max(0, minimum_msat - total)
    total = max(total, minimum_msat)
    told = min(total, hold_msat)
    inputs = min(inputs, told)
    return Charge(inputs, told - inputs, total - told)


def _ceil(exact: Fraction) -> int:
    """Figures beyond all money there is are an upstream's nonsense: they cost the hold, and never nothing."""
    return ceil_msat(min(exact, Fraction(MAX_MSAT)))


def _input(tariff: Tariff, used: Quantities) -> Decimal:
    read = _or(tariff.cache_read, tariff.input)
    written = _or(tariff.cache_write, tariff.input)
    audio, cached_audio = _or(tariff.input_audio, tariff.input), min(used.cached_audio, used.cache_read)
    hour = min(used.cache_write_1h, used.cache_write)
    parts = (
        (hour, _or(tariff.cache_write_1h, written)),
        (used.cache_write - hour, written),
        (cached_audio, _or(tariff.cached_audio, read)),
        (used.cache_read - cached_audio, read),
        (used.input_audio - cached_audio, audio),
        (used.input_image, _or(tariff.input_image, tariff.input)),
    )
    counted = (
        (used.images_sent, tariff.image_sent),
        (used.searches, tariff.search),
        (used.seconds, tariff.second),
        (used.characters, tariff.character),
    )
    extra = sum((price * count for count, price in counted if price is not None), Decimal(0))
    return tariff.request + _tokens(used.input, tariff.input, parts) + extra


def _output(tariff: Tariff, used: Quantities) -> Decimal:
    parts = (
        (used.reasoning, _or(tariff.reasoning, tariff.output)),
        (used.output_audio, _or(tariff.output_audio, tariff.output)),
        (used.output_image, _or(tariff.output_image, tariff.output)),
    )
    made = _or(tariff.image_made, Decimal(0)) * used.images_made
    return _tokens(used.output, tariff.output, parts) + made


def _tokens(total: int, plain: Decimal, parts: Sequence[tuple[int, Decimal]]) -> Decimal:
    """The cost of a count some parts of which have prices of their own; together they are never more than it."""
    cost, left = Decimal(0), total
    for count, price in parts:
        taken = max(0, min(count, left))
        cost += price * taken
        left -= taken
    return cost + plain * left


def _or(price: Decimal | None, otherwise: Decimal) -> Decimal:
    return otherwise if price is None else price
