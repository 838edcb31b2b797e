"""Keys and tokens pay; what is charged is what is told, to the msat."""

from __future__ import annotations

import base64
import json
from decimal import Decimal

import cbor2
import pytest

from addon.tokens import decode
from scripts.payer import Payer
from tests.e2e.conftest import COST, UPSTREAM_KEY, Business, Node
from tests.parts.upstream import chunk, stream, usage, whole


def v3(token: str) -> str:
    """The same coins in the older form."""
    read = decode(token)
    coins = [{"id": p.keyset, "amount": p.amount, "secret": p.secret, "C": p.C} for p in read.proofs]
    document = {"token": [{"mint": read.mint, "proofs": coins}], "unit": read.unit}
    return "cashuA" + base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


@pytest.mark.parametrize("form", ["v4", "v3"])
def test_a_token_pays_as_a_bearer_and_stays_the_key_of_its_account(business: Business, form: str) -> None:
    token = business.buyer.token(100)
    shown = v3(token) if form == "v3" else token
    assert [business.node.chat(shown).cost for _ in range(2)] == [COST, COST]
    assert business.buyer.states(token) == {"SPENT"}
    assert business.node.info(shown)["balance"] == 100_000 - 2 * COST


def test_a_token_stops_being_a_key_when_its_accounts_key_is_first_used(business: Business) -> None:
    """Whoever made the token, and the mint, know that string."""
    token = business.buyer.token(50)
    key = business.node.create(token).json()["api_key"]
    assert business.node.create(token).json()["api_key"] == key, "the same key as long as it was not used"
    assert business.node.info(token)["api_key"] == key
    assert business.node.info(key)["balance"] == 50_000
    assert business.node.chat(token).status == 401
    assert business.node.create(token).json()["error"]["code"] == "cashu_token_already_spent"


def test_x_api_key_pays_and_both_headers_of_one_account_do_too(business: Business) -> None:
    key = business.account()
    assert business.node.chat(None, headers=[("x-api-key", key)]).status == 200
    assert business.node.chat(key, headers=[("x-api-key", key)]).status == 200
    assert business.node.chat(key, headers=[("x-api-key", "sk-" + "0" * 64)]).status == 200, (
        "the one that is known pays"
    )


def test_without_a_credential_a_wallet_is_told_what_to_pay(business: Business) -> None:
    answer = business.node.chat(None)
    assert answer.status == 402
    request = cbor2.loads(base64.urlsafe_b64decode((answer.header("x-cashu") or "")[5:] + "=="))
    assert request["u"] == "sat" and request["m"] == [business.mint]
    enough = business.buyer.token(request["a"])
    assert business.node.chat(enough).status == 200, "the amount that was asked for serves this very request"
    needed = answer.json()["error"]["amount_required_msat"]
    assert 1000 * (request["a"] - 1) < needed <= 1000 * request["a"]


def test_a_stream_is_the_upstreams_bytes_and_then_a_receipt(business: Business) -> None:
    key, name = business.account(), business.name()
    do = business.upstream.on(name, *stream(50, 9), kind="text/event-stream", chunked=True)
    answer = business.node.chat(key, do, stream=True, stream_options={"include_usage": True})
    sent = b"".join(stream(50, 9))
    assert answer.body.startswith(sent) and answer.body[len(sent) :].count(b"data: ") == 1
    receipt = answer.receipt
    assert receipt["total_msats"] == receipt["input_msats"] + receipt["output_msats"] == 11 + 3 * 50 + 7 * 9
    assert (receipt["input_tokens"], receipt["output_tokens"], receipt["usage_source"]) == (50, 9, "reported")
    assert (
        business.node.settled(key)["balance"] == receipt["remaining_balance_msats"] == 100_000 - receipt["total_msats"]
    )
    assert receipt["total_usd"] == pytest.approx(float(Decimal(receipt["total_msats"]) / 10**6))


