"""A token in X-Cashu pays one request: what it did not cost comes back, whatever happens on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_errors import REQUEST, told
from tests.parts.upstream import DONE, Upstream, chunk, stream, until

EVENT = ("X-Cashu-Change", "event")


def pay(node: Node, token: str, do: str = "", headers: tuple[tuple[str, str], ...] = (), **body: Any) -> Answer:
    return node.chat(None, do, headers=[("X-Cashu", token), *headers], **body)


def recall(node: Node, token: str) -> Answer:
    return node.call("POST", "/v1/wallet/refund", None, [("X-Cashu", token)])


def change_sats(business: Business, answer: Answer) -> int:
    """What the change in an answer's header is worth at the mint; it is claimed there."""
    token = answer.header("x-cashu")
    return 0 if token is None else business.buyer.receive(token)


def left(paid: int, cost_msat: int) -> int:
    return paid - -(-cost_msat // 1000)


def test_an_answer_brings_the_change_in_its_header(business: Business) -> None:
    answer = pay(business.node, business.buyer.token(20))
    assert answer.status == 200 and answer.cost == COST
    assert change_sats(business, answer) == left(20, COST)
    assert business.node.proves()


@pytest.mark.parametrize("paid", [5, 7, 8, 31, 64, 100])
def test_the_change_is_exact_whatever_was_paid(business: Business, paid: int) -> None:
    answer = pay(business.node, business.buyer.token(paid), max_tokens=50)
    assert answer.status == 200 and change_sats(business, answer) == left(paid, answer.cost)


def test_a_stream_waits_for_its_end_and_brings_the_change_in_its_header(business: Business) -> None:
    """Deployed clients expect it there."""
    answer = pay(business.node, business.buyer.token(20), stream=True)
    assert answer.status == 200 and "event-stream" in (answer.header("content-type") or "")
    assert DONE in answer.body and b'"usage": {"prompt_tokens"' not in answer.body
    assert change_sats(business, answer) == left(20, answer.receipt["total_msats"]) and "change" not in answer.receipt


def test_a_live_stream_brings_the_change_behind_its_end(business: Business) -> None:
    name, go_on = business.name(), threading.Event()
    do = business.upstream.on(name, chunk("first "), go_on, *stream()[1:], kind="text/event-stream", chunked=True)
    headers = [("X-Cashu", business.buyer.token(20)), EVENT]
    with ThreadPoolExecutor() as pool:
        early = pool.submit(business.node.chat, None, do, headers, until_bytes=b"first", stream=True)
        assert b"first" in early.result(20).body  # it did not wait for the end
        go_on.set()
    answer = pay(business.node, business.buyer.token(20), headers=(EVENT,), stream=True)
    receipt = answer.receipt
    change = receipt["change"]
    assert answer.header("x-cashu") is None and change["unit"] == "sat"
    assert business.buyer.receive(change["token"]) == change["amount"] == left(20, receipt["total_msats"])
    until(business.node.proves, "the books")


def test_an_answer_that_was_lost_is_told_by_its_token(business: Business) -> None:
    """(Incident: a connection that broke took the change with it.)"""
    token = business.buyer.token(20)
    first = pay(business.node, token)
    again = [recall(business.node, token) for _ in range(3)]
    assert {a.status for a in again} == {200} and {a.json()["token"] for a in again} == {first.header("x-cashu")}
    assert again[0].json()["sats"] == str(left(20, COST))


def test_the_refund_call_never_gives_a_spent_token_back(business: Business) -> None:
    spent = business.buyer.token(20)
    assert business.node.create(spent).status == 200
    answer = recall(business.node, spent)
    told(answer, 404, REQUEST, "payment_not_found")
    assert answer.header("x-cashu") is None


def test_while_it_runs_the_refund_call_says_so_and_a_client_that_left_gets_its_change(business: Business) -> None:
    token, name, go_on = business.buyer.token(50), business.name(), threading.Event()
    do = business.upstream.on(name, chunk("a "), go_on, *stream()[1:], kind="text/event-stream", chunked=True)
    answer = pay(business.node, token, do, headers=(EVENT,), stream=True, until_bytes=b"a ")
    assert answer.status == 200
    go_on.set()
    told_ = until(lambda: (a := recall(business.node, token)).status == 200 and a, "the change")
    assert 0 < business.buyer.receive(told_.json()["token"]) < 50


def test_running(business: Business) -> None:
    token, name, go_on = business.buyer.token(50), business.name(), threading.Event()
    do = business.upstream.on(name, chunk("a "), go_on, *stream()[1:], kind="text/event-stream", chunked=True)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(pay, business.node, token, do, stream=True)
        business.upstream.wait_for(name)
        told(recall(business.node, token), 425, REQUEST, "payment_running")
        go_on.set()
        assert answer.result(20).status == 200


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
def test_an_upstreams_refusal_brings_everything_back(business: Business, status: int) -> None:
    do = business.upstream.on(business.name(), b'{"error": "no"}', status=status)
    answer = pay(business.node, business.buyer.token(20), do)
    assert (answer.status, answer.body) == (status, b'{"error": "no"}')
    assert change_sats(business, answer) == 20


@pytest.mark.parametrize("pieces", [("cut-head",), (b'{"id"', "cut")])
def test_an_upstream_that_breaks_brings_everything_back(business: Business, pieces: tuple[Any, ...]) -> None:
    answer = pay(business.node, business.buyer.token(20), business.upstream.on(business.name(), *pieces, chunked=True))
    told(answer, 502, "upstream_error", "upstream_error")
    assert change_sats(business, answer) == 20


def test_while_the_upstream_is_away_no_token_is_spent(own: Callable[..., Node], business: Business) -> None:
    gone = Upstream()
    gone.start()
    node = own(upstream=gone.url).start()
    gone.stop()
    token = business.buyer.token(20)
    for _ in range(2):
        answer = pay(node, token)
        told(answer, 502, "upstream_error", "upstream_error")
        assert answer.header("x-cashu") == token
    assert business.buyer.receive(token) == 20


# --- the token itself -------------------------------------------------------------------------------


def test_a_token_that_is_too_small_stays_the_clients(business: Business) -> None:
    token, before = business.buyer.token(1), business.forwarded()
    answer = pay(business.node, token, model="vendor/Big", max_tokens=4000)
    error = told(answer, 402, "insufficient_quota", "insufficient_balance")
    assert error["amount_required_msat"] > 1000 and error["model"] == "vendor/Big"
    assert answer.header("x-cashu") == token and business.buyer.receive(token) == 1
    assert business.forwarded() == before


def test_all_of_a_small_token_may_be_held(business: Business) -> None:
    """Nothing else is asked of it: the cap is lowered to what all of it affords, not half."""
    key = business.account(3)
    halved = business.node.chat(key, max_tokens=2000).header("x-routstr-max-tokens")
    whole = pay(business.node, business.buyer.token(3), max_tokens=2000).header("x-routstr-max-tokens")
    assert int(whole or 2000) > int(halved or 0)


def test_a_token_pays_once(business: Business) -> None:
    token = business.buyer.token(20)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: pay(business.node, token), range(6)))
    served = [a for a in answers if a.status == 200]
    assert len(served) == 1
    for answer in answers:
        if answer not in served:
            assert answer.status in (400, 503) and answer.header("x-cashu") is None
            assert "/v1/wallet/refund" in answer.json()["error"]["message"]
    again = pay(business.node, token)
    error = told(again, 400, "token_already_spent", "cashu_token_already_spent")
    assert "/v1/wallet/refund" in error["message"] and again.header("x-cashu") is None


