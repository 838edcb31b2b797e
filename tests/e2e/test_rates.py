"""Models priced in USD on a running node, as the exchanges say: never sold at a wrong price, never for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Business, Node
from tests.e2e.test_errors import told
from tests.parts.exchanges import StandIn
from tests.parts.upstream import until

FEES = Decimal("1.005") * Decimal("1.05")


@pytest.fixture
def exchanges(tmp_path: Path) -> Iterator[StandIn]:
    standing_in = StandIn(tmp_path)
    standing_in.start()
    yield standing_in
    standing_in.stop()


def cost_msat(usd_per_btc: str) -> int:
    """For 7 tokens in at 0.000001 USD, 3 out at 0.000003."""
    usd = 7 * Decimal("0.000001") + 3 * Decimal("0.000003")
    return ceil(usd * FEES / Decimal(usd_per_btc) * 100_000_000_000)


def priced_in_usd(own: Callable[..., Node], exchanges: StandIn, **more: str) -> Node:
    return own(MODEL_BASED_PRICING="true", BTC_USD="", **exchanges.environment(), **more).start()


def sold(node: Node) -> bool:
    return bool(node.call("GET", "/v1/models").json()["data"])


def test_a_request_costs_what_the_exchanges_median_makes_it(
    own: Callable[..., Node], business: Business, exchanges: StandIn
) -> None:
    exchanges.say("100000", "100100", "99950")
    node = priced_in_usd(own, exchanges)
    until(lambda: sold(node), "the rate")
    answer = node.chat(business.account(50, node))
    assert answer.status == 200 and answer.cost == cost_msat("100000")
    usd = Decimal(answer.header("x-routstr-cost-usd") or "")
    assert usd == Decimal(answer.cost) * 100_000 / Decimal(100_000_000_000)


@pytest.mark.parametrize(
    "said", [("0", "0", "0"), ("-1", "NaN", "Infinity"), (b"<html>", b"<html>", b"<html>"), ("gone", "gone", "gone")]
)
def test_without_a_credible_rate_nothing_is_sold(
    own: Callable[..., Node], business: Business, exchanges: StandIn, said: tuple[Any, Any, Any]
) -> None:
    """(Incident: a price of zero made everything free.)"""
    exchanges.say(*said)
    node = priced_in_usd(own, exchanges)
    key, before = business.account(50, node), business.forwarded()
    answer = node.chat(key)
    told(answer, 503, "api_error", "rate_unavailable")
    assert business.forwarded() == before and node.info(key)["balance"] == 50_000


def test_a_liar_among_three_changes_no_price(own: Callable[..., Node], business: Business, exchanges: StandIn) -> None:
    exchanges.say("1000000", "100000", "100010")
    node = priced_in_usd(own, exchanges)
    until(lambda: sold(node), "the rate")
    cost = node.chat(business.account(50, node)).cost
    assert cost_msat("100010") <= cost <= cost_msat("100000")


def test_a_restart_without_exchanges_sells_at_the_rate_that_was_kept(
    own: Callable[..., Node], business: Business, exchanges: StandIn
) -> None:
    node = priced_in_usd(own, exchanges)
    until(lambda: sold(node), "the rate")
    key = business.account(50, node)
    node.stop()
    exchanges.say("gone", "gone", "gone")
    node.restart()
    answer = node.chat(key)
    assert answer.status == 200 and answer.cost == cost_msat("100000")


def test_a_rate_that_grew_too_old_ends_the_sale_and_a_new_one_begins_it_again(
    own: Callable[..., Node], business: Business, exchanges: StandIn
) -> None:
    node = priced_in_usd(own, exchanges, PRICE_MAX_AGE="2")
    until(lambda: sold(node), "the rate")
    key = business.account(50, node)
    exchanges.say("gone", "gone", "gone")
    until(lambda: node.chat(key).status == 503, "the rate is too old")
    exchanges.say("100000")
    until(lambda: node.chat(key).status == 200, "a new rate")


def test_static_prices_need_no_rate_and_tell_usd_when_there_is_one(
    own: Callable[..., Node], business: Business, exchanges: StandIn
) -> None:
    exchanges.say("gone", "gone", "gone")
    node = own(BTC_USD="", PRICE_MAX_AGE="4", **exchanges.environment()).start()
    key = business.account(50, node)
    blind = node.chat(key)
    assert blind.status == 200 and blind.header("x-routstr-cost-usd") is None
    assert "total_usd" not in node.call("GET", f"/v1/receipts/{blind.header('x-routstr-request-id')}", key=key).json()
    exchanges.say("100000")
    seeing = until(lambda: (a := node.chat(key)).header("x-routstr-cost-usd") and a, "a rate")
    assert seeing.cost == blind.cost


def test_a_receipt_tells_the_usd_of_its_own_time(
    own: Callable[..., Node], business: Business, exchanges: StandIn
) -> None:
    node = priced_in_usd(own, exchanges, PRICE_MAX_AGE="4")
    until(lambda: sold(node), "the rate")
    key = business.account(50, node)
    answer = node.chat(key)
    usd = Decimal(answer.header("x-routstr-cost-usd") or "")
    exchanges.say("110000")
    until(lambda: node.chat(key).cost != answer.cost, "another rate")
    receipt = node.call("GET", f"/v1/receipts/{answer.header('x-routstr-request-id')}", key=key).json()
    assert Decimal(str(receipt["total_usd"])) == usd
