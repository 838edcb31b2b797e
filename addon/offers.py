"""What is on sale and at what price: the models file or the upstream's own list, priced as the settings say.

A model without a price that is wholly understood is not on sale, and the reason is kept for the banner.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx

from addon.catalog import CatalogError, Model, parse
from addon.errors import ModelNotFound, RateUnavailable, SettingsError
from addon.pricing import Price, price_in_sats, price_in_usd, worst_case
from addon.settings import Settings

OWN_MODELS: Final = Path("models.json")
BUNDLED_MODELS: Final = Path(__file__).resolve().parents[1] / "models.example.json"
LIST_LIMIT_BYTES: Final = 32 << 20
LIST_TIMEOUT_S: Final = 10.0
_SELF_BOUNDED: Final = frozenset(("vllm", "sglang"))
_UNBOUNDED: Final = frozenset(("llamacpp", "library", "ollama"))
"""`owned_by` of servers that go on without end when no cap is named."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One model on sale. `self_bounded`: its server ends an answer at the context by itself."""

    model: Model
    price: Price
    self_bounded: bool

    @property
    def id(self) -> str:
        return self.model.id


@dataclass(frozen=True, slots=True)
class Offers:
    """Everything on sale, by id; `refused` are those that are not, and why. `source`: where they came from."""

    by_id: Mapping[str, Offer]
    refused: Sequence[tuple[str, str]] = ()
    source: str = ""
    rate_missing: bool = field(default=False)

    def find(self, model_id: str) -> Offer:
        """Raises ModelNotFound, or RateUnavailable where nothing can be priced now."""
        offer = self.by_id.get(model_id)
        if offer is not None:
            return offer
        if self.rate_missing:
            raise RateUnavailable("The price of bitcoin is not known at the moment; try again in a minute.")
        raise ModelNotFound(
            "This model is not on sale here; GET /v1/models lists those that are.", model=model_id[:100]
        )

    def dearest(self) -> Offer | None:
        """The offer with the dearest tokens, for a 402 to a request that was not read."""
        return max(self.by_id.values(), key=lambda o: o.price.request + o.price.dearest_input, default=None)


@dataclass(frozen=True, slots=True)
class UpstreamList:
    """What the upstream itself lists, and what kind of server it says it is."""

    models: Sequence[Model]
    owners: Mapping[str, str]

    def self_bounded(self, model_id: str, *, context_known: bool) -> bool:
        """Unknown servers are trusted to stop at a context only where the operator told it."""
        owner = self.owners.get(model_id, next(iter(self.owners.values()), ""))
        return owner in _SELF_BOUNDED or (context_known and owner not in _UNBOUNDED)


NOTHING_LISTED: Final = UpstreamList((), {})


def read_models_file(settings: Settings) -> tuple[list[Model], Path] | None:
    """The operator's models file, or the bundled example where prices come from models; None: no file.

    Raises SettingsError for a file that was named and cannot be used.
    """
    path = settings.models_path or (OWN_MODELS if OWN_MODELS.is_file() else None)
    if path is None and settings.model_based_pricing:
        path = BUNDLED_MODELS
    if path is None:
        return None
    try:
        return parse(json.loads(path.read_text("utf-8"), parse_float=Decimal)), path
    except OSError as error:
        raise SettingsError(f"MODELS_PATH: {path} cannot be read ({error.strerror})") from None
    except (CatalogError, ValueError) as error:
        raise SettingsError(f"MODELS_PATH: {path} cannot be used: {error}") from None


def check_prices(settings: Settings) -> None:
    """Raises SettingsError where everything would be free."""
    costs = (settings.cost_per_request, settings.cost_per_1k_input_tokens, settings.cost_per_1k_output_tokens)
    if not settings.model_based_pricing and not any(costs):
        raise SettingsError(
            "COST_PER_REQUEST, COST_PER_1K_INPUT_TOKENS and COST_PER_1K_OUTPUT_TOKENS are all zero: "
            "every request would be free. Set at least one, or MODEL_BASED_PRICING=true."
        )