def test_usage_that_only_we_asked_for_is_hidden_and_the_upstream_was_asked(business: Business) -> None:
    key, name = business.account(), business.name()
    do = business.upstream.on(name, *stream(50, 9), kind="text/event-stream", chunked=True)
    answer = business.node.chat(key, do, stream=True)
    assert b'"usage"' not in answer.body.rsplit(b"\n\ndata: ", 1)[0]
    assert answer.cost == 11 + 3 * 50 + 7 * 9
    assert business.upstream.seen(name)[0].json()["stream_options"] == {"include_usage": True}


def test_an_answer_streamed_and_whole_costs_the_same(business: Business) -> None:
    key = business.account()
    do = business.upstream.on(business.name(), whole(40, 5))
    streamed = business.upstream.on(business.name(), *stream(40, 5), kind="text/event-stream", chunked=True)
    assert business.node.chat(key, do).cost == business.node.chat(key, streamed, stream=True).cost


def test_an_account_adds_up_and_its_receipts_are_its_own(business: Business) -> None:
    key, other = business.account(300), business.account()
    told = 0
    for n in range(6):
        do = business.upstream.on(business.name(), whole(n * 17 + 1, n))
        answer = business.node.chat(key, do)
        told += answer.cost
        request_id = answer.header("x-routstr-request-id")
        receipt = business.node.call("GET", f"/v1/receipts/{request_id}", key=key).json()
        assert (
            receipt["total_msats"] == answer.cost
            and receipt["usage"] == usage(n * 17 + 1, n)
            and receipt["model"] == "small"
        )
        assert business.node.call("GET", f"/v1/receipts/{request_id}", key=other).status == 404
    info = business.node.settled(key)
    assert (info["total_spent"], info["balance"], info["total_requests"]) == (told, 300_000 - told, 6)
    history = business.node.call("GET", "/v1/balance/history", key=key).json()["transactions"]
    assert sum(t["amount_msats"] for t in history if t["type"] == "charge") == told


def test_a_client_that_wants_no_receipt_gets_none(business: Business) -> None:
    key = business.account()
    do = business.upstream.on(business.name(), *stream(), kind="text/event-stream", chunked=True)
    answer = business.node.chat(
        key, do, headers=[("X-Routstr-Receipt", "none")], stream=True, stream_options={"include_usage": True}
    )
    assert answer.body == b"".join(stream())


def test_what_was_changed_in_a_request_is_told(business: Business) -> None:
    answer = business.node.chat(business.account(), max_tokens=9000, keep_alive=-1, id_slot=3)
    assert answer.header("x-routstr-max-tokens") == "256"
    assert answer.header("x-routstr-dropped-params") == "keep_alive, id_slot"


def test_embeddings_and_legacy_completions_are_metered(business: Business) -> None:
    key = business.account()
    body = json.dumps(
        {"object": "list", "data": [], "model": "m", "usage": {"prompt_tokens": 21, "total_tokens": 21}}
    ).encode()
    do = business.upstream.on(business.name(), body)
    answer = business.node.call("POST", "/v1/embeddings", {"model": "small", "input": do}, key=key)
    assert answer.cost == 11 + 3 * 21 and answer.body == body
    do = business.upstream.on(business.name(), *stream(5, 2), kind="text/event-stream", chunked=True)
    answer = business.node.call("POST", "/completions", {"model": "small", "prompt": do, "stream": True}, key=key)
    assert answer.cost == 11 + 3 * 5 + 7 * 2


