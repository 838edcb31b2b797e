"""The ladder for missing figures: never free, never above the hold, and the rung is told."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.billing import PaidRequest, bill
from addon.catalog import Tariff
from addon.ledger import End, Settlement
from addon.metering import FAMILIES, Extent, Metered, Unseen, Usage
from addon.pricing import Price, price_in_sats

PRICE = price_in_sats(request=Decimal("0.011"), per_1k_input=Decimal(3), per_1k_output=Decimal(7))
CHAT = FAMILIES[0]
EMBEDDINGS = FAMILIES[2]


def paid(**changes: Any) -> PaidRequest:
    facts: dict[str, Any] = {
        "id": "r", "account": "a", "family": CHAT, "model": "m", "price": PRICE, "usd_per_btc": None, "hold_msat": 10_000, "available_msat": 500,
        "minimum_msat": 1, "input_bound": 2000, "output_bound": 100, "extent": Extent(300), "unseen": Unseen(),
        "stream": True, "hide_usage": True, "wants_receipt": True, "started_ms": 1,
    }  # fmt: skip
    return PaidRequest(**facts | changes)


def metered(**changes: Any) -> Metered:
    facts: dict[str, Any] = {
        "usage": None, "source": "missing", "raw_usage": None, "complete": True, "failed": False, "deltas": 0,
        "text_bytes": 0, "delivered_bytes": 0, "is_stream": True,
    }  # fmt: skip
    return Metered(**facts | changes)


def settle(answer: Metered | None, end: End = "complete", request: PaidRequest | None = None) -> Settlement:
    return bill(request or paid(), answer, end=end, status=200, first_byte_ms=2, ended_ms=3)


def test_reported_figures_are_charged_as_reported() -> None:
    end = settle(metered(usage=Usage(7, 3), source="reported", delivered_bytes=99))
    assert (end.cost_msat, end.usage_source, end.input_tokens, end.output_tokens) == (53, "reported", 7, 3)


def test_a_remaining_balance_is_that_of_the_hold_less_the_cost() -> None:
    assert paid().remaining_msat(53) == 500 + 10_000 - 53


def test_text_without_figures_is_counted_not_free_and_more_text_costs_more() -> None:
    """(Incidents 32, 37.)"""
    costs = [settle(metered(deltas=n, text_bytes=5 * n, delivered_bytes=200 * n)).cost_msat for n in (1, 3, 60)]
    assert costs[0] > 11 and costs[0] < costs[1] < costs[2]
    assert settle(metered(deltas=60, text_bytes=300, delivered_bytes=9999)).usage_source == "counted"
    assert costs[2] >= 11 + 7 * 60


def test_a_client_that_leaves_before_the_first_byte_pays_for_the_question() -> None:
    end = settle(None, "client_left")
    assert (end.cost_msat, end.usage_source, end.output_tokens) == (11 + 3 * 100, "counted", 0)


@pytest.mark.parametrize("end", ["upstream_failed", "cut"])
def test_an_upstream_that_failed_without_an_answer_is_free(end: End) -> None:
    assert settle(None, end).cost_msat == 0


def test_an_error_in_the_answer_before_any_content_is_free_and_after_it_is_not() -> None:
    assert settle(metered(failed=True, delivered_bytes=80)).cost_msat == 0
    assert settle(metered(failed=True, deltas=9, text_bytes=40, delivered_bytes=900)).cost_msat > 11


def test_an_answer_that_cannot_be_read_costs_its_hold() -> None:
    end = settle(metered(readable=False, delivered_bytes=50))
    assert (end.cost_msat, end.usage_source) == (10_000, "reserved")


def test_embeddings_without_figures_cost_their_input_only() -> None:
    end = settle(
        metered(text_bytes=500, delivered_bytes=500, is_stream=False), request=paid(family=EMBEDDINGS, output_bound=0)
    )
    assert (end.cost_msat, end.output_tokens) == (11 + 3 * 100, 0)


def test_an_image_without_figures_costs_as_much_as_one_can_be_and_never_more_than_was_held() -> None:
    """A URL of a hundred bytes can be sixteen thousand tokens. (Incidents 22, 32.)"""
    held = {"hold_msat": 10**6, "extent": Extent(4_000_300), "unseen": Unseen(images=1, bytes=4_000_000)}
    answer = metered(deltas=1, text_bytes=4, delivered_bytes=99)
    assert settle(answer, request=paid(**held, input_bound=50_000)).input_tokens == 100 + 16_384
    assert settle(answer, request=paid(**held, input_bound=8192)).input_tokens == 8192


def test_output_that_the_text_belies_is_counted_and_told() -> None:
    end = settle(metered(usage=Usage(7, 1), source="reported", suspect=True, deltas=50, text_bytes=200))
    assert (end.usage_source, end.input_tokens, end.output_tokens) == ("suspect", 7, 50)


def test_figures_before_a_cut_are_charged_and_the_rest_is_counted() -> None:
    end = settle(metered(usage=Usage(70, None), source="partial", deltas=5, text_bytes=12, delivered_bytes=99), "cut")
    assert (end.usage_source, end.input_tokens, end.output_tokens) == ("partial", 70, 5)


def test_an_image_that_is_priced_by_the_piece_is_charged_beside_its_tokens() -> None:
    priced = Price(Tariff(Decimal(0), Decimal(1), Decimal(2), image_sent=Decimal(500)), Fraction(1))
    request = paid(price=priced, unseen=Unseen(images=3))
    assert (
        settle(metered(usage=Usage(7, 3), source="reported", delivered_bytes=99), request=request).cost_msat
        == 7 + 6 + 1500
    )


IMAGES = next(f for f in FAMILIES if f.name == "images")
SPEECH = next(f for f in FAMILIES if f.name == "speech")


def test_pictures_without_figures_cost_what_they_usually_do_or_their_price_by_the_piece() -> None:
    """(Incident 32.)"""
    asked = {"family": IMAGES, "extent": Extent(30, images=2, made_tokens=9000, usual_tokens=8000)}
    asked |= {"hold_msat": 10**6, "output_bound": 9000}
    answer = metered(usage=Usage(None, None, images=2), source="partial", text_bytes=10**6, delivered_bytes=10**6)
    by_token = settle(answer, request=paid(**asked))
    assert (by_token.output_tokens, by_token.usage_source) == (8000, "counted")
    by_piece = replace(PRICE, tariff=replace(PRICE.tariff, image_made=Decimal(500)))
    assert settle(answer, request=paid(**asked, price=by_piece)).output_msat == 2 * 500
    one = replace(answer, usage=Usage(None, None, images=1))
    assert settle(one, request=paid(**asked, price=by_piece)).output_msat == 500
    assert settle(metered(failed=True, delivered_bytes=80), request=paid(**asked)).cost_msat == 0


def test_speech_costs_its_characters_even_if_the_client_does_not_wait_for_it() -> None:
    asked = {"family": SPEECH, "extent": Extent(30, characters=100, made_tokens=900, usual_tokens=200)}
    asked |= {"hold_msat": 10**6, "output_bound": 900}
    assert settle(metered(delivered_bytes=5000), request=paid(**asked)).output_tokens == 200
    assert settle(None, "client_left", paid(**asked)).output_tokens == 200
    by_piece = replace(PRICE, tariff=replace(PRICE.tariff, character=Decimal(3)))
    said = settle(metered(delivered_bytes=5000), request=paid(**asked, price=by_piece))
    assert said.cost_msat == 11 + 3 * 10 + 3 * 100


HEARD: dict[str, Any] = {
    "family": next(f for f in FAMILIES if f.name == "transcription"), "hold_msat": 10**6, "input_bound": 60_000,
    "extent": Extent(30, made_tokens=22_500, file_tokens=37_500, seconds=1500, usual_seconds=60), "output_bound": 22_500,
}  # fmt: skip
PER_SECOND = replace(PRICE, tariff=Tariff(Decimal(0), Decimal(0), Decimal(0), second=Decimal(4)))


def test_a_recording_is_paid_by_the_second_where_seconds_have_a_price() -> None:
    by_second = paid(**HEARD, price=PER_SECOND)
    told = settle(metered(usage=Usage(0, 0, seconds=9), source="reported", text_bytes=20), request=by_second)
    assert (told.cost_msat, told.usage_source) == (4 * 9, "reported")
    silent = settle(metered(text_bytes=20, delivered_bytes=30), request=by_second)
    assert (silent.cost_msat, silent.usage_source) == (4 * 60, "counted")
    tokens = settle(metered(usage=Usage(600, 5), source="reported", text_bytes=20), request=by_second)
    assert tokens.cost_msat == 4 * 60, "tokens say nothing of seconds"
    assert settle(None, "client_left", by_second).cost_msat == 4 * 60
    assert settle(metered(failed=True, delivered_bytes=80), request=by_second).cost_msat == 0


def test_seconds_that_are_told_where_tokens_are_paid_for_are_ten_tokens_each() -> None:
    told = settle(metered(usage=Usage(0, 0, seconds=9), source="reported", text_bytes=20), request=paid(**HEARD))
    assert (told.input_tokens, told.output_tokens, told.usage_source) == (10 + 10 * 9, 5, "partial")
    dearer = paid(**HEARD, price=replace(PRICE, tariff=replace(PRICE.tariff, input_audio=Decimal(30))))
    assert settle(metered(usage=Usage(0, 0, seconds=9), text_bytes=20), request=dearer).input_msat == 11 + 30 + 30 * 90


def test_a_plain_text_is_counted_whatever_it_looks_like() -> None:
    """A text can be dictated that reads like figures, or like an error. (Incident 37.)"""
    mute = HEARD | {"extent": replace(HEARD["extent"], is_mute=True)}
    answer = metered(usage=Usage(1, 1), source="reported", failed=True, delivered_bytes=6000)
    told = settle(answer, request=paid(**mute))
    assert told.usage_source == "counted"
    assert told.input_tokens == 10 + 10 * 400, "what takes longer to say than the file's size tells, took longer"
    assert told.output_tokens == 1500


def test_figures_beyond_the_hold_are_the_operators_shortfall() -> None:
    end = settle(metered(usage=Usage(10**6, 10**6), source="reported", delivered_bytes=9))
    assert end.cost_msat == 10_000 and end.shortfall_msat == 11 + 10**7 - 10_000


@given(
    usage=st.none() | st.builds(Usage, st.none() | st.integers(0, 10**9), st.none() | st.integers(0, 10**9)),
    text=st.integers(0, 10**7), deltas=st.integers(0, 10**6), failed=st.booleans(), readable=st.booleans(),
    end=st.sampled_from(["complete", "cut", "client_left", "upstream_failed", "drained"]),
)  # fmt: skip
def test_no_answer_costs_more_than_its_hold_and_no_text_is_free(
    usage: Usage | None, text: int, deltas: int, failed: bool, readable: bool, end: End
) -> None:
    answer = metered(
        usage=usage, text_bytes=text, deltas=deltas, failed=failed, readable=readable, delivered_bytes=text
    )
    settled = settle(answer, end)
    assert 0 <= settled.cost_msat <= settled.hold_msat
    assert settled.input_msat >= 0 and settled.output_msat >= 0
    if text:
        assert settled.cost_msat >= 11
