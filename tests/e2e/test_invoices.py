"""Money over Lightning through the node: an invoice, a mint that is paid, a key; and what strangers can do with it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import segno

from addon.ledger import FILE_NAME, Store
from scripts import realparts
from scripts.realparts import Part
from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_errors import REQUEST, told
from tests.parts.upstream import until


def order(node: Node, sats: object = 33, purpose: object = "create", key: str | None = None,
          headers: list[tuple[str, str]] | None = None, place: str = "/lightning/invoice") -> Answer:  # fmt: skip
    return node.call("POST", place, {"amount_sats": sats, "purpose": purpose}, headers or [], key)


def status(node: Node, invoice: str, place: str = "/lightning/invoice") -> dict[str, Any]:
    answer = node.call("GET", f"{place}/{invoice}/status")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def paid(node: Node, invoice: str) -> dict[str, Any]:
    found: dict[str, Any] = until(
        lambda: (s := status(node, invoice))["status"] == "paid" and s, "the invoice is paid", limit_s=60
    )
    return found


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mint whose invoices nobody ever pays."""
    yield from running(*realparts.mint(tmp_path_factory.mktemp("never"), changes={"FAKEWALLET_BRR": "FALSE"}))


def running(part: Part, url: str) -> Iterator[str]:
    part.start()
    try:
        part.wait_until(f"{url}/v1/info")
        yield url
    finally:
        part.end()


@pytest.mark.parametrize("place", ["/lightning/invoice", "/v1/lightning/invoice", "/v1/balance/lightning/invoice"])
def test_a_paid_invoice_is_a_key_with_its_amount(business: Business, place: str) -> None:
    node = business.node
    ordered = order(node, place=place).json()
    assert set(ordered) == {"invoice_id", "bolt11", "amount_sats", "expires_at", "payment_hash"}
    assert ordered["bolt11"].startswith("lnbc330n1") and ordered["amount_sats"] == 33
    assert time.time() < ordered["expires_at"] < time.time() + 3700
    found = paid(node, ordered["invoice_id"])
    assert found == status(node, ordered["invoice_id"], place), "asked again, the same"
    assert found["amount_sats"] == 33 and found["bolt11"] == ordered["bolt11"]
    key = found["api_key"]
    info = node.info(key)
    assert (info["api_key"], info["balance"]) == (key, 33_000)
    assert node.chat(key).status == 200 and node.settled(key)["balance"] == 33_000 - COST
    movements = node.call("GET", "/v1/wallet/history", key=key).json()["transactions"]
    assert [(m["type"], m["amount_msats"]) for m in movements] == [("charge", COST), ("in", 33_000)]


def test_the_key_is_told_until_it_is_used_and_never_the_one_after_it(business: Business) -> None:
    """An id that stands in some log opens nothing after that."""
    node, invoice = business.node, order(business.node).json()["invoice_id"]
    key = paid(node, invoice)["api_key"]
    node.info(key)
    assert "api_key" not in status(node, invoice) and status(node, invoice)["status"] == "paid"
    other = order(node).json()["invoice_id"]
    told_key = paid(node, other)["api_key"]
    changed = node.call("POST", "/v1/wallet/rotate", key=told_key).json()["api_key"]
    assert "api_key" not in status(node, other) and node.info(changed)["balance"] == 33_000


def test_who_saw_the_invoice_gets_no_key(business: Business) -> None:
    """(Incident 13: anyone who saw the invoice string could fetch the API key.)"""
    node, ordered = business.node, order(business.node).json()
    paid(node, ordered["invoice_id"])
    for seen in (ordered["bolt11"], ordered["payment_hash"], ordered["invoice_id"][:-1], "inv_" + "A" * 32, "x"):
        told(node.call("GET", f"/lightning/invoice/{seen[:100]}/status"), 404, "not_found", "path_not_found")
    assert node.call("GET", "/v1/wallet/info", key=ordered["invoice_id"]).status == 401
    store = Store.open(node.state / FILE_NAME, wait_ms=5000, durable=False)
    rows = "".join(str(tuple(row)) for table in ("invoices", "swaps", "credentials", "entries")
                   for row in store.db.execute(f"SELECT * FROM {table}"))  # fmt: skip
    store.close()
    assert ordered["payment_hash"] in rows and ordered["invoice_id"] not in rows