def test_a_single_payments_token_opens_no_account_and_an_accounts_pays_none(business: Business) -> None:
    token = business.buyer.token(20)
    assert pay(business.node, token).status == 200
    assert business.node.create(token).json()["error"]["code"] == "cashu_token_already_spent"
    assert business.node.chat(token).json()["error"]["code"] == "cashu_token_already_spent"
    other = business.buyer.token(20)
    assert business.node.create(other).status == 200
    told(pay(business.node, other), 400, "token_already_spent", "cashu_token_already_spent")


def test_it_wins_over_other_credentials(business: Business) -> None:
    key = business.account(20)
    token = business.buyer.token(20)
    answer = business.node.chat(key, headers=[("X-Cashu", token)])
    assert answer.status == 200 and change_sats(business, answer) == left(20, COST)
    assert business.node.info(key)["balance"] == 20_000


@pytest.mark.parametrize("path", ["/v1/wallet/info", "/v1/wallet/topup", "/v1/wallet/create", "/v1/wallet/history"])
def test_account_calls_leave_it_alone(business: Business, path: str) -> None:
    token = business.buyer.token(2)
    method = "GET" if path.endswith(("info", "history")) else "POST"
    answer = business.node.call(method, path, None, [("X-Cashu", token)])
    told(answer, 400, REQUEST, "unsupported_parameter")
    assert answer.header("x-cashu") == token and business.buyer.receive(token) == 2


