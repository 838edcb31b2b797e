"""An account's money back, as it was asked for, or not at all."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from scripts.payer import Payer
from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_account import opened
from tests.e2e.test_errors import REQUEST, told
from tests.parts.upstream import whole


def refund(node: Node, key: str, body: Any = None) -> Answer:
    return node.call("POST", "/v1/wallet/refund", body, key=key)


@pytest.mark.parametrize("body", [None, {}, {"to": None}, {"to": "token"}, b"  "])
def test_a_refund_may_ask_for_a_token_in_words(business: Business, body: Any) -> None:
    _, key = opened(business, 9)
    answer = refund(business.node, key, body)
    assert answer.status == 200 and business.buyer.receive(answer.json()["token"]) == 9


def test_a_refund_that_would_not_be_what_was_asked_for_takes_nothing(business: Business) -> None:
    _, key = opened(business, 9)
    for body, named in (({"to": "lightning"}, "to"), ({"to": 5}, "to"), ({"to": ["token"]}, "to"), ({"To": "token"}, "To"),
                        ({"to": "token", "amount": 5}, "amount"), ({"refund_address": "me@example.com"}, "refund_address")):  # fmt: skip
        assert told(refund(business.node, key, body), 400, REQUEST, "invalid_parameter")["param"] == named
    for raw in (b"{", b"[]", b"token", b'{"to":"token","to":"x"}', b"\xff"):
        told(refund(business.node, key, raw), 400, REQUEST, "invalid_json")
    told(refund(business.node, key, b'{"to":"%s"}' % (b"x" * (300 << 10))), 413, REQUEST, "body_too_large")
    assert business.node.info(key)["balance"] == 9000


def test_a_refund_names_every_token_since_the_last_top_up(business: Business) -> None:
    """Coins of two kinds come back in two calls; the calls after tell both again. (Incident 40: an old token.)"""
    node, (_, key), exact = business.node, opened(business, 30), Payer(business.mint, "msat")
    node.call("POST", "/v1/wallet/topup", {"cashu_token": exact.token(7777)}, key=key)
    first, second, again = (refund(node, key).json() for _ in range(3))
    assert (first["sats"], first["tokens"]) == ("30", [first["token"]])
    assert (second["msats"], second["tokens"]) == ("7777", [first["token"], second["token"]])
    assert again == second and node.info(key)["balance"] == 0
    assert (business.buyer.receive(first["token"]), exact.receive(second["token"])) == (30, 7777)
    node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(12)}, key=key)
    fresh = refund(node, key).json()
    assert (fresh["sats"], fresh["tokens"]) == ("12", [fresh["token"]]) and business.buyer.receive(fresh["token"]) == 12


def test_nothing_to_refund_is_told_in_the_words_that_clients_match(business: Business) -> None:
    """Less than a sat is left, and stays on the key. (Incident 46: the rest was confiscated.)"""
    _, key = opened(business, 4)
    do = business.upstream.on(business.name(), whole(100, 400))
    assert business.node.chat(key, do).cost == 11 + 3 * 100 + 7 * 400
    left = business.node.settled(key)["balance"]
    assert 0 < left < 1000
    error = told(refund(business.node, key), 400, REQUEST, "no_balance")
    assert error["message"] == "No balance to refund" and business.node.info(key)["balance"] == left
    business.node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(3)}, key=key)
    assert business.buyer.receive(refund(business.node, key).json()["token"]) == 3
    assert business.node.info(key)["balance"] == left


def test_a_refund_beside_a_running_request_is_told_in_the_words_that_clients_match(business: Business) -> None:
    """(Incident 41: it took the money that was held.)"""
    (_, key), name, go = opened(business), business.name(), threading.Event()
    asking = threading.Thread(
        target=lambda: business.node.chat(key, business.upstream.on(name, go, whole(), chunked=True))
    )
    asking.start()
    try:
        business.upstream.wait_for(name)
        error = told(refund(business.node, key), 400, REQUEST, "requests_running")
        assert error["message"] == "Cannot refund key. There are ongoing requests for this api key."
    finally:
        go.set()
        asking.join()
    assert business.node.settled(key)["balance"] == 50_000 - COST