def test_a_top_up_is_credited_though_nobody_asks_about_it(business: Business) -> None:
    """(Incident 12.)"""
    node, key = business.node, business.account(10)
    ordered = order(node, 20, "topup", key)
    assert ordered.status == 200, ordered.body
    until(lambda: node.info(key)["balance"] == 30_000, "the top-up is credited", limit_s=60)
    found = status(node, ordered.json()["invoice_id"])
    assert (found["status"], found["purpose"]) == ("paid", "topup") and "api_key" not in found
    assert node.info(key)["balance"] == 30_000


def test_a_top_up_needs_the_key_that_it_is_for(business: Business) -> None:
    node, token = business.node, business.buyer.token(5)
    told(order(node, 20, "topup"), 402, "insufficient_quota", "payment_required")
    told(order(node, 20, "topup", "sk-" + "0" * 64), 401, REQUEST, "invalid_api_key")
    told(order(node, 20, "topup", token), 401, REQUEST, "invalid_api_key")
    assert business.buyer.states(token) == {"UNSPENT"}


def test_an_account_is_opened_on_the_terms_of_the_call_that_ordered_the_invoice(business: Business) -> None:
    """(Incident 50.)"""
    expiry = int(time.time()) + 86_400
    headers = [("refund-lnurl", "me@getalby.example"), ("KEY-EXPIRY-TIME", str(expiry))]
    ordered = order(business.node, headers=headers)
    info = business.node.info(paid(business.node, ordered.json()["invoice_id"])["api_key"])
    assert (info["refund_address"], info["expires_at"]) == ("me@getalby.example", expiry)


@pytest.mark.parametrize("headers", [[("Refund-LNURL", "me@localhost")], [("Key-Expiry-Time", "1000000000")]])
def test_wrong_terms_are_no_invoice(business: Business, headers: list[tuple[str, str]]) -> None:
    error = told(order(business.node, headers=headers), 400, REQUEST, "invalid_parameter")
    assert error["param"] == headers[0][0]


@pytest.mark.parametrize("sats", [0, -1, 10_000_001, 1.5, "33", None, True, [33], 10**30])
def test_an_amount_that_is_none(business: Business, sats: object) -> None:
    assert told(order(business.node, sats), 400, REQUEST, "invalid_parameter")["param"] == "amount_sats"


@pytest.mark.parametrize("purpose", ["", "refund", None, 5, ["create"]])
def test_a_purpose_that_is_none(business: Business, purpose: object) -> None:
    assert told(order(business.node, 5, purpose), 400, REQUEST, "invalid_parameter")["param"] == "purpose"


def test_an_invoice_is_no_json_or_nothing(business: Business) -> None:
    told(business.node.call("POST", "/lightning/invoice", b"{"), 400, REQUEST, "invalid_json")
    told(business.node.call("POST", "/lightning/invoice"), 400, REQUEST, "invalid_parameter")


def test_a_single_payments_token_orders_nothing_and_is_given_back(business: Business) -> None:
    token = business.buyer.token(5)
    answer = order(business.node, headers=[("X-Cashu", token)])
    assert answer.status == 400 and answer.header("x-cashu") == token
    assert business.buyer.states(token) == {"UNSPENT"}


def test_the_qr_code_is_a_picture_of_the_invoice(business: Business) -> None:
    node, ordered = business.node, order(business.node).json()
    place = f"/lightning/invoice/{ordered['invoice_id']}/qr"
    answer = node.call("GET", place)
    assert (answer.status, answer.header("content-type")) == (200, "image/svg+xml")
    assert answer.header("x-content-type-options") == "nosniff"
    side = segno.make(ordered["bolt11"].upper(), micro=False).symbol_size(border=4)[0]
    assert re.match(rb'<svg [^>]*width="%d"' % (4 * side), answer.body), answer.body[:120]
    head = node.call("HEAD", place)
    assert (head.status, head.body, head.header("content-length")) == (200, b"", str(len(answer.body)))
    told(node.call("GET", "/lightning/invoice/inv_nobody/qr"), 404, "not_found", "path_not_found")