def build(settings: Settings, models: Sequence[Model], listed: UpstreamList, source: str) -> Offers:
    """Prices every model, or says why it is not sold."""
    by_id: dict[str, Offer] = {}
    refused: list[tuple[str, str]] = []
    missing = settings.model_based_pricing and settings.btc_usd is None
    for model in models:
        price, why = _price(settings, model)
        if price is None:
            refused.append((model.id, why))
            continue
        known = model.context_length is not None
        by_id[model.id] = Offer(model, price, listed.self_bounded(model.id, context_known=known))
    return Offers(by_id, refused, source, rate_missing=missing)


def _price(settings: Settings, model: Model) -> tuple[Price | None, str]:
    if not settings.model_based_pricing:
        static = price_in_sats(
            request=settings.cost_per_request,
            per_1k_input=settings.cost_per_1k_input_tokens,
            per_1k_output=settings.cost_per_1k_output_tokens,
        )
        return static, ""
    if model.usd is None:
        return None, model.refused or "it has no prices"
    if not any((model.usd.input, model.usd.output, model.usd.request)):
        return None, "all its prices are zero"
    if settings.btc_usd is None:
        return None, "the price of bitcoin is not known"
    fees = {"exchange_fee": settings.exchange_fee, "provider_fee": settings.upstream_provider_fee}
    return price_in_usd(model.usd, btc_usd=settings.btc_usd, **fees), ""


async def ask_upstream(url: str, api_key: str) -> UpstreamList | None:
    """The upstream's own GET /models, once, bounded; None when it does not answer with a list."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with (
            asyncio.timeout(LIST_TIMEOUT_S),
            httpx.AsyncClient(trust_env=False, headers=headers) as client,
            client.stream("GET", f"{url}/models") as response,
        ):
            if response.status_code != 200:
                return None
            document = json.loads(await _read(response), parse_float=Decimal)
        return UpstreamList(parse(document), _owners(document))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
        return None


async def _read(response: httpx.Response) -> bytes:
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LIST_LIMIT_BYTES:
            raise ValueError("the upstream's list of models is too large")
    return body


def _owners(document: Any) -> dict[str, str]:
    entries = document.get("data", document.get("models")) if isinstance(document, dict) else document
    entries = entries if isinstance(entries, list) else []
    return {e["id"]: str(e.get("owned_by", "")).lower() for e in entries if isinstance(e, dict) and "id" in e}


# --- told to clients --------------------------------------------------------------------------------


def listing(offer: Offer, settings: Settings) -> dict[str, Any]:
    """One entry of GET /v1/models: the operator's own words, and the prices in sats per token."""
    model, price = offer.model, offer.price
    context = model.context_length or settings.default_context_length
    output = min(model.max_output or context, context)
    told = {k: v for k, v in model.listing.items() if k not in ("object", "meta", "permission", "root", "parent")}
    defaults: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "name": model.id,
        "created": 0,
        "description": "",
        "context_length": context,
        "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"]},
        "pricing": _usd_per_token(offer, settings.btc_usd),
        "per_request_limits": None,
        "top_provider": {
            "context_length": context,
            "max_completion_tokens": model.max_output,
            "is_moderated": False,
        },
    }
    return defaults | told | {"enabled": True, "sats_pricing": _sats_pricing(price, context, output)}


def _sats_pricing(price: Price, context: int, output: int) -> dict[str, float]:
    most = worst_case(price, input_tokens=context, output_tokens=output, minimum_msat=0)
    sats = {
        "prompt": price.input,
        "completion": price.output,
        "request": price.request,
        "input_cache_read": price.input if price.cache_read is None else price.cache_read,
        "input_cache_write": price.input if price.cache_write is None else price.cache_write,
        "internal_reasoning": price.output if price.reasoning is None else price.reasoning,
        "max_prompt_cost": price.dearest_input * context,
        "max_completion_cost": price.dearest_output * output,
        "max_cost": Decimal(most),
    }
    return {name: float(msat / 1000) for name, msat in sats.items()}


def _usd_per_token(offer: Offer, btc_usd: Decimal | None) -> dict[str, str]:
    usd = offer.model.usd
    if usd is not None:
        told = {"prompt": usd.input, "completion": usd.output, "request": usd.request}
    elif btc_usd is not None:
        per_msat = btc_usd / Decimal(100_000_000_000)
        told = {"prompt": offer.price.input, "completion": offer.price.output, "request": offer.price.request}
        told = {name: msat * per_msat for name, msat in told.items()}
    else:
        return {}
    return {name: f"{value:f}" for name, value in told.items()}
