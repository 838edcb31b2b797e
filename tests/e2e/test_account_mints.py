"""An account while its mint, the network or the node itself fails: told what is so, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from scripts.payer import Payer
from tests.e2e.conftest import Answer, Business, Node
from tests.e2e.test_errors import REQUEST, told
from tests.parts.upstream import until
from tests.wallet.faults import FaultyMint, answer, lose_reply, lose_request

UNKNOWN = (503, "mint_error", "mint_outcome_unknown")


@pytest.fixture(scope="module")
def network(business: Business) -> Iterator[FaultyMint]:
    """The business's mint behind a bad network, at an address of its own."""
    loop, faulty = asyncio.new_event_loop(), FaultyMint(business.mint)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(faulty.up(), loop).result(10)
    yield faulty
    loop.call_soon_threadsafe(faulty.down)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(scope="module")
def buyer(network: FaultyMint, business: Business) -> Payer:
    """Goes straight to the mint; its tokens name the mint as the node knows it."""
    direct = Payer(business.mint)
    direct.mint = network.url
    return direct


@pytest.fixture(scope="module")
def running(
    business: Business, network: FaultyMint, buyer: Payer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node that knows its mint: it has taken a token."""
    home = tmp_path_factory.mktemp("mints")
    changes = {"CASHU_MINTS": network.url, "STATE_DIR": str(home / "state"), "NSEC": os.urandom(32).hex()}
    node = Node(home, business.upstream.url, business.settings | changes)
    try:
        account_of(node.start(), buyer, 2)
        yield node
    finally:
        node.stop()


@pytest.fixture
def node(running: Node, network: FaultyMint) -> Iterator[Node]:
    yield running
    heal(network)


def heal(network: FaultyMint) -> None:
    for path in ("/v1/swap", "/v1/restore", "/v1/checkstate"):
        network.always(path, None)


def break_silently(network: FaultyMint) -> None:
    """The mint swaps, and is not heard of afterwards."""
    network.always("/v1/swap", lose_reply)
    for path in ("/v1/restore", "/v1/checkstate"):
        network.always(path, lose_request)


def die(node: Node) -> None:
    """Proxy and wallet at once."""
    wallet = node.wallet_pid
    node.kill()
    try:
        os.kill(wallet, signal.SIGKILL)
    except ProcessLookupError:
        return


@dataclass
class Asking:
    """A call that its client still waits for. `answer`: what it got in the end; None: nothing."""

    thread: threading.Thread
    answers: list[Answer] = field(default_factory=list)

    @classmethod
    def begin(cls, network: FaultyMint, call: Callable[[], Answer]) -> Asking:
        """Returns once the mint has been asked to swap."""
        before, asking = network.count("/v1/swap"), cls(threading.Thread())
        asking.thread = threading.Thread(target=lambda: asking._ask(call))
        asking.thread.start()
        until(lambda: network.count("/v1/swap") > before, "the mint is asked")
        return asking

    def answer(self) -> Answer | None:
        self.thread.join()
        return self.answers[0] if self.answers else None

    def _ask(self, call: Callable[[], Answer]) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.answers.append(call())


def refund(node: Node, key: str) -> Answer:
    return node.call("POST", "/v1/wallet/refund", key=key)


def account_of(node: Node, buyer: Payer, sats: int) -> str:
    return str(node.create(buyer.token(sats)).json()["api_key"])


def eventually(node: Node, key: str) -> Answer:
    """The refund, asked as a client does that obeys Retry-After; it must hear nothing else meanwhile."""

    def asked() -> Answer | None:
        found = refund(node, key)
        assert found.status in (200, 503), found.body
        return found if found.status == 200 else None

    paid: Answer = until(asked, "the refund")
    return paid


def test_after_a_crash_a_token_on_its_way_is_not_called_unknown(node: Node, network: FaultyMint, buyer: Payer) -> None:
    """(Incidents 3 and 4.) Nor does a call about its account redeem anything by itself."""
    token = buyer.token(40)
    break_silently(network)
    asking = Asking.begin(network, lambda: node.create(token))
    told(refund(node, token), *UNKNOWN)
    die(node)
    assert asking.answer() is None
    node.restart()
    told(refund(node, token), *UNKNOWN)
    told(node.call("GET", "/v1/wallet/history", key=token), *UNKNOWN)
    heal(network)
    paid = eventually(node, token)
    assert buyer.receive(paid.json()["token"]) == 40 and node.proves()


def test_after_a_crash_an_empty_key_with_a_top_up_on_its_way_is_not_called_empty(
    node: Node, network: FaultyMint, buyer: Payer
) -> None:
    """Clients throw a key away that has no balance."""
    key = account_of(node, buyer, 20)
    assert buyer.receive(refund(node, key).json()["token"]) == 20
    token = buyer.token(30)
    break_silently(network)
    Asking.begin(network, lambda: node.call("POST", "/v1/wallet/topup", {"cashu_token": token}, key=key))
    die(node)
    node.restart()
    assert node.info(key)["balance"] == 0
    told(refund(node, key), *UNKNOWN)
    heal(network)
    paid = eventually(node, key).json()
    assert paid["sats"] == "30" and buyer.receive(paid["token"]) == 30 and node.proves()


def test_a_key_that_changes_while_a_top_up_is_on_its_way_gets_it(node: Node, network: FaultyMint, buyer: Payer) -> None:
    token, key = buyer.token(30), account_of(node, buyer, 20)
    break_silently(network)
    asking = Asking.begin(network, lambda: node.call("POST", "/v1/wallet/topup", {"cashu_token": token}, key=key))
    new = node.call("POST", "/v1/wallet/rotate", key=key).json()["api_key"]
    heal(network)
    answer = asking.answer()
    assert answer is not None and answer.json() == {"msats": 30_000} and node.info(new)["balance"] == 50_000
    again = node.call("POST", "/v1/wallet/topup", {"cashu_token": token}, key=new)
    assert again.json() == {"msats": 30_000} and node.info(new)["balance"] == 50_000


def test_an_account_that_is_opened_late_stands_on_its_first_terms(
    node: Node, network: FaultyMint, buyer: Payer
) -> None:
    token = buyer.token(40)

    def create(address: str) -> Answer:
        body = {"initial_balance_token": token}
        return node.call("POST", "/v1/wallet/create", body, [("Refund-LNURL", address)])

    break_silently(network)
    first = Asking.begin(network, lambda: create("me@example.com"))
    told(create("thief@example.com"), *UNKNOWN)
    heal(network)
    told(first.answer() or Answer(0, [], b""), *UNKNOWN)
    until(lambda: node.call("GET", "/v1/wallet/info", key=token).status == 200, "the account")
    assert node.info(token)["refund_address"] == "me@example.com"
    told(create("thief@example.com"), 400, REQUEST, "invalid_parameter")
    assert create("me@example.com").json()["balance"] == 40_000


@pytest.mark.parametrize("how", ["create", "info", "topup", "a paid request"])
def test_what_a_mint_refuses_leaves_the_token_with_its_owner(
    node: Node, network: FaultyMint, buyer: Payer, how: str
) -> None:
    token = buyer.token(60)
    key = account_of(node, buyer, 5)
    calls: dict[str, Callable[[], Answer]] = {
        "create": lambda: node.create(token),
        "info": lambda: node.call("GET", "/v1/wallet/info", key=token),
        "topup": lambda: node.call("POST", "/v1/wallet/topup", {"cashu_token": token}, key=key),
        "a paid request": lambda: node.chat(token),
    }
    network.always("/v1/swap", answer(429, {"detail": "Rate limit exceeded."}))
    told(calls[how](), 503, "mint_rate_limited", "cashu_mint_rate_limited")
    heal(network)
    assert buyer.states(token) == {"UNSPENT"}
    if how != "topup":
        told(node.call("GET", "/v1/wallet/history", key=token), 401, REQUEST, "invalid_api_key")
    until(lambda: calls[how]().status == 200, "the same call, once the mint listens")


def test_a_refund_that_the_mint_does_not_hear_is_owed_and_paid_once(
    node: Node, network: FaultyMint, buyer: Payer
) -> None:
    """(Incident 38.)"""
    key = account_of(node, buyer, 33)
    network.always("/v1/checkstate", lose_request)
    network.always("/v1/swap", lose_request)
    told(refund(node, key), 503, "mint_unreachable", "cashu_mint_unreachable")
    assert node.info(key)["balance"] in (0, 33_000)
    heal(network)
    paid = eventually(node, key).json()
    assert refund(node, key).json()["tokens"] == paid["tokens"] and len(paid["tokens"]) == 1
    assert buyer.receive(paid["token"]) == 33 and node.info(key)["balance"] == 0 and node.proves()


def test_while_the_wallet_is_away_everything_but_money_in_and_out_works(
    node: Node, network: FaultyMint, buyer: Payer
) -> None:
    key = account_of(node, buyer, 50)
    os.kill(node.wallet_pid, signal.SIGSTOP)
    try:
        assert node.info(key)["balance"] == 50_000 and node.chat(key).status == 200
        new = node.call("POST", "/v1/wallet/rotate", key=key).json()["api_key"]
        assert node.call("GET", "/v1/wallet/history", key=new).status == 200
        told(refund(node, new), 503, "api_error", "wallet_unavailable")
    finally:
        os.kill(node.wallet_pid, signal.SIGCONT)
    paid: dict[str, str] = eventually(node, new).json()
    assert buyer.receive(paid["token"]) == 49
