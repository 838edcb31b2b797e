"""What is on sale: a models file in OpenRouter's shape, or the upstream's own list, as frozen `Model`s.

It only parses; the node reads files and asks the upstream. A model whose prices are not wholly understood is
not sold, and says why: selling it at half its price would be worse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final

MAX_USD_PER_TOKEN: Final = Decimal("0.01")
"""Above it a price was typed per million tokens, not per token."""
MAX_USD_PER_CALL: Final = Decimal(100)
MAX_TOKENS: Final = 100_000_000

_PER_TOKEN: Final = {
    "prompt": "input",
    "completion": "output",
    "internal_reasoning": "reasoning",
    "input_cache_read": "cache_read",
    "input_cache_write": "cache_write",
}
_UNSOLD: Final = ("image", "image_output", "image_token", "audio", "audio_output", "web_search", "input_audio_cache")
"""Understood, but what they price does not pass through this node: a model may name them all the same."""


@dataclass(frozen=True, slots=True)
class UsdPrice:
    """USD per token, and per request. None: not priced apart (cache: as input; reasoning: as output)."""

    input: Decimal
    output: Decimal
    request: Decimal = Decimal(0)
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model. `context_length` and `max_output` are tokens; None: not known.

    `listing` is the entry as the operator wrote it, told again by /v1/models.
    """

    id: str
    context_length: int | None = None
    max_output: int | None = None
    usd: UsdPrice | None = None
    refused: str | None = None
    listing: Mapping[str, Any] = field(default_factory=dict, repr=False)


class CatalogError(ValueError):
    """The file is not a list of models at all."""


def parse(document: object) -> list[Model]:
    """Models of a document `{"data": [...]}`, `{"models": [...]}` or a bare list. Raises CatalogError."""
    entries = document
    if isinstance(document, dict):
        entries = document.get("data", document.get("models"))
    if not isinstance(entries, list):
        raise CatalogError('it must hold a list of models, as {"data": [...]} or {"models": [...]}')
    models = [_model(entry, place) for place, entry in enumerate(entries)]
    return _distinct(models)


def _distinct(models: Iterable[Model]) -> list[Model]:
    seen: dict[str, Model] = {}
    for model in models:
        if model.id in seen:
            raise CatalogError(f"the model {model.id!r} is listed twice")
        seen[model.id] = model
    return list(seen.values())


def _model(entry: object, place: int) -> Model:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str) or not entry["id"]:
        raise CatalogError(f"entry {place} has no id")
    top = entry.get("top_provider")
    provider = top if isinstance(top, dict) else {}
    context = _tokens(entry.get("context_length")) or _tokens(provider.get("context_length")) or _served_context(entry)
    usd, refused = _usd(entry.get("pricing"))
    limit = _tokens(provider.get("max_completion_tokens"))
    return Model(entry["id"], context, limit, usd, refused, entry)


def _served_context(entry: Mapping[str, Any]) -> int | None:
    """vLLM tells `max_model_len`, llama.cpp `meta.n_ctx`, beside the OpenAI fields."""
    meta = entry.get("meta")
    return _tokens(entry.get("max_model_len")) or (_tokens(meta.get("n_ctx")) if isinstance(meta, dict) else None)


def _tokens(value: object) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOKENS
    return value if good and isinstance(value, int) else None


def _usd(pricing: object) -> tuple[UsdPrice | None, str | None]:
    """The prices, or why they are refused; neither where there are none."""
    if pricing is None:
        return None, None
    if not isinstance(pricing, dict):
        return None, "pricing is not an object"
    try:
        return _prices(pricing), None
    except ValueError as error:
        return None, str(error)


def _prices(pricing: Mapping[str, object]) -> UsdPrice:
    known: dict[str, Decimal] = {}
    for key, value in pricing.items():
        if key in _PER_TOKEN:
            known[_PER_TOKEN[key]] = _usd_amount(key, value, MAX_USD_PER_TOKEN)
        elif key == "request":
            known["request"] = _usd_amount(key, value, MAX_USD_PER_CALL)
        elif key in _UNSOLD:
            _usd_amount(key, value, MAX_USD_PER_CALL)
        elif key == "overrides" and value in ([], None):
            continue
        else:
            raise ValueError(f"the price {key!r} is not understood")
    if "input" not in known or "output" not in known:
        raise ValueError("prompt and completion must both be priced")
    return UsdPrice(
        known["input"],
        known["output"],
        known.get("request", Decimal(0)),
        *(known.get(name) or None for name in ("cache_read", "cache_write", "reasoning")),
    )


def _usd_amount(key: str, value: object, most: Decimal) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError(f"the price {key!r} is not a number")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"the price {key!r} is not a number") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"the price {key!r} is negative or not a number")
    if amount > most:
        raise ValueError(f"the price {key!r} is above {most} USD: is it per million tokens?")
    return amount