@pytest.mark.parametrize("token", ["cashuB", "cashuBnonsense", "sk-1", "x" * 3000])
def test_what_is_no_token_is_named_and_given_back(business: Business, token: str) -> None:
    answer = pay(business.node, token)
    assert answer.json()["error"]["code"] == "invalid_cashu_token" and answer.header("x-cashu") == token
    assert answer.status == 400


def test_a_token_that_was_never_used_here_is_not_known_to_the_refund_call(business: Business) -> None:
    token = business.buyer.token(2)
    told(recall(business.node, token), 404, REQUEST, "payment_not_found")
    assert business.buyer.receive(token) == 2


def test_after_a_crash_everything_is_told_by_the_token(own: Callable[..., Node], business: Business) -> None:
    node = own().start()
    token, name = business.buyer.token(30), business.name()
    do = business.upstream.on(name, chunk("a "), "hang", kind="text/event-stream", chunked=True)
    with ThreadPoolExecutor() as pool:
        pool.submit(pay, node, token, do, stream=True)
        business.upstream.wait_for(name)
        node.kill()
    node.restart()
    answer = until(lambda: (a := recall(node, token)).status == 200 and a, "the refund")
    assert business.buyer.receive(answer.json()["token"]) == 30 and node.proves()


def test_no_flow_keeps_a_change_token(own: Callable[..., Node], business: Business, tmp_path: Path) -> None:
    flows = tmp_path / "flows"
    node = own(options=["-w", str(flows)]).start()
    answers = [
        pay(node, business.buyer.token(20)),
        pay(node, business.buyer.token(20), stream=True),
        pay(node, business.buyer.token(20), business.upstream.on(business.name(), b"{}", status=500)),
    ]
    live = pay(node, business.buyer.token(20), headers=(EVENT,), stream=True)
    node.stop()
    written = flows.read_bytes()
    for token in [*(a.header("x-cashu") or "" for a in answers), live.receipt["change"]["token"]]:
        assert token.startswith("cashu") and token.encode() not in written and token not in node.logs()


def test_one_connection_carries_many(business: Business) -> None:
    """A client's pool keeps its connection."""
    import http.client

    line = http.client.HTTPConnection("127.0.0.1", business.node.port)
    try:
        for _ in range(3):
            body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hi"}]})
            line.request("POST", "/v1/chat/completions", body, {"X-Cashu": business.buyer.token(20)})
            answer = line.getresponse()
            assert answer.status == 200 and answer.read() and answer.getheader("X-Cashu")
            assert (answer.getheader("connection") or "").lower() != "close"
    finally:
        line.close()
