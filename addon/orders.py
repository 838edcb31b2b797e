"""What a request asks for, and what may be sent for it: body, model, bounds, cap. Pure.

An order is made once. Its hold is fitted to the balance; the bytes that go upstream follow from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from addon import forms
from addon.errors import ModelNotFound
from addon.metering import Extent, Family, Unseen, admitted, unseen_of
from addon.offers import Offer, Offers
from addon.pricing import Bounds, Cap, Fitted, Quantities, asked_cap, bounds_of, fit, least
from addon.settings import Settings
from addon.upstream import parse_body, serialise


@dataclass(frozen=True, slots=True)
class Order:
    """One parsed request. `body` holds only fields that may pass; `raw` is what the client sent."""

    family: Family
    offer: Offer
    body: Mapping[str, Any] = field(repr=False)
    raw: bytes = field(repr=False)
    cap: Cap
    bounds: Bounds
    unseen: Unseen
    """What the body's own bytes do not bound: images, audio, files."""
    extent: Extent
    dropped: tuple[str, ...]
    is_whole: bool
    """Whether `body` holds every field of `raw`: none was dropped, none was null."""
    minimum_msat: int
    min_output: int
    usd_per_btc: Decimal | None
    """The rate of the offer's price."""
    asks_usage: bool
    """Whether a stream of this upstream tells its figures only when it is asked to."""
    boundary: str = ""
    """Of the form that is sent; empty: JSON is."""

    @property
    def content_type(self) -> str:
        """Of the bytes that go upstream."""
        return forms.content_type(self.boundary) if self.boundary else "application/json"

    @property
    def stream(self) -> bool:
        return self.body.get("stream", self.family.streams) is True

    @property
    def hide_usage(self) -> bool:
        """Whether the usage event of the stream exists only because we ask for it."""
        options = self.body.get("stream_options") or {}
        return self.stream and self.asks_usage and options.get("include_usage") is not True

    @property
    def least_msat(self) -> int:
        """The smallest acceptable hold."""
        return least(self.offer.price, self.bounds, min_output=self.min_output, minimum_msat=self.minimum_msat)

    def fit(self, available_msat: int, *, whole: bool = False) -> Fitted:
        """The hold for a balance; `whole`: nothing else will be asked of it. Raises InsufficientBalance."""
        return fit(
            self.offer.price,
            self.bounds,
            available_msat=available_msat,
            min_output=self.min_output,
            minimum_msat=self.minimum_msat,
            whole=whole,
        )


def read(family: Family, raw: bytes, offers: Offers, settings: Settings, *, content_type: str = "") -> Order:
    """The order that a body is; `content_type` tells how to read a form, and nothing of JSON.

    Raises InvalidJson, InvalidParameter, UnsupportedParameter, ModelNotFound, RateUnavailable."""
    parsed = parse_body(raw) if family.form is None else forms.read(raw, content_type, family.form)
    model = parsed.get("model")
    if not isinstance(model, str) or not model:
        raise ModelNotFound("The body must name a model; GET /v1/models lists those on sale.")
    offer = offers.find(model)
    body, dropped = admitted(parsed, family.fields, family.caps, settings.unknown_fields)
    cap = asked_cap(_cap_place(body, family), family.caps)
    unseen = unseen_of(body)
    extent = family.extent(body, len(raw))
    if not _is_sold(offer, extent):
        raise ModelNotFound("This model is not on sale for this kind of request.", model=offer.id)
    bounds = bounds_of(
        offer.model,
        cap,
        body_bytes=extent.input_bytes + extent.file_tokens,
        has_output=family.has_output,
        unseen_input=bool(unseen) or extent.file_tokens > 0,
        self_bounded=offer.self_bounded,
        default_context=settings.default_context_length,
        min_output=settings.min_output_tokens,
        counted=_pieces(extent, unseen),
        made_tokens=extent.made_tokens,
    )
    return Order(
        family=family,
        offer=offer,
        body=body,
        raw=raw,
        cap=cap,
        bounds=bounds,
        unseen=unseen,
        extent=extent,
        dropped=dropped,
        is_whole=body == parsed,
        minimum_msat=settings.min_request_msat,
        min_output=settings.min_output_tokens,
        usd_per_btc=offers.usd_per_btc,
        asks_usage=family.asks_usage and settings.upstream_dialect not in _NEVER_ASKED,
        boundary="" if family.form is None else forms.new_boundary(),
    )