@pytest.mark.parametrize("method, path", [("GET", "/lightning/invoice"), ("POST", "/lightning/invoice/x/status"),
                                          ("GET", "/lightning/invoice/x"), ("GET", "/lightning/invoice/x/y/status"),
                                          ("GET", "/lightning/invoice//status"), ("GET", "/lightning")])  # fmt: skip
def test_other_paths_beside_it_are_not_offered(business: Business, method: str, path: str) -> None:
    told(business.node.call(method, path), 404, "not_found", "path_not_found")


def test_unpaid_invoices_cost_nobody_anything_and_are_few(
    own: Callable[..., Node], business: Business, never: str
) -> None:
    """A flood of them: an account has only so many, strangers are served at a bounded pace, ecash goes on."""
    node = own(CASHU_MINTS=f"{never},{business.mint}").start()
    key = business.account(20, node)
    answers = [order(node, 20, "topup", key) for _ in range(6)]
    assert [a.status for a in answers[:5]] == [200] * 5
    told(answers[5], 429, REQUEST, "too_many_invoices")
    found = status(node, answers[0].json()["invoice_id"])
    assert found["status"] == "pending" and "api_key" not in found
    refused = next(a for _ in range(60) if (a := order(node)).status != 200)
    told(refused, 503, "api_error", "overloaded")
    assert node.info(key)["balance"] == 20_000 and node.chat(key).status == 200
    assert business.account(5, node)
    assert node.proves()


def test_a_node_whose_mints_issue_no_invoice_says_so(own: Callable[..., Node], tmp_path: Path) -> None:
    for url in running(*realparts.mint(tmp_path / "mute", changes={"MINT_BOLT11_DISABLE_MINT": "TRUE"})):
        told(order(own(CASHU_MINTS=url).start()), 503, "mint_error", "lightning_unavailable")


def test_a_mint_that_is_down_is_passed_over(own: Callable[..., Node], business: Business) -> None:
    away = f"http://127.0.0.1:{realparts.free_port()}"
    node = own(CASHU_MINTS=f"{away},{business.mint}").start()
    assert paid(node, order(node).json()["invoice_id"])["api_key"]
    lonely = own(CASHU_MINTS=away).start()
    told(order(lonely), 503, "mint_unreachable", "cashu_mint_unreachable")


@pytest.mark.parametrize("which", ["proxy", "wallet", "both"])
def test_a_paid_invoice_is_credited_whoever_dies(own: Callable[..., Node], business: Business, which: str) -> None:
    """(Incident 3.) Killed as soon as the invoice is told, before anybody asks about it."""
    node = own().start()
    key = business.account(10, node)
    create, topup = order(node).json()["invoice_id"], order(node, 20, "topup", key).json()["invoice_id"]
    wallet = node.wallet_pid
    if which != "proxy":
        kill(wallet)
    if which != "wallet":
        node.kill()
        node.restart()
    until(lambda: node.info(key)["balance"] == 30_000, "the top-up is credited", limit_s=60)
    assert status(node, topup)["status"] == "paid"
    assert node.info(paid(node, create)["api_key"])["balance"] == 33_000
    assert node.proves()


def kill(pid: int) -> None:
    import os
    import signal

    os.kill(pid, signal.SIGKILL)


def test_the_id_stands_in_no_flow_and_no_log(own: Callable[..., Node], tmp_path: Path) -> None:
    """Until its key is used it is as good as the key."""
    flows = tmp_path / "flows"
    node = own(("-w", str(flows))).start()
    ordered = order(node).json()
    key = paid(node, ordered["invoice_id"])["api_key"]
    node.call("GET", f"/v1/lightning/invoice/{ordered['invoice_id']}/qr")
    node.stop()
    written = flows.read_bytes()
    assert b"/lightning/invoice/" in written
    for secret in (ordered["invoice_id"], key):
        assert secret.encode() not in written and secret not in node.logs()
    files = [f for f in node.state.rglob("*") if f.is_file()]
    assert not [f.name for f in files for s in (ordered["invoice_id"], key) if s.encode() in f.read_bytes()]
