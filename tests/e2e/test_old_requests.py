"""What is left of requests that are older than KEEP_DAYS, as their buyer and the operator see it."""

from __future__ import annotations

import asyncio
import time

from addon.ledger import FILE_NAME, fold
from tests.e2e.conftest import COST, Business


def in_two_years() -> float:
    return time.time() + 730 * 86_400


def test_a_node_sells_on_while_its_old_requests_are_folded_and_the_account_adds_up(business: Business) -> None:
    node, key = business.node, business.account(100)
    asked = [node.chat(key).header("x-routstr-request-id") for _ in range(3)]
    before = node.settled(key)
    assert asyncio.run(fold(node.state / FILE_NAME, keep_days=400, clock=in_two_years)) >= 3
    assert node.info(key) == before
    assert [node.call("GET", f"/v1/receipts/{one}", key=key).status for one in asked] == [404] * 3
    unknown = node.call("GET", "/v1/receipts/none", key=key).json()
    assert (
        node.call("GET", f"/v1/receipts/{asked[0]}", key=key).json()["error"]["message"] == unknown["error"]["message"]
    )
    assert node.chat(key).cost == COST
    node.settled(key)
    charge, day, credit = node.call("GET", "/v1/wallet/history", key=key).json()["transactions"]
    assert (charge["amount_msats"], day["amount_msats"], day["requests"]) == (COST, 3 * COST, 3)
    assert (day["type"], credit["type"], credit["amount_msats"]) == ("charge", "in", 100_000)
    older = node.call("GET", f"/v1/wallet/history?before={day['id']}", key=key).json()
    assert older == {"transactions": [credit], "next": None}
    assert node.proves()
