"""An account's key can be changed; its history is told page by page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_account import CALLS, account_call, opened
from tests.e2e.test_errors import REQUEST, told
from tests.parts.upstream import whole


def test_a_new_key_takes_the_account_over_and_the_old_ones_stop_at_once(business: Business) -> None:
    node, (token, first) = business.node, opened(business, 200)
    request_id = node.chat(token).header("x-routstr-request-id")
    answer = node.call("POST", "/v1/wallet/rotate", key=token)
    assert answer.status == 200 and list(answer.json()) == ["api_key"]
    second = answer.json()["api_key"]
    third = node.call("POST", "/balance/rotate", {}, key=second).json()["api_key"]
    assert len({first, second, third}) == 3 and all(key.startswith("sk-") for key in (second, third))
    for old in (token, first, second):
        for method, path in CALLS:
            told(account_call(node, method, "/v1/wallet" + path, old), 401, REQUEST, "invalid_api_key")
        told(node.chat(old), 401, REQUEST, "invalid_api_key")
        assert node.call("GET", f"/v1/receipts/{request_id}", key=old).status == 401
    told(node.create(token), 400, "token_already_spent", "cashu_token_already_spent")
    info = node.info(third)
    assert (info["api_key"], info["balance"], info["total_requests"]) == (third, 200_000 - COST, 1)
    assert node.call("GET", f"/v1/receipts/{request_id}", key=third).json()["total_msats"] == COST
    assert node.chat(third).cost == COST
    refund = node.call("POST", "/v1/wallet/refund", key=third).json()
    assert business.buyer.receive(refund["token"]) == 199


def test_a_request_that_runs_while_the_key_changes_is_settled_as_usual(business: Business) -> None:
    (_, old), name, go = opened(business), business.name(), threading.Event()
    do, answers = business.upstream.on(name, go, whole(), chunked=True), list[Answer]()
    asking = threading.Thread(target=lambda: answers.append(business.node.chat(old, do)))
    asking.start()
    try:
        business.upstream.wait_for(name)
        new = business.node.call("POST", "/v1/wallet/rotate", key=old).json()["api_key"]
        assert business.node.info(new)["reserved"] > 0
    finally:
        go.set()
        asking.join()
    assert answers[0].cost == COST and business.node.settled(new)["balance"] == 50_000 - COST


def test_of_two_changes_at_once_one_wins_and_the_key_that_was_told_works(business: Business) -> None:
    _, key = opened(business)
    answers: list[Answer] = []
    turn = [threading.Thread(target=lambda: answers.append(account_call(business.node, "POST", "/v1/wallet/rotate", key)))
            for _ in range(6)]  # fmt: skip
    for thread in turn:
        thread.start()
    for thread in turn:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] + [401] * 5
    (new,) = [answer.json()["api_key"] for answer in answers if answer.status == 200]
    assert business.node.info(new)["balance"] == 50_000


def test_a_changed_key_lives_on_after_a_restart_and_no_key_stands_in_the_state(
    own: Callable[..., Node], business: Business
) -> None:
    """(Incident 63: the database held spendable keys.)"""
    node = own().start()
    token = business.buyer.token(40)
    first = node.create(token).json()["api_key"]
    second = node.call("POST", "/v1/wallet/rotate", key=first).json()["api_key"]
    assert node.stop() == 0
    kept = b"".join(path.read_bytes() for path in node.state.rglob("*") if path.is_file())
    kept += node.logs().encode()
    assert not [secret for secret in (token, first, second) if secret.encode() in kept or secret[3:].encode() in kept]
    node.restart()
    assert node.info(second)["balance"] == 40_000
    told(node.call("GET", "/v1/wallet/info", key=first), 401, REQUEST, "invalid_api_key")


def pages(node: Node, key: str, limit: int) -> list[list[dict[str, Any]]]:
    """All of an account's history, page by page."""
    found, query = list[list[dict[str, Any]]](), f"limit={limit}"
    while True:
        page = node.call("GET", f"/v1/wallet/history?{query}", key=key).json()
        found.append(page["transactions"])
        if page["next"] is None:
            return found
        query = f"limit={limit}&before={page['next']}"


def test_history_tells_every_movement_once_page_by_page_newest_first(business: Business) -> None:
    node, (_, key) = business.node, opened(business, 100)
    asked = [node.chat(key).header("x-routstr-request-id") for _ in range(3)]
    node.call("POST", "/v1/wallet/topup", {"cashu_token": business.buyer.token(10)}, key=key)
    node.settled(key)
    refund = int(node.call("POST", "/v1/wallet/refund", key=key).json()["sats"])
    whole_history = node.call("GET", "/v1/wallet/history", key=key).json()
    transactions = whole_history["transactions"]
    assert [(t["type"], t["amount_msats"]) for t in transactions] == [
        ("out", refund * 1000), ("in", 10_000), *[("charge", COST)] * 3, ("in", 100_000),
    ]  # fmt: skip
    assert [t["request_id"] for t in transactions if t["type"] == "charge"] == asked[::-1]
    assert {t["model"] for t in transactions if t["type"] == "charge"} == {"small"}
    assert all((t["mint"], t["unit"]) == (business.mint, "sat") for t in transactions if t["type"] != "charge")
    assert all(abs(t["created_at"] - time.time()) < 600 for t in transactions) and whole_history["next"] is None
    signs = {"in": 1, "out": -1, "charge": -1}
    assert sum(signs[t["type"]] * t["amount_msats"] for t in transactions) == node.info(key)["balance"]
    for limit, sizes in ((1, [1] * 6), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (200, [6])):
        paged = pages(node, key, limit)
        assert [len(page) for page in paged] == sizes and [t for page in paged for t in page] == transactions


def test_a_page_does_not_shift_when_something_happens_in_between(business: Business) -> None:
    node, (_, key) = business.node, opened(business, 100)
    for _ in range(3):
        node.chat(key)
    node.settled(key)
    first = node.call("GET", "/v1/wallet/history?limit=2", key=key).json()
    node.chat(key)
    node.settled(key)
    second = node.call("GET", f"/v1/wallet/history?limit=2&before={first['next']}", key=key).json()
    ids = [t["id"] for t in first["transactions"] + second["transactions"]]
    assert len(set(ids)) == 4 and second["transactions"][-1]["type"] == "in" and second["next"] is None


def test_what_history_cannot_answer_is_named(business: Business) -> None:
    node, (_, key), (_, other) = business.node, opened(business), opened(business)
    for limit in ("0", "-1", "201", "x", "", "1.5", "9" * 30):
        answer = node.call("GET", f"/v1/wallet/history?limit={limit}", key=key)
        assert told(answer, 400, REQUEST, "invalid_parameter")["param"] == "limit"
    foreign = node.call("GET", "/v1/wallet/history", key=other).json()["transactions"][0]["id"]
    for before in (foreign, "", "x", "1", "credit-", "%00", "charge-' OR 1=1"):
        answer = node.call("GET", f"/v1/wallet/history?before={before.replace(' ', '%20')}", key=key)
        assert told(answer, 400, REQUEST, "invalid_parameter")["param"] == "before"
