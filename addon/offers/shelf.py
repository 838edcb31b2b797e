"""What is on sale, at the price of this moment: every model priced as the settings and the rate of bitcoin say.

One frozen object. When the rate moves a new one is made of the same stock, and takes its place whole; whoever
began with the old one ends with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from addon.catalog import Model
from addon.errors import ModelNotFound, RateUnavailable
from addon.offers.sources import BUNDLED_MODELS, UpstreamList
from addon.pricing import Price, Quantities, price_in_sats, price_in_usd, worst_case
from addon.settings import Settings


@dataclass(frozen=True, slots=True)
class Offer:
    """One model on sale. `self_bounded`: its server ends an answer at the context by itself.

    `sells_text`: a request for text costs something; where prices are by the piece alone, it would not.
    """

    model: Model
    price: Price
    self_bounded: bool
    sells_text: bool = True

    @property
    def id(self) -> str:
        return self.model.id


@dataclass(frozen=True, slots=True)
class Stock:
    """What offers are made of, apart from the rate."""

    settings: Settings
    models: Sequence[Model]
    listed: UpstreamList


@dataclass(frozen=True, slots=True)
class Offers:
    """Everything on sale, by id. `refused`: what is not, and why. `source`: where the models came from.

    `awaiting`: ids that are on sale again once the rate is known; `usd_per_btc`: the rate of these prices.
    `dearest`: the offer with the dearest input, for a 402 to a request that was not read.
    """

    by_id: Mapping[str, Offer]
    refused: Sequence[tuple[str, str]] = ()
    source: str = ""
    awaiting: frozenset[str] = frozenset()
    usd_per_btc: Decimal | None = None
    dearest: Offer | None = field(default=None, repr=False)
    stock: Stock | None = field(default=None, repr=False)

    def find(self, model_id: str) -> Offer:
        """Raises ModelNotFound, or RateUnavailable for a model that cannot be priced now."""
        offer = self.by_id.get(model_id)
        if offer is not None:
            return offer
        if model_id in self.awaiting:
            raise RateUnavailable("The price of bitcoin is not known at the moment; try again in a minute.")
        raise ModelNotFound(
            "This model is not on sale here; GET /v1/models lists those that are.", model=model_id[:100]
        )

    @property
    def is_example(self) -> bool:
        """Whether the prices are those of the example that comes with the program."""
        return self.source == str(BUNDLED_MODELS)


def build(settings: Settings, models: Sequence[Model], listed: UpstreamList, source: str) -> Offers:
    """The offers at BTC_USD, where that is set; else `reprice` must follow before USD prices are sold at."""
    return _priced(Stock(settings, models, listed), source, settings.btc_usd)


def reprice(offers: Offers, usd_per_btc: Decimal | None) -> Offers:
    """The same stock at another rate. None: the rate is not known, and what is priced in USD is not sold."""
    if offers.stock is None:
        return offers
    return _priced(offers.stock, offers.source, usd_per_btc)


def _priced(stock: Stock, source: str, usd_per_btc: Decimal | None) -> Offers:
    by_id: dict[str, Offer] = {}
    refused: list[tuple[str, str]] = []
    awaiting: set[str] = set()
    for model in stock.models:
        why = _refusal(stock.settings, model)
        price = None if why else _price(stock.settings, model, usd_per_btc)
        if why:
            refused.append((model.id, why))
        elif price is None:
            awaiting.add(model.id)
        else:
            known = model.context_length is not None
            bounded = stock.listed.self_bounded(
                model.upstream_id, context_known=known, dialect=stock.settings.upstream_dialect
            )
            by_id[model.id] = Offer(model, price, bounded, worst_case(price, Quantities(1, 1), minimum_msat=0) > 0)
    million = Quantities(1_000_000, 0)
    dearest = max(by_id.values(), key=lambda o: worst_case(o.price, million, minimum_msat=0), default=None)
    return Offers(by_id, refused, source, frozenset(awaiting), usd_per_btc, dearest, stock)


def _refusal(settings: Settings, model: Model) -> str:
    """Why a model is not sold at any rate; empty: it is."""
    if model.fault is not None:
        return model.fault
    return (model.unpriced or "") if settings.model_based_pricing else ""


def _price(settings: Settings, model: Model, usd_per_btc: Decimal | None) -> Price | None:
    if not settings.model_based_pricing:
        return price_in_sats(
            request=settings.cost_per_request,
            per_1k_input=settings.cost_per_1k_input_tokens,
            per_1k_output=settings.cost_per_1k_output_tokens,
        )
    if usd_per_btc is None or model.usd is None:
        return None
    return price_in_usd(
        model.usd,
        usd_per_btc=usd_per_btc,
        exchange_fee=settings.exchange_fee,
        provider_fee=settings.upstream_provider_fee,
    )
