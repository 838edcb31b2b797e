"""`kill -9`, again and again, at moments that nobody chose, while clients pay: every sat is somewhere, once.

Clients behave as good ones do: what was not answered is asked again. At the end each account's faces are
its balance, its charges and the refunds that the mint honoured; nothing else, to the msat.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.payer import Payer
from tests.e2e.conftest import Answer, Business, Node
from tests.parts.upstream import until

ROUNDS = int(os.environ.get("KILL_ROUNDS", "6"))
CLIENTS = 4


@dataclass
class Ledger:
    """What one client knows of one account, in msat."""

    key: str
    faces: int
    refunded: int = 0


@dataclass
class Clients:
    """Threads that redeem, top up, ask and are refunded, for as long as they are told to."""

    node: Node
    buyer: Payer
    dice: random.Random
    over: threading.Event = field(default_factory=threading.Event)
    wallet_lock: threading.Lock = field(default_factory=threading.Lock)
    accounts: list[Ledger] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    def live(self, seed: int) -> None:
        try:
            dice = random.Random(seed)
            while not self.over.is_set():
                self.account(dice)
        except BaseException as fault:  # told by the test
            self.faults.append(fault)

    def account(self, dice: random.Random) -> None:
        """The whole life of one account."""
        sats = dice.randint(3, 90)
        token = self.token(sats)
        created = self.surely(lambda: self.node.create(token))
        known = Ledger(str(created.json()["api_key"]), sats * 1000)
        self.accounts.append(known)
        for _ in range(dice.randint(0, 3)):
            step = dice.choice(("ask", "stream", "top up"))
            if step == "top up":
                more = dice.randint(1, 40)
                again = {"cashu_token": self.token(more)}
                topped = self.surely(lambda body=again: self.node.call("POST", "/v1/wallet/topup", body, key=known.key))  # type: ignore[misc]
                assert topped.json() == {"msats": more * 1000}
                known.faces += more * 1000
            else:
                with contextlib.suppress(OSError, ConnectionError):
                    self.node.chat(known.key, stream=step == "stream")
        if dice.random() < 0.6:
            self.refund(known)

    def refund(self, known: Ledger) -> None:
        answer = self.surely(lambda: self.node.call("POST", "/v1/wallet/refund", key=known.key), but="no_balance")
        if answer.status == 200:
            for token in answer.json()["tokens"]:
                with self.wallet_lock:
                    known.refunded += self.buyer.receive(token) * 1000

    def token(self, sats: int) -> str:
        with self.wallet_lock:
            return self.buyer.token(sats)

    def surely(self, ask: Callable[[], Answer], but: str = "") -> Answer:
        """Asks until there is an answer that is final. Running requests end, dead parts come back."""
        deadline = time.monotonic() + 90
        while True:
            assert time.monotonic() < deadline, "no answer"
            with contextlib.suppress(OSError, json.JSONDecodeError):  # an answer that was cut is none
                answer = ask()
                answer.json()
                if answer.status == 200 and not answer.broken:
                    return answer
                if but and answer.status == 400 and answer.json()["error"]["code"] == but:
                    return answer
                if answer.status not in (502, 503, 504):
                    assert answer.status == 400 and answer.json()["error"]["code"] == "requests_running", answer.body
            time.sleep(0.05)


def wallets(node: Node) -> list[int]:
    """The wallet processes of this node's directory, whoever started them."""
    found, mark = [], f"STATE_DIR={node.state}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"addon.wallet" in (place / "cmdline").read_bytes() and mark in (place / "environ").read_bytes():
                found.append(int(place.name))
    return found


def kill_something(node: Node, dice: random.Random) -> str:
    victim = dice.choice(("wallet", "wallet", "proxy", "both"))
    if victim != "proxy":
        for pid in wallets(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if victim != "wallet":
        node.kill()
        node.restart()
    return victim


@contextlib.contextmanager
def running(clients: Clients, seed: int) -> Iterator[None]:
    threads = [threading.Thread(target=clients.live, args=(100 * seed + n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        clients.over.set()
        for thread in threads:
            thread.join()


@pytest.mark.timeout(60 + 20 * ROUNDS)
@pytest.mark.parametrize("seed", [int(os.environ.get("KILL_SEED", "7"))])
def test_whatever_is_killed_whenever_every_sat_is_somewhere_once(
    own: Callable[..., Node], business: Business, seed: int
) -> None:
    """(Incidents 3, 4, 15, 20, 38, 42, 56, 57.)"""
    node, dice = own().start(), random.Random(seed)
    clients = Clients(node, Payer(business.mint), dice)
    with running(clients, seed):
        for _ in range(ROUNDS):
            time.sleep(dice.uniform(0.0, 0.8))  # a moment that nobody chose
            kill_something(node, dice)
            if clients.faults:
                break
    assert clients.faults == []
    until(lambda: node.call("GET", "/v1/info").status == 200, "the node is back")
    for known in clients.accounts:
        info = node.settled(known.key)
        assert info["balance"] + info["total_spent"] + known.refunded == known.faces, known
    assert node.proves()
    for known in clients.accounts:
        if not known.refunded:
            clients.refund(known)
        assert node.settled(known.key)["balance"] < 1000
    assert len(clients.accounts) >= CLIENTS and node.proves()
