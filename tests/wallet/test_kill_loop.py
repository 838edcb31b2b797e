"""The wallet killed (SIGKILL) again and again while tokens come in and refunds go out, at a mint that takes fees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from addon.errors import Failure, FeesExceedToken, NoBalance
from addon.tokens import decode
from addon.treasury import Receive, Treasury
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.processes import Home
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("KILL_ROUNDS", "5"))


class Book:
    """What clients know: the account and the credit of every token, and every refund token they were told."""

    def __init__(self, treasury: Treasury, buyer: Buyer) -> None:
        self.treasury, self.buyer = treasury, buyer
        self.tokens: dict[str, str] = {}
        self.credited: dict[str, int] = {}
        self.refunds: dict[str, set[str]] = {}

    async def open(self, name: str, sats: int) -> None:
        token = self.buyer.token(sats)
        self.tokens[name] = token
        ask = Receive(token=token, purpose="key", account=name)
        self.credited[name] = (await surely(lambda: self.treasury.receive(ask))).credited_msat

    async def refund(self, name: str) -> None:
        with contextlib.suppress(NoBalance, FeesExceedToken):
            answered = await surely(lambda: self.treasury.refund(name), final=(NoBalance, FeesExceedToken))
            self.refunds.setdefault(name, set()).update(answered.tokens)


async def surely(ask: Any, final: tuple[type[Failure], ...] = ()) -> Any:
    """Asked until there is an answer: what a good client does with 503."""
    for _ in range(40):
        try:
            return await ask()
        except final:
            raise
        except Failure:
            await asyncio.sleep(0.05)
    raise AssertionError("no answer")


@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("seed", [int(os.environ.get("KILL_SEED", "3"))])
async def test_a_wallet_killed_at_random_loses_and_doubles_nothing(fee_mint: str, tmp_path: Path, seed: int) -> None:
    """(Incidents 3, 38, 42, 56, 57.)"""
    dice, home = random.Random(seed), Home(tmp_path / "s", (fee_mint,))
    treasury = Treasury(home.settings)
    await treasury.start()
    book = Book(treasury, Buyer(Payer(fee_mint), fee_mint))
    node = Node(home.state_dir, home.mints, home.nsec)
    for n in range(ROUNDS):
        asked: list[Coroutine[Any, Any, None]] = [book.open(f"{n}.{k}", dice.randint(3, 80)) for k in range(3)]
        asked += [book.refund(name) for name in dice.sample(sorted(book.credited), min(3, len(book.credited)))]
        running = asyncio.gather(*asked)
        await asyncio.sleep(dice.uniform(0, 0.4))  # a moment that nobody chose
        if treasury._child is not None and treasury._child.poll() is None:
            os.kill(treasury._child.pid, signal.SIGKILL)
        await running
        for name in dice.sample(sorted(book.credited), 2):
            if node.account(name).balance_msat > 1500:
                charge(node, name, dice.randint(1, 1500), f"{n}.{name}")
    for name in book.credited:
        await book.refund(name)
    await treasury.stop()
    await asyncio.to_thread(node.proves)
    for name, credited in book.credited.items():
        assert_nothing_lost(node, name, credited, book)
    told = [token for tokens in book.refunds.values() for token in tokens]
    assert len({proof.secret for token in told for proof in decode(token).proofs}) == sum(
        len(decode(token).proofs) for token in told
    )
    for token in told:
        assert book.buyer.states(token) == {"UNSPENT"}


def assert_nothing_lost(node: Node, name: str, credited: int, book: Book) -> None:
    """Each token is credited once; an account's credit is its charges, its fees, its refunds and its balance."""
    rows = node.store().db.execute("SELECT kind, SUM(amount) FROM entries WHERE account = ? GROUP BY kind", (name,))
    entries = {str(kind): int(amount) for kind, amount in rows}
    paid = sum(decode(token).amount for token in book.refunds.get(name, ())) * 1000
    assert entries["credit"] == credited == (decode(book.tokens[name]).amount - 1) * 1000
    assert entries.get("refund", 0) + entries.get("adjustment", 0) - _returned_fees(node, name) == -paid
    assert sum(entries.values()) == node.account(name).balance_msat


def _returned_fees(node: Node, name: str) -> int:
    """Fees that were taken for refunds which went back, msat."""
    (fees,) = node.store().db.execute(
        "SELECT COALESCE(-SUM(e.amount), 0) FROM entries e JOIN refunds r ON r.id = e.ref "
        "WHERE e.kind = 'mint_fee' AND r.state = 'returned' AND r.account = ?", (name,)
    ).fetchone()  # fmt: skip
    return int(fees)