def _is_sold(offer: Offer, extent: Extent) -> bool:
    """Whether such a request costs something: prices can be by the piece alone."""
    tariff = offer.price.tariff
    if extent.seconds:  # text can have a price where sound has none
        heard = tariff.input if tariff.input_audio is None else tariff.input_audio
        return any((tariff.second, tariff.request, tariff.output, heard))
    by_piece = (extent.images and tariff.image_made) or (extent.characters and tariff.character)
    return offer.sells_text or bool(by_piece)


def _pieces(extent: Extent, unseen: Unseen) -> Quantities:
    """What is counted by the piece, at most; which of what is made may be pictures or sound."""
    return Quantities(
        0,
        0,
        images_sent=unseen.images,
        images_made=extent.images,
        searches=extent.searches,
        seconds=extent.seconds,
        characters=extent.characters,
        output_image=extent.made_tokens if extent.images else 0,
        output_audio=extent.made_tokens if extent.characters else 0,
    )


def sent_body(order: Order, fitted: Fitted) -> bytes:
    """The bytes that go upstream: the client's own when nothing had to change."""
    body = dict(order.body) | {"model": order.offer.model.upstream_id}
    _write_cap(body, order, fitted.output_tokens)
    if not order.stream or order.asks_usage is not order.family.asks_usage:
        body.pop("stream_options", None)
    elif order.asks_usage:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        body["stream_options"] = {k: v for k, v in body["stream_options"].items() if k in _STREAM_OPTIONS}
    if order.boundary:
        return forms.written(body, order.boundary)
    unchanged = order.is_whole and body == order.body
    return order.raw if unchanged else serialise(body)


_NEVER_ASKED = ("mistral", "transformers", "llama-cpp-python")
"""Servers that answer 4xx to `stream_options`, or know none; those that have figures tell them unasked."""
_STREAM_OPTIONS = ("include_usage", "include_obfuscation")


def told_cap(order: Order, fitted: Fitted) -> int | None:
    """The cap that was sent, where the client must be told: lower than it asked, or lowered for its balance."""
    lowered = fitted.output_tokens < (order.cap.asked or order.bounds.output_tokens)
    return fitted.output_tokens if order.family.has_output and lowered else None


def _write_cap(body: dict[str, Any], order: Order, output_tokens: int) -> None:
    """One cap, under the client's own name for it if every server knows that one: a server that does not would go
    on without end. What was held is what is written."""
    if not order.family.has_output:
        return
    lowered = output_tokens < order.bounds.output_tokens
    if order.cap.asked is None and not order.bounds.must_cap and not lowered:
        return
    named = order.cap.fields
    name = named[0] if len(named) == 1 and named[0] in order.family.own_caps else order.family.caps[0]
    place = {k: v for k, v in _cap_place(body, order.family).items() if k not in named} | {name: output_tokens}
    if order.family.cap_inside is None:
        body.clear()
        body.update(place)
    else:
        body[order.family.cap_inside] = place
    if order.cap.asked is not None and output_tokens < order.cap.asked:
        _fit_thinking(body, order.cap.asked, output_tokens)


LEAST_THINKING: Final = 1024
"""Tokens: below it Anthropic refuses a budget for thinking."""


def _fit_thinking(body: dict[str, Any], asked: int, output_tokens: int) -> None:
    """Anthropic's budget for thinking must be below the cap: one that the lowered cap has overtaken is lowered too,
    or left out where too little remains."""
    thinking = body.get("thinking")
    if not isinstance(thinking, dict):
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or not output_tokens <= budget < asked:
        return
    if output_tokens > LEAST_THINKING:
        body["thinking"] = thinking | {"budget_tokens": output_tokens - 1}
    else:
        del body["thinking"]


def _cap_place(body: Mapping[str, Any], family: Family) -> Mapping[str, Any]:
    """Where a family's output cap stands: the body, or a field of it."""
    return body if family.cap_inside is None else body.get(family.cap_inside, {})


def smallest(offer: Offer, settings: Settings) -> int:
    """The least hold (msat) of the shortest question to a model: for a 402 to a request that is not read."""
    bounds = bounds_of(
        offer.model,
        Cap((), None),
        body_bytes=0,
        has_output=True,
        unseen_input=False,
        self_bounded=offer.self_bounded,
        default_context=settings.default_context_length,
        min_output=settings.min_output_tokens,
    )
    return least(offer.price, bounds, min_output=settings.min_output_tokens, minimum_msat=settings.min_request_msat)
