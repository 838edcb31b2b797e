"""Money that leaves over Lightning, as clients and the operator see it: the node by its command, a real mint."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from scripts.realparts import PartFailed
from tests.e2e.conftest import Business, Node
from tests.e2e.test_errors import REQUEST, told
from tests.parts.lnurl import Payee
from tests.parts.upstream import until


@pytest.fixture
def payee() -> Iterator[Payee]:
    """The host of an address, in a thread of its own."""
    made, loop = Payee(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(made.up(), loop).result(10)
    yield made
    loop.call_soon_threadsafe(made.down)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    with contextlib.suppress(RuntimeError):
        loop.close()


SETTINGS = {"LNURL_ALLOW_PRIVATE": "true", "REFUND_PROCESSING_INTERVAL": "0"}


def opened(business: Business, node: Node, sats: int, *headers: tuple[str, str]) -> str:
    """A key with so many sat, on these terms."""
    token = business.buyer.token(sats)
    answer = node.call("POST", "/v1/wallet/create", {"initial_balance_token": token}, list(headers))
    assert answer.status == 200, answer.body
    return str(answer.json()["api_key"])


def test_a_refund_goes_to_the_address_that_the_key_was_opened_with(
    business: Business, own: Callable[..., Node], payee: Payee
) -> None:
    """(Incident 50: the header was ignored for a year.)"""
    node = own(**SETTINGS).start()
    key = opened(business, node, 100, ("refund-lnurl", payee.address))
    answer = node.call("POST", "/v1/balance/refund", None, key=key)
    assert (answer.status, answer.json()) == (200, {"recipient": payee.address, "sats": "98"})
    assert payee.asked == [98_000] and node.info(key)["balance"] == 1_000
    moved = node.call("GET", "/v1/wallet/history", key=key).json()["transactions"]
    assert [(one["type"], one["amount_msats"]) for one in moved] == [
        ("in", 1_000), ("out", 2_000), ("out", 98_000), ("in", 100_000)
    ]  # fmt: skip
    assert node.proves()


def test_who_wants_a_token_all_the_same_gets_one(business: Business, own: Callable[..., Node], payee: Payee) -> None:
    node = own(**SETTINGS).start()
    key = opened(business, node, 100, ("Refund-LNURL", payee.address))
    answer = node.call("POST", "/v1/wallet/refund", {"to": "token"}, key=key)
    assert business.buyer.receive(answer.json()["token"]) == 100 and payee.paths == []


def test_an_address_that_cannot_be_paid_is_told_and_nothing_is_taken(
    business: Business, own: Callable[..., Node], payee: Payee
) -> None:
    node = own(**SETTINGS).start()
    key = opened(business, node, 100, ("Refund-LNURL", payee.address))
    payee.offer = lambda told: {"status": "ERROR", "reason": "<b>no</b>"}
    error = told(node.call("POST", "/v1/wallet/refund", None, key=key), 400, REQUEST, "invalid_parameter")
    assert error["param"] == "Refund-LNURL" and '{"to": "token"}' in error["message"] and "<b>" not in error["message"]
    assert node.info(key)["balance"] == 100_000


def test_an_expired_key_is_paid_back_by_itself(business: Business, own: Callable[..., Node], payee: Payee) -> None:
    node = own(**SETTINGS | {"REFUND_PROCESSING_INTERVAL": "0.2"}).start()
    key = opened(business, node, 100, ("Refund-LNURL", payee.address), ("Key-Expiry-Time", str(int(time.time()) + 2)))
    until(lambda: node.info(key)["balance"] == 1_000, "it is paid back")
    assert payee.asked == [98_000]
    assert node.chat(key).status == 403
    assert business.buyer.receive(node.call("POST", "/v1/wallet/refund", None, key=key).json()["token"]) == 1


def test_profit_is_paid_out_and_the_customers_money_is_theirs(
    business: Business, own: Callable[..., Node], payee: Payee
) -> None:
    """(Incident 52.)"""
    payouts = {"RECEIVE_LN_ADDRESS": payee.address, "MINIMUM_PAYOUT": "20", "PAYOUT_INTERVAL": "0.2"}
    node = own(**payouts, COST_PER_REQUEST="60").start()
    key = opened(business, node, 200)
    cost = node.chat(key).cost
    assert cost > 60_000
    until(lambda: len(payee.asked) > 0, "a payout")
    left = node.settled(key)["balance"]
    assert node.proves()
    answer = node.call("POST", "/v1/wallet/refund", None, key=key)
    assert business.buyer.receive(answer.json()["token"]) == left // 1000
    assert 20_000 <= sum(payee.asked) <= cost


@pytest.mark.parametrize("address", ["me", "me@", "lnurl1nonsense", "me@host@host"])
def test_an_address_of_the_operator_that_is_none_stops_the_start(own: Callable[..., Node], address: str) -> None:
    with pytest.raises(PartFailed, match="RECEIVE_LN_ADDRESS.*must be a Lightning address"):
        own(RECEIVE_LN_ADDRESS=address).start()
