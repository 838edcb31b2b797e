"""Whose state directory it is: shared by two nodes, of another secret or user, copied while it runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.payer import Payer
from tests.e2e.conftest import COST, Business, Node
from tests.parts.upstream import until

AS_ANYBODY = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2, 3):  # root's rights over other people's files
    assert libc.prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
STRANGER = 12345
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can make files of another user"
)


def refused(node: Node) -> str:
    """What a node says that does not start; it must end by itself."""
    node.part.start()
    until(lambda: node.part.returncode is not None, "the node ends", limit_s=60)
    assert node.part.returncode != 0
    assert "Traceback" not in node.part.logged()
    return node.part.logged()


@needs_root
@pytest.mark.parametrize("place", [".", "ledger.db", "workers", "wallet", "nsec"])
def test_what_belongs_to_another_user_is_named_and_left_alone(own: Callable[..., Node], place: str) -> None:
    node = own(NSEC="").start()
    assert node.stop() == 0
    secret, kept = (node.state / "nsec").read_bytes(), (node.state / "ledger.db").read_bytes()
    (node.state / place).chmod(0o700 if (node.state / place).is_dir() else 0o600)
    os.chown(node.state / place, STRANGER, STRANGER)
    node.part, node.url = node._make()
    node.part._command = [sys.executable, "-c", AS_ANYBODY, *node.part._command]
    told = refused(node)
    assert str(node.state if place == "." else node.state / place) in told
    assert ((node.state / "nsec").read_bytes(), (node.state / "ledger.db").read_bytes()) == (secret, kept)
    os.chown(node.state / place, os.getuid(), os.getgid())
    assert node.restart().stop() == 0


@needs_root
def test_a_ledger_that_can_only_be_read_stops_the_start(own: Callable[..., Node]) -> None:
    node = own().start()
    node.stop()
    (node.state / "ledger.db").chmod(0o444)
    os.chown(node.state / "ledger.db", STRANGER, STRANGER)
    node.part, node.url = node._make()
    node.part._command = [sys.executable, "-c", AS_ANYBODY, *node.part._command]
    assert "ledger.db" in refused(node)


def test_the_directory_of_another_secret_is_not_taken_over(own: Callable[..., Node], business: Business) -> None:
    first = own().start()
    key = business.account(20, first)
    first.stop()
    stranger = own(STATE_DIR=str(first.state))
    assert "NSEC" in refused(stranger)
    assert first.restart().info(key)["balance"] == 20_000 and first.proves()


def test_two_nodes_on_one_directory_sell_from_one_ledger(own: Callable[..., Node], business: Business) -> None:
    """The second finds the first one's wallet; it goes on when the first is killed."""
    secret = os.urandom(32).hex()
    one = own(NSEC=secret).start()
    two = own(NSEC=secret, STATE_DIR=str(one.state)).start()
    token = business.buyer.token(20)
    key = one.create(token).json()["api_key"]
    assert two.create(token).json()["api_key"] == key
    assert one.chat(key).status == two.chat(key).status == 200
    one.kill()
    assert two.chat(key).cost == COST
    assert two.info(key)["balance"] == 20_000 - 3 * COST
    answer = two.call("POST", "/v1/wallet/refund", key=key)
    assert answer.status == 200 and business.buyer.receive(answer.json()["token"]) == 19
    two.stop()
    assert one.proves()


def test_two_nodes_of_different_settings_do_not_share_a_directory(own: Callable[..., Node], business: Business) -> None:
    secret = os.urandom(32).hex()
    one = own(NSEC=secret).start()
    other = own(NSEC=secret, STATE_DIR=str(one.state), CASHU_MINTS="http://127.0.0.1:9")
    assert "STATE_DIR" in refused(other)
    assert one.chat(business.account(20, one)).status == 200


def copied(state: Path, target: Path) -> None:
    """As `cp -r` does it, file by file, while the node writes."""
    shutil.copytree(state, target, ignore=shutil.ignore_patterns("sock", "workers"))


def test_a_copy_of_a_running_directory_credits_nothing_twice(own: Callable[..., Node], business: Business) -> None:
    """The copy has the first node's counters; what the mint signed for one of them is not credited by the other."""
    secret = os.urandom(32).hex()
    one, buyer = own(NSEC=secret).start(), Payer(business.mint)
    before = buyer.token(30)
    assert one.create(before).status == 200
    two = own(NSEC=secret)
    copied(one.state, two.state)
    after = [buyer.token(31), buyer.token(32)]
    assert [one.create(token).status for token in after] == [200, 200]
    two.start()
    assert two.create(before).json()["balance"] == 30_000  # it knows that one, and its coins are the same
    for token in after:
        answer = two.create(token)
        assert answer.status == 400 and answer.json()["error"]["code"] == "cashu_token_already_spent"
    fresh = [buyer.token(33), buyer.token(34)]
    assert [two.create(token).status for token in fresh] == [200, 200]
    assert [one.create(token).status for token in fresh] == [400, 400]
    assert one.proves() and two.proves()
