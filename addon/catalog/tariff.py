"""What each unit of a model costs, in one currency: a price for each part, and tiers that change some of them.

A model's own tariff is in USD, as its list writes it; a static one is in msat. Pure figures: this module knows
no file, no rate of bitcoin and no clock; the time is an argument.
Source: `pricing` of https://openrouter.ai/api/v1/models, its `overrides` among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

MINUTES_PER_DAY: Final = 24 * 60
_MS_PER_MINUTE: Final = 60_000
_THURSDAY: Final = 3
"""The weekday of 1 January 1970, where Monday is 0."""


@dataclass(frozen=True, slots=True)
class Window:
    """Some hours of the day in UTC: from `start` to before `end`, in minutes; past midnight where `end` is less.

    `days`: only on these, where Monday is 0; None: on every day.
    """

    start: int = 0
    end: int = MINUTES_PER_DAY
    days: frozenset[int] | None = None

    def contains(self, at_ms: int) -> bool:
        """Whether a moment, in ms of unix time, lies in it."""
        day, minute = divmod(at_ms // _MS_PER_MINUTE, MINUTES_PER_DAY)
        if self.days is not None and (day + _THURSDAY) % 7 not in self.days:
            return False
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True)
class Tier:
    """Other prices for a request that meets a condition; parts that it does not name keep theirs.

    It applies to more than `above_tokens` input tokens, within its `window`; None: at every hour.
    """

    changes: Mapping[str, Decimal | None]
    above_tokens: int = 0
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices by part, each for one unit. None: not priced apart.

    Then a cached or written token costs what an input token does (one written for an hour: what a written one
    does), a reasoning, audio or image token what an input or output token does, and the rest (images by count,
    searches, seconds, characters) cannot be sold.
    """

    request: Decimal
    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    reasoning: Decimal | None = None
    input_audio: Decimal | None = None
    cached_audio: Decimal | None = None
    input_image: Decimal | None = None
    output_audio: Decimal | None = None
    output_image: Decimal | None = None
    image_sent: Decimal | None = None
    image_made: Decimal | None = None
    search: Decimal | None = None
    second: Decimal | None = None
    character: Decimal | None = None
    tiers: tuple[Tier, ...] = ()

    def applied(self, input_tokens: int, at_ms: int) -> Tariff:
        """The prices of one request: of the tiers that apply, the later one wins for each part."""
        changes: dict[str, Decimal | None] = {}
        for tier in self.tiers:
            if input_tokens > tier.above_tokens and (tier.window is None or tier.window.contains(at_ms)):
                changes |= tier.changes
        return dataclasses.replace(self, tiers=(), **changes) if changes else self  # type: ignore[arg-type]

    def dearest(self, parts: Iterable[str], input_tokens: int) -> Decimal:
        """The highest price among some parts that a request of up to so many input tokens can meet, at any hour."""
        names = tuple(parts)
        prices = [getattr(self, name) for name in names]
        for tier in self.tiers:
            if input_tokens > tier.above_tokens:
                prices += [tier.changes.get(name) for name in names]
        return max((price for price in prices if price is not None), default=Decimal(0))

    @property
    def is_free(self) -> bool:
        """Whether nothing that can be sold by itself has a price."""
        sold = (self.input, self.output, self.request, self.image_made, self.output_image, self.second, self.character)
        return not any(sold)
