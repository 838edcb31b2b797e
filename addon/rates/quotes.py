"""What an exchange's answer says, and which rate follows from several. Pure: no network, no clock, no store.

A wrong rate sells below cost or robs clients; no rate stops sales in USD for a while. So in doubt: none.

1. **An answer counts** only if it is the exchange's own shape, for bitcoin in dollars, a plain decimal number
   within SANE_USD. Zero, a negative, NaN, an exponent, HTML, an error: as if it had not answered.
2. **The rate is the median** of those that count, **if two of them lie within AGREE of it**. Of three answers
   one may lie as it likes: the median then lies between two honest ones. Of two the median is their mean, so
   they may differ by twice AGREE, and one that lies within that moves the rate by AGREE at most. Two that agree
   are believed whatever the rate was before: independent exchanges do not fail by the same factor, but the
   market does fall by a third, and then the old price is the wrong one.
3. **Where no two agree**, alone or in conflict, one answer counts only if it lies within STEP of the last rate
   that two exchanges agreed on, and that is not older than TRUSTED_FOR_S; and only if it is the only one that
   does. Else there is no rate. A rate that stands on one exchange is never what the next is compared to: or one
   exchange alone could lead the price anywhere, a step at a time.

So with one liar the rate is off by AGREE at most while another exchange answers, and by STEP, beside what the
market did within TRUSTED_FOR_S, when none does; after that there is none. Without any rate so far one exchange
alone is never believed. STEP is more than bitcoin moves in most hours, AGREE more than exchanges differ on bad
days (one of the three quotes in tether).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Any, Final

SANE_USD: Final = (Decimal(1_000), Decimal(100_000_000))
"""Outside it is no price of a bitcoin but a mistake in the unit. Who lives to see it sets BTC_USD."""
AGREE: Final = Decimal("0.02")
STEP: Final = Decimal("0.05")
TRUSTED_FOR_S: Final = 3600.0
_PLAIN: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,18})?")


class QuoteError(ValueError):
    """An answer that does not count, and why."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where one exchange tells its price, and where in its answer the price stands."""

    name: str
    url: str
    find: Callable[[Any], object]

    def read(self, body: bytes) -> Decimal:
        """The USD per bitcoin of an answer's body. Raises QuoteError, in words that quote nothing of it."""
        try:
            text = self.find(json.loads(body))
        except (ValueError, LookupError, TypeError, RecursionError):
            raise QuoteError("not the answer of an exchange") from None
        if not isinstance(text, str) or not _PLAIN.fullmatch(text):
            raise QuoteError("its price is not a plain number")
        if not is_sane(price := Decimal(text)):
            raise QuoteError("its price cannot be that of a bitcoin")
        return price


@dataclass(frozen=True, slots=True)
class Decided:
    """A rate, in USD per bitcoin, and the names of the exchanges that stand for it."""

    usd_per_btc: Decimal
    sources: tuple[str, ...]


def is_sane(usd_per_btc: Decimal) -> bool:
    """Whether it can be the price of a bitcoin at all."""
    return SANE_USD[0] <= usd_per_btc <= SANE_USD[1]


def decide(quotes: Mapping[str, Decimal], trusted: Decimal | None) -> Decided | None:
    """The rate that follows from what the exchanges said, by the rule above; None: there is none.

    `quotes`: exchange → USD per bitcoin, sane ones only. `trusted`: the last rate that two agreed on, unless
    it is too old to compare with.
    """
    if not quotes:
        return None
    middle = median(quotes.values())
    agreeing = _near(quotes, middle, AGREE)
    if len(agreeing) > 1:
        return Decided(middle, agreeing)
    likely = () if trusted is None else _near(quotes, trusted, STEP)
    return Decided(quotes[likely[0]], likely) if len(likely) == 1 else None


def _near(quotes: Mapping[str, Decimal], to: Decimal, within: Decimal) -> tuple[str, ...]:
    return tuple(name for name, usd in quotes.items() if abs(usd - to) <= within * to)


# --- the three --------------------------------------------------------------------------------------


def _kraken(told: Any) -> object:
    if told["error"] != []:
        raise ValueError
    return told["result"]["XXBTZUSD"]["c"][0]


def _coinbase(told: Any) -> object:
    data = told["data"]
    if (data["base"], data["currency"]) != ("BTC", "USD"):
        raise ValueError
    return data["amount"]


def _binance(told: Any) -> object:
    if told["symbol"] != "BTCUSDT":
        raise ValueError
    return told["price"]


EXCHANGES: Final = (
    Exchange("kraken", "https://api.kraken.com/0/public/Ticker?pair=XBTUSD", _kraken),
    Exchange("coinbase", "https://api.coinbase.com/v2/prices/BTC-USD/spot", _coinbase),
    Exchange("binance", "https://api.binance.com/api/v3/ticker/price?symbol=BTCUSDT", _binance),
)
