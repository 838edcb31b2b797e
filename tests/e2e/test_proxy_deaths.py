"""The proxy killed (SIGKILL) at each of its boundaries of redemption and refund; the wallet lives on, or goes with it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import COST, Answer, Business, Node
from tests.e2e.test_kills import wallets
from tests.parts.upstream import until

ASK = ("addon.treasury", "Treasury._exchange")
HOLD = ("addon.ledger.books", "Books.hold")
Act = Callable[[Node, Business, str], Answer]


def dying(own: Callable[..., Node], tmp_path: Path, place: tuple[str, str], when: str, count: int) -> Node:
    """A node whose proxy kills itself at the count-th call of a function."""
    script = tmp_path / "dying.py"
    script.write_text(f"from tests.wallet.dying import arm\narm({place[0]!r}, {place[1]!r}, {when!r}, {count})\n")
    return own(options=("-s", str(script))).start()


def again(node: Node, wallet_too: bool) -> Node:
    """The next life, without the script; the wallet of the last one may have been killed with it."""
    until(lambda: node.part.returncode == -signal.SIGKILL, "the proxy dies where it should")
    if wallet_too:
        for pid in wallets(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    node.part, node.url = node._make()
    place = node.part._command.index("-s", node.part._command.index("-s") + 1)
    del node.part._command[place : place + 2]
    return node.start()


def attempt(ask: Callable[[], Answer]) -> None:
    with pytest.raises(OSError):
        answer = ask()
        raise AssertionError(f"it was answered: {answer.body!r}")


@pytest.mark.parametrize("wallet_too", [False, True], ids=["alone", "with the wallet"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_redemption_survives_the_proxys_death(
    own: Callable[..., Node], business: Business, tmp_path: Path, when: str, wallet_too: bool
) -> None:
    """(Incidents 3, 4.) The client has no answer; the same token brings the same account."""
    node, token = dying(own, tmp_path, ASK, when, 2), business.buyer.token(30)
    attempt(lambda: node.create(token))
    key = again(node, wallet_too).create(token).json()["api_key"]
    assert node.create(token).json() == {"api_key": key, "balance": 30_000}
    assert node.chat(key).cost == COST and node.proves()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_first_request_survives_the_proxys_death(
    own: Callable[..., Node], business: Business, tmp_path: Path, when: str
) -> None:
    """The token is redeemed; the request is not held, or held and not sent."""
    node, token = dying(own, tmp_path, HOLD, when, 1), business.buyer.token(30)
    attempt(lambda: node.chat(token))
    assert again(node, False).chat(token).cost == COST
    info = node.settled(token)
    assert (info["balance"], info["reserved"]) == (30_000 - COST, 0) and node.proves()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_top_up_survives_the_proxys_death(
    own: Callable[..., Node], business: Business, tmp_path: Path, when: str
) -> None:
    node = dying(own, tmp_path, ASK, when, 3)
    key, body = business.account(10, node), {"cashu_token": business.buyer.token(7)}
    attempt(lambda: node.call("POST", "/v1/wallet/topup", body, key=key))
    again(node, False)
    for _ in range(2):
        assert node.call("POST", "/v1/wallet/topup", body, key=key).json() == {"msats": 7_000}
    assert node.info(key)["balance"] == 17_000 and node.proves()


@pytest.mark.parametrize("wallet_too", [False, True], ids=["alone", "with the wallet"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_refund_survives_the_proxys_death(
    own: Callable[..., Node], business: Business, tmp_path: Path, when: str, wallet_too: bool
) -> None:
    """(Incidents 38, 42.) The token was made, and nobody heard of it: it is told again."""
    node = dying(own, tmp_path, ASK, when, 3)
    key = business.account(33, node)
    attempt(lambda: node.call("POST", "/v1/wallet/refund", key=key))
    again(node, wallet_too)
    told = [node.call("POST", "/v1/wallet/refund", key=key).json() for _ in range(2)]
    assert told[0] == told[1] and told[0]["tokens"] == [told[0]["token"]]
    assert business.buyer.receive(told[0]["token"]) == 33
    assert node.info(key)["balance"] == 0 and node.proves()
