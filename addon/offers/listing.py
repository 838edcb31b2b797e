"""What GET /v1/models tells of an offer: the operator's own words, and its prices in sats."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from addon.catalog import UPSTREAM_ID, Tariff
from addon.offers.shelf import Offer
from addon.pricing import MSAT_PER_BTC, Price, Quantities, dearest_input, dearest_output, worst_case
from addon.settings import Settings

_NOT_TOLD: Final = frozenset(("object", "meta", "permission", "root", "parent", UPSTREAM_ID))
_SATS: Final = {
    "prompt": ("input",),
    "completion": ("output",),
    "request": ("request",),
    "input_cache_read": ("cache_read", "input"),
    "input_cache_write": ("cache_write", "input"),
    "input_cache_write_1h": ("cache_write_1h", "cache_write", "input"),
    "internal_reasoning": ("reasoning", "output"),
    "audio": ("input_audio", "input"),
    "input_audio_cache": ("cached_audio", "cache_read", "input"),
    "audio_output": ("output_audio", "output"),
    "image_token": ("input_image", "input"),
    "image": ("image_sent",),
    "image_output": ("image_made", "output_image"),
    "web_search": ("search",),
    "second": ("second",),
    "character": ("character",),
}
"""Each price of the list, and the part that it is: the first that is priced. Without any it is not told."""


def listing(offer: Offer, settings: Settings, usd_per_btc: Decimal | None) -> dict[str, Any]:
    """One entry of the list, at a rate; None: not known, and a static price is then told in sats alone."""
    model = offer.model
    context = model.context_length or settings.default_context_length
    told = {key: value for key, value in model.listing.items() if key not in _NOT_TOLD}
    defaults: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "name": model.id,
        "created": 0,
        "description": "",
        "context_length": context,
        "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"]},
        "per_request_limits": None,
        "top_provider": {
            "context_length": context,
            "max_completion_tokens": model.max_output,
            "is_moderated": False,
        },
    }
    prices: dict[str, Any] = {"sats_pricing": _sats(offer.price, context, min(model.max_output or context, context))}
    if not settings.model_based_pricing:  # what the entry says of USD is not what is charged
        prices["pricing"] = _static_usd(offer.price, usd_per_btc)
    return defaults | told | prices | {"enabled": True}


def _sats(price: Price, context: int, output: int) -> dict[str, float]:
    """Sats per token (or image, search, request), and the most that a request can cost."""
    told = {key: amount for key, parts in _SATS.items() if (amount := _first(price.tariff, parts)) is not None}
    whole = Quantities(context, output)
    told["max_prompt_cost"] = dearest_input(price, whole) * context
    told["max_completion_cost"] = dearest_output(price, whole) * output
    sats_per_unit = price.msat_per_unit / 1000
    sats = {amount: float(Fraction(amount) * sats_per_unit) for amount in set(told.values())}
    return {key: sats[amount] for key, amount in told.items()} | {
        "max_cost": worst_case(price, whole, minimum_msat=0) / 1000
    }


def _first(tariff: Tariff, parts: tuple[str, ...]) -> Decimal | None:
    prices = (getattr(tariff, part) for part in parts)
    return next((price for price in prices if price is not None), None)


def _static_usd(price: Price, usd_per_btc: Decimal | None) -> dict[str, str]:
    """The static prices in USD, as the other entries of such a list have them."""
    if usd_per_btc is None:
        return {}
    per_msat = usd_per_btc / MSAT_PER_BTC
    told = {"prompt": price.tariff.input, "completion": price.tariff.output, "request": price.tariff.request}
    return {name: f"{msat * per_msat:f}" for name, msat in told.items()}