def test_only_the_operators_credential_reaches_the_upstream(business: Business) -> None:
    """(Incident 71: cookies, forwarded addresses and keys of clients leaked.)"""
    key, name = business.account(), business.name()
    do = business.upstream.on(name, whole())
    private = [("Cookie", "c=SECRET"), ("X-Forwarded-For", "203.0.113.9"), ("X-Conversation-Id", "x"), ("Origin", "https://a"),
               ("User-Agent", "SECRET"), ("x-api-key", key), ("Refund-LNURL", "me@secret.example")]  # fmt: skip
    assert business.node.chat(key, do, headers=private).status == 200
    (received,) = business.upstream.seen(name)
    assert [v for k, v in received.headers if k.lower() == "authorization"] == [f"Bearer {UPSTREAM_KEY}"]
    head = str(received.headers)
    assert key not in head and "SECRET" not in head and "203.0" not in head and "onversation" not in head
    assert received.header("host") == f"127.0.0.1:{business.upstream.port}"


def test_a_refund_is_claimable_told_again_and_leaves_the_rest_below_a_sat(business: Business) -> None:
    key = business.account(50)
    business.node.chat(key)
    business.node.settled(key)
    first = business.node.call("POST", "/v1/wallet/refund", key=key).json()
    assert first["sats"] == "49" and business.buyer.receive(first["token"]) == 49
    assert business.node.call("POST", "/v1/wallet/refund", key=key).json()["token"] == first["token"]
    assert business.node.info(key)["balance"] == 1000 - COST
    business.node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(20)}, key=key)
    second = business.node.call("POST", "/v1/balance/refund", key=key).json()
    assert second["token"] != first["token"] and business.buyer.receive(second["token"]) == 20


def test_a_refund_waits_for_running_requests_with_the_words_that_clients_match(business: Business) -> None:
    import threading

    key, name, go = business.account(), business.name(), threading.Event()
    do = business.upstream.on(name, go, whole(), chunked=True)
    asking = threading.Thread(target=lambda: business.node.chat(key, do))
    asking.start()
    try:
        business.upstream.wait_for(name)
        answer = business.node.call("POST", "/v1/wallet/refund", key=key)
        assert answer.json()["error"]["message"] == "Cannot refund key. There are ongoing requests for this api key."
    finally:
        go.set()
        asking.join()
    business.node.settled(key)
    assert business.node.call("POST", "/v1/wallet/refund", key=key).status == 200


def test_an_account_in_msat_is_refunded_in_msat(business: Business) -> None:
    """(Incident 45: the units were confused six times.)"""
    buyer = Payer(business.mint, "msat")
    key = business.node.create(buyer.token(7_777)).json()["api_key"]
    refund = business.node.call("POST", "/v1/wallet/refund", key=key).json()
    assert refund["msats"] == "7777" and buyer.receive(refund["token"]) == 7_777


def test_models_in_usd_are_charged_at_their_own_price(own: object, business: Business) -> None:
    """1e-6 USD at 100,000 USD a bitcoin is 1 msat; fees of 1."""
    node: Node = own(MODEL_BASED_PRICING="true", EXCHANGE_FEE="1", UPSTREAM_PROVIDER_FEE="1").start()  # type: ignore[operator]
    key = business.account(200, node)
    do = business.upstream.on(business.name(), whole(7, 3))
    assert node.chat(key, do).cost == 7 * 1 + 3 * 3
    assert node.chat(key, do, model="vendor/Big").cost == 100 + 7 * 2 + 3 * 10
    sats = {m["id"]: m["sats_pricing"] for m in node.call("GET", "/v1/models").json()["data"]}
    assert sats["small"]["prompt"] == 0.001 and sats["small"]["max_completion_cost"] == 256 * 0.003


def test_an_event_of_megabytes_passes_and_its_figures_are_found(business: Business) -> None:
    key = business.account(200)
    big = chunk("Q" * 3_000_000, "stop")
    pieces = (big[:70_000], big[70_000:], chunk(None, choices=[], usage=usage(7, 200)), b"data: [DONE]\n\n")
    do = business.upstream.on(business.name(), *pieces, kind="text/event-stream", chunked=True)
    answer = business.node.chat(key, do, stream=True, max_tokens=250, stream_options={"include_usage": True})
    assert answer.body.startswith(b"".join(pieces)) and answer.cost == 11 + 3 * 7 + 7 * 200
