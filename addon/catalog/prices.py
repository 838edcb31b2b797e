"""`pricing` of one entry, read into a `Tariff`. What is not wholly understood is refused, with the reason.

Selling at a price that was half understood would be worse than not selling. All amounts are USD.
Source: the fields of `pricing` and of its `overrides` at https://openrouter.ai/docs, and what its list holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

from addon.catalog.tariff import MINUTES_PER_DAY, Tariff, Tier, Window

MAX_USD_PER_TOKEN: Final = Decimal("0.01")
"""Above it a price was typed per million tokens, not per token."""
MAX_USD_PER_CALL: Final = Decimal(100)
MAX_DECIMALS: Final = 40
USD_PER_IMAGE_FROM: Final = Decimal("0.0005")
"""`image` and `image_output` are listed per token for some models and per image for others: no token is this
dear, and no image this cheap."""

_PER_TOKEN: Final = {
    "prompt": "input",
    "completion": "output",
    "internal_reasoning": "reasoning",
    "input_cache_read": "cache_read",
    "input_cache_write": "cache_write",
    "input_cache_write_1h": "cache_write_1h",
    "audio": "input_audio",
    "input_audio_cache": "cached_audio",
    "audio_output": "output_audio",
    "image_token": "input_image",
    "second": "second",
    "character": "character",
}
_PER_CALL: Final = {"request": "request", "web_search": "search"}
_PER_IMAGE: Final = {"image": ("input_image", "image_sent"), "image_output": ("output_image", "image_made")}
PRICE_KEYS: Final = (*_PER_TOKEN, *_PER_CALL, *_PER_IMAGE)
"""Every price that is understood."""
_CONDITIONS: Final = frozenset(("min_prompt_tokens", "utc_start", "utc_end", "utc_days"))
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ALWAYS: Final = frozenset(("request", "input", "output"))
"""Parts whose price may be zero; of the others zero means: not priced apart."""
_MAX_TIERS: Final = 64
_MAX_THRESHOLD: Final = 1 << 40


class PriceError(ValueError):
    """Prices that cannot be sold at, and why."""


def read_pricing(pricing: object) -> Tariff:
    """The tariff in USD of a `pricing` object. Raises PriceError."""
    if not isinstance(pricing, dict):
        raise PriceError("pricing is not an object")
    plain = {key: value for key, value in pricing.items() if key not in ("overrides", "discount")}
    parts = _parts(plain)
    if parts.get("input") is None or parts.get("output") is None:
        raise PriceError("prompt and completion must both be priced")
    if pricing.get("discount") and _number("discount", pricing["discount"]):
        raise PriceError("a discount is not applied here: write the prices that count")
    return Tariff(**{"request": Decimal(0)} | parts, tiers=_tiers(pricing.get("overrides")))  # type: ignore[arg-type]


def _parts(listed: Mapping[str, object]) -> dict[str, Decimal | None]:
    """The prices by part. A null is as if the key were absent."""
    parts: dict[str, Decimal | None] = {}
    for key, value in listed.items():
        if key not in PRICE_KEYS:
            raise PriceError(f"the price {key[:60]!r} is not understood")
        if value is None:
            continue
        amount = _amount(key, value)
        part = _part(key, amount)
        if key in _PER_IMAGE and parts.get(part):
            continue  # `image_token` says the same in clearer words
        parts[part] = amount if amount or part in _ALWAYS else None
    return parts


def _part(key: str, amount: Decimal) -> str:
    if key in _PER_IMAGE:
        per_token, per_image = _PER_IMAGE[key]
        return per_token if amount < USD_PER_IMAGE_FROM else per_image
    return _PER_TOKEN.get(key) or _PER_CALL[key]


def _amount(key: str, value: object) -> Decimal:
    amount = _number(f"the price {key!r}", value)
    if key in _PER_TOKEN and amount > MAX_USD_PER_TOKEN:
        raise PriceError(f"the price {key!r} is above {MAX_USD_PER_TOKEN} USD: is it per million tokens?")
    if amount > MAX_USD_PER_CALL:
        raise PriceError(f"the price {key!r} is above {MAX_USD_PER_CALL} USD")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MAX_DECIMALS:
        raise PriceError(f"the price {key!r} has more than {MAX_DECIMALS} decimals")
    return amount


def _number(what: str, value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise PriceError(f"{what} is not a number")
    try:
        number = Decimal(str(value))
    except (InvalidOperation, ValueError):
        raise PriceError(f"{what} is not a number") from None
    if not number.is_finite() or number < 0:
        raise PriceError(f"{what} is negative or not a number")
    return number


# --- tiers ------------------------------------------------------------------------------------------


def _tiers(overrides: object) -> tuple[Tier, ...]:
    if overrides is None:
        return ()
    if not isinstance(overrides, list) or len(overrides) > _MAX_TIERS:
        raise PriceError("overrides is not a list of tiers")
    return tuple(_tier(entry) for entry in overrides)


def _tier(entry: object) -> Tier:
    """One override: at least one condition and one price, and every condition understood."""
    if not isinstance(entry, dict):
        raise PriceError("an override is not an object")
    conditions = {key: value for key, value in entry.items() if key in _CONDITIONS and value is not None}
    changes = _parts({key: value for key, value in entry.items() if key not in _CONDITIONS})
    if not conditions or not changes:
        raise PriceError("an override needs a condition and a price")
    threshold = conditions.pop("min_prompt_tokens", 0)
    return Tier(changes, _whole("min_prompt_tokens", threshold, _MAX_THRESHOLD), _window(conditions))


def _window(conditions: Mapping[str, object]) -> Window | None:
    if not conditions:
        return None
    days = _days(conditions["utc_days"]) if "utc_days" in conditions else None
    if "utc_start" not in conditions and "utc_end" not in conditions:
        return Window(days=days)
    if "utc_start" not in conditions or "utc_end" not in conditions:
        raise PriceError("utc_start and utc_end belong together")
    start, end = (_clock(key, conditions[key]) for key in ("utc_start", "utc_end"))
    if start in (end, MINUTES_PER_DAY):
        raise PriceError("utc_start and utc_end name no hours")
    if days is not None and start > end:
        raise PriceError("utc_days with hours past midnight can be read in two ways")
    return Window(start, end, days)


def _clock(key: str, value: object) -> int:
    """Minutes of the day from a clock's digits as a number: 1030 is half past ten."""
    hours, minutes = divmod(_whole(key, value, 2400), 100)
    if minutes > 59:
        raise PriceError(f"{key} is no time of day")
    return hours * 60 + minutes


def _days(value: object) -> frozenset[int]:
    names = value if isinstance(value, list) else []
    if not names or not all(isinstance(name, str) and name.lower() in _DAYS for name in names):
        raise PriceError("utc_days is not a list of weekdays")
    return frozenset(_DAYS.index(name.lower()) for name in names)


def _whole(key: str, value: object, most: int) -> int:
    number = _number(key, value)
    if number > most or number != int(number):
        raise PriceError(f"{key} is not a whole number up to {most}")
    return int(number)
