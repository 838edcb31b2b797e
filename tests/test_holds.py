"""A hold covers its request: whatever passes, in every family, and whatever an upstream reports that obeys the caps
which went up, costs no more than was held for it."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from addon import forms, orders
from addon.billing import PaidRequest, bill
from addon.catalog import Model, Tariff
from addon.errors import Failure
from addon.forms import File
from addon.ledger import End
from addon.metering import FAMILIES, Family, Metered, Usage
from addon.offers import Offer, Offers
from addon.orders import Order
from addon.pricing import Fitted, Price
from addon.settings import Settings

TEXT = st.text(max_size=30)
PART = st.sampled_from(
    [
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
        {"type": "image", "source": {"type": "url", "url": "x"}},
        {"type": "input_file", "file_id": "x"},
    ]
)
MESSAGES = st.lists(
    st.builds(lambda content: {"role": "user", "content": content}, TEXT | st.lists(PART, max_size=3)),
    min_size=1, max_size=4,
)  # fmt: skip
CAP = st.integers(1, 5000)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "messages": MESSAGES, "input": TEXT | MESSAGES | st.lists(TEXT, max_size=3), "prompt": TEXT, "system": TEXT,
    "query": TEXT, "documents": st.lists(TEXT, max_size=5), "stream": st.booleans(), "images": st.just(["AA"]),
    "max_tokens": CAP, "max_completion_tokens": CAP, "max_output_tokens": CAP, "n_predict": CAP,
    "options": st.fixed_dictionaries({}, optional={"num_predict": CAP, "num_ctx": CAP}),
    "tools": st.just([{"type": "function", "function": {"name": "f"}}]), "n": st.sampled_from([1, 1, 1, 3, 10]),
}  # fmt: skip
BODIES = st.fixed_dictionaries({"model": st.sampled_from(["small", "open", "unknown"])}, optional=FIELDS)
WAV = struct.pack("<4sL4s4sLHHLLHH4sL", b"RIFF", 4036, b"WAVE", b"fmt ", 16, 1, 1, 100, 200, 2, 16, b"data", 4000)
SENT_FILES = st.builds(File, st.just(forms.ANY_KIND), st.just(".mp3"), st.sampled_from(
    [b"", b"x" * 40, WAV + bytes(4000), b"fLaC", bytes(900_000)]))  # fmt: skip
RATES = st.decimals(0, 9, places=3)
TARIFFS = st.builds(
    Tariff, RATES, RATES, RATES, cache_read=st.none() | RATES, cache_write=st.none() | RATES,
    cache_write_1h=st.none() | RATES, reasoning=st.none() | RATES, input_audio=st.none() | RATES,
    input_image=st.none() | RATES, image_sent=st.none() | RATES, image_made=st.none() | RATES,
    output_image=st.none() | RATES, output_audio=st.none() | RATES, character=st.none() | RATES,
    second=st.none() | RATES,
)  # fmt: skip
SHARE = st.fractions(0, 1)
SETTINGS = Settings()


def order(family: Family, body: dict[str, Any], tariff: Tariff, sent: File) -> Order:
    price = Price(tariff, Fraction(1))
    models = (Model("small", 8192, 256), Model("open", 8192), Model("unknown"))
    shelf = Offers({m.id: Offer(m, price, m.id == "open") for m in models})
    if family.form is None:
        return orders.read(family, json.dumps(body).encode(), shelf, SETTINGS)
    fields: dict[str, Any] = {k: v for k, v in body.items() if isinstance(v, str | int)} | dict.fromkeys(
        family.form.needed, sent
    )
    fields = {k: [v] if k.endswith("[]") else v for k, v in fields.items()}
    return orders.read(family, forms.written(fields, "x"), shelf, SETTINGS, content_type=forms.content_type("x"))


def cap_sent(made: Order, fitted: Fitted) -> int:
    """What the upstream may make at most: the largest cap in what it is sent, or up to its context."""
    if not made.family.has_output:
        return made.bounds.output_tokens
    sent = json.loads(orders.sent_body(made, fitted))
    place = sent.get("options", {}) if made.family.cap_inside else sent
    caps = [place[name] for name in made.family.caps if name in place]
    assert caps or made.offer.self_bounded, "a server that does not stop by itself is told when to"
    return max(caps, default=8192)


def paid(made: Order, fitted: Fitted) -> PaidRequest:
    return PaidRequest(
        id="r", account="a", family=made.family, model="m", price=made.offer.price, hold_msat=fitted.hold_msat,
        available_msat=0, minimum_msat=1, input_bound=made.bounds.input_tokens, output_bound=fitted.output_tokens,
        extent=made.extent, unseen=made.unseen, stream=made.stream, hide_usage=made.hide_usage,
        wants_receipt=True, started_ms=1, usd_per_btc=None,
    )  # fmt: skip


def taken(share: Fraction, whole: int) -> int:
    return int(share * whole)


@given(
    name=st.sampled_from([family.name for family in FAMILIES]), body=BODIES, tariff=TARIFFS, available=st.integers(0, 10**7) | st.just(10**9),
    shares=st.lists(SHARE, min_size=8, max_size=8), reported=st.sampled_from(["all", "input", "none", "suspect"]),
    sent=SENT_FILES, text=st.integers(0, 10**6), end=st.sampled_from(["complete", "cut", "client_left"]), readable=st.booleans(),
)  # fmt: skip
def test_no_request_that_passes_can_cost_more_than_its_hold(
    name: str, body: dict[str, Any], tariff: Tariff, available: int, shares: list[Fraction], reported: str,
    sent: File, text: int, end: End, readable: bool,
) -> None:  # fmt: skip
    """(Incident 22.)"""
    try:
        made = order(next(f for f in FAMILIES if f.name == name), body, tariff, sent)
        fitted = made.fit(available)
    except Failure:
        assume(False)
    given_tokens = taken(shares[0], made.bounds.input_tokens)
    made_tokens = taken(shares[1], cap_sent(made, fitted))
    cached = taken(shares[2], given_tokens)
    written = taken(shares[3], given_tokens - cached)
    media = given_tokens if made.unseen or made.extent.file_tokens else 0
    usage = Usage(
        given_tokens, None if reported == "input" else made_tokens, cached_input=cached, cache_write=written,
        cache_write_1h=taken(shares[4], written), reasoning=taken(shares[5], made_tokens),
        input_audio=taken(shares[6], media), input_image=taken(shares[7], media),
        output_image=made_tokens if made.extent.images else 0, output_audio=made_tokens if made.extent.characters else 0,
        images=taken(shares[4], 2 * made.extent.images), seconds=taken(shares[2], made.extent.seconds),
    )  # fmt: skip
    answer = Metered(
        usage=None if reported == "none" else usage, source="reported", raw_usage=None, complete=True, failed=False,
        deltas=text, text_bytes=text, delivered_bytes=text, suspect=reported == "suspect", readable=readable,
        is_stream=True,
    )  # fmt: skip
    settled = bill(paid(made, fitted), answer, end=end, status=200, first_byte_ms=1, ended_ms=2)
    assert fitted.hold_msat <= max(available, 0)
    assert settled.shortfall_msat == 0
    assert 0 <= settled.cost_msat <= fitted.hold_msat


@given(
    name=st.sampled_from([family.name for family in FAMILIES if family.form]), tariff=TARIFFS, sent=SENT_FILES,
    kind=st.sampled_from(["json", "text"]), usage=st.none() | st.builds(Usage, st.just(None), st.just(None)),
    text=st.integers(0, 10**6), end=st.sampled_from(["complete", "cut", "client_left"]),
)  # fmt: skip
def test_a_form_whose_answer_tells_nothing_is_never_free_and_never_beyond_its_hold(
    name: str, tariff: Tariff, sent: File, kind: str, usage: Usage | None, text: int, end: End
) -> None:
    try:
        made = order(
            next(f for f in FAMILIES if f.name == name), {"model": "open", "response_format": kind}, tariff, sent
        )
        fitted = made.fit(10**12)
    except Failure:
        assume(False)
    answer = Metered(
        usage=usage, source="missing", raw_usage=None, complete=True, failed=False, deltas=0, text_bytes=text,
        delivered_bytes=text + 2, is_stream=False,
    )  # fmt: skip
    settled = bill(paid(made, fitted), answer, end=end, status=200, first_byte_ms=1, ended_ms=2)
    assert settled.shortfall_msat == 0 and 0 < settled.cost_msat <= fitted.hold_msat
