"""The entries of a list of models, as frozen `Model`s. It only parses; the node reads files and asks the upstream.

An entry that cannot be used is refused alone, with its place: one among a hundred does not stop the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from addon.catalog.prices import PriceError, read_pricing
from addon.catalog.tariff import Tariff

MAX_TOKENS: Final = 100_000_000
MAX_ID: Final = 256
UPSTREAM_ID: Final = "forwarded_model_id"
"""The key that other nodes of this kind use for it, too."""
_INT_DIGITS: Final = 18


@dataclass(frozen=True, slots=True)
class Model:
    """One entry. `context_length` and `max_output` are tokens; None: not known.

    `usd`: its prices; `unpriced`: why it has none that can be sold at. `fault`: why the entry cannot be sold in
    any way. `listing` is the entry as the operator wrote it, told again by /v1/models.
    """

    id: str
    context_length: int | None = None
    max_output: int | None = None
    usd: Tariff | None = None
    unpriced: str | None = None
    fault: str | None = None
    forwarded_id: str | None = None
    listing: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def upstream_id(self) -> str:
        """What the upstream calls it; a client asks for `id`."""
        return self.forwarded_id or self.id


class CatalogError(ValueError):
    """The text is not a list of models at all."""


def read(text: str | bytes) -> list[Model]:
    """The models of a JSON text. Raises CatalogError."""
    return parse(load(text))


def load(text: str | bytes) -> Any:
    """The JSON, with exact numbers; a key that stands twice in one object is kept under `TWICE`.

    Raises CatalogError.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_float=Decimal, parse_int=_integer, parse_constant=Decimal
        )
    except RecursionError:
        raise CatalogError("it is nested too deeply") from None
    except ValueError as error:
        raise CatalogError(f"it is not valid JSON ({error})") from None


TWICE: Final = "\0twice"


def parse(document: object) -> list[Model]:
    """The models of `{"data": [...]}`, `{"models": [...]}` or a bare list. Raises CatalogError."""
    return _distinct([_read(entry, place) for place, entry in enumerate(entries(document), 1)])


def entries(document: object) -> list[Any]:
    """The entries of a list of models, in any of its usual shapes. Raises CatalogError."""
    found = document
    if isinstance(document, dict):
        found = document.get("data", document.get("models"))
    if not isinstance(found, list):
        raise CatalogError('it must hold a list of models, as {"data": [...]} or {"models": [...]}')
    return found


def _distinct(models: list[Model]) -> list[Model]:
    """Each id once. Where entries of one id differ nobody knows which price was meant, so it is not sold."""
    seen: dict[str, Model] = {}
    for model in models:
        first = seen.setdefault(model.id, model)
        if first.listing != model.listing:
            seen[model.id] = Model(model.id, fault="it is listed twice, and not with the same words")
    return list(seen.values())


def _read(entry: object, place: int) -> Model:
    try:
        return _model(entry, place)
    except RecursionError:
        return Model(f"entry {place}", fault="it is nested too deeply")


def _model(entry: object, place: int) -> Model:
    if not isinstance(entry, dict):
        return Model(f"entry {place}", fault="it is not an object")
    name = entry.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ID or not name.isprintable():
        return Model(f"entry {place}", fault="it has no id that can be used")
    forwarded = entry.get(UPSTREAM_ID)
    if forwarded is not None and (not isinstance(forwarded, str) or not 0 < len(forwarded) <= MAX_ID):
        return Model(name, fault=f"{UPSTREAM_ID} is not a name", listing=entry)
    if (twice := _twice(entry)) is not None:
        return Model(name, fault=f"the key {twice[:60]!r} stands twice in it", listing=entry)
    top = entry.get("top_provider")
    provider = top if isinstance(top, dict) else {}
    context = _tokens(entry.get("context_length")) or _tokens(provider.get("context_length")) or _served_context(entry)
    usd, unpriced = _usd(entry.get("pricing"))
    limit = _tokens(provider.get("max_completion_tokens"))
    return Model(name, context, limit, usd, unpriced, None, forwarded, tellable(entry))


def _usd(pricing: object) -> tuple[Tariff | None, str | None]:
    """The prices, or why there are none."""
    if pricing is None:
        return None, "it has no prices"
    try:
        tariff = read_pricing(pricing)
    except PriceError as error:
        return None, str(error)
    return (None, "all its prices are zero") if tariff.is_free else (tariff, None)


def _served_context(entry: Mapping[str, Any]) -> int | None:
    """vLLM tells `max_model_len`, llama.cpp `meta.n_ctx`, beside the OpenAI fields."""
    meta = entry.get("meta")
    return _tokens(entry.get("max_model_len")) or (_tokens(meta.get("n_ctx")) if isinstance(meta, dict) else None)


def _tokens(value: object) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_TOKENS
    return value if good and isinstance(value, int) else None


# --- JSON -------------------------------------------------------------------------------------------


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key, value in pairs:
        built[TWICE if key in built else key] = key if key in built else value
    return built


def _integer(digits: str) -> int | Decimal:
    """A number too long to be a count stays one that is only refused where it is used."""
    return int(digits) if len(digits) <= _INT_DIGITS else Decimal(digits)


def _twice(value: object) -> str | None:
    """A key that stood twice, anywhere in an entry."""
    if isinstance(value, dict) and TWICE in value:
        return str(value[TWICE])
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for part in inner if (found := _twice(part)) is not None), None)


def tellable(value: Any, *, as_text: bool = False) -> Any:
    """The same in what JSON can be written from. Exact numbers stay exact among prices, as text."""
    if isinstance(value, dict):
        return {key: tellable(part, as_text=as_text or key == "pricing") for key, part in value.items()}
    if isinstance(value, list):
        return [tellable(part, as_text=as_text) for part in value]
    if not isinstance(value, Decimal):
        return value
    return str(value) if as_text or not math.isfinite(float(value)) else float(value)
