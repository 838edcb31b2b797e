"""The wallet killed (SIGKILL) at every boundary of a Lightning payment: paid once, and all that is left is there.

A refund is asked for by a client, whose proxy starts another wallet and asks again; an expired key and a payout
go on by themselves in the next life.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from addon.ledger import PAYMENT_STATES
from addon.settings import Settings
from addon.treasury import Receive, Refunded, Sent, Treasury
from scripts.payer import Payer
from tests.parts.lnurl import Payee
from tests.wallet.conftest import Node
from tests.wallet.paying import OPTIONS, MoodyMint, payments
from tests.wallet.processes import Home
from tests.wallet.test_crashes import Death, dying_treasury, named
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio

BEGIN = ("addon.ledger.payments", "Payments.begin")
DEBIT = ("addon.ledger.payments", "Payments._debit")
INSERT = ("addon.ledger.payments", "Payments._insert")
QUOTE = ("addon.wallet.melt_quotes", "quote")
ORDER = ("addon.wallet.melt_quotes", "melt")
LOOK = ("addon.wallet.melt_quotes", "state")
RESTORE = ("addon.wallet.melt", "Melts._change")
PAID = ("addon.ledger.payments", "Payments.paid")
STEP = ("addon.ledger.payments", "Payments._step")
CHANGE = ("addon.ledger.proofs", "Proofs.add")
PENDING = ("addon.ledger.payments", "Payments.pending")
UNPAID = ("addon.ledger.payments", "Payments.unpaid")
CREDIT = ("addon.ledger.payments", "Payments._credit")
FREE = ("addon.ledger.proofs", "Proofs.free_reserved")

BEFORE_IT: list[Death] = [(QUOTE, "before"), (QUOTE, "after"), (BEGIN, "before"), (DEBIT, "after"), (INSERT, "after")]
"""Nothing is written yet: the next life makes another invoice."""
AFTER_IT: list[Death] = [
    (BEGIN, "after"), (ORDER, "before"), (ORDER, "after"), (LOOK, "before"), (LOOK, "after"), (RESTORE, "before"),
    (RESTORE, "after"), (PAID, "before"), (STEP, "after"), (PAID, "after"),
]  # fmt: skip
NOT_PAID: list[Death] = [
    (UNPAID, "before"), (FREE, "after"), (CREDIT, "before"), (CREDIT, "after"), (UNPAID, "after"),
]  # fmt: skip
CROSSED = {"begin": BEGIN, "pending": PENDING, "paid": PAID, "unpaid": UNPAID}


@dataclass
class PayingHome(Home):
    """A directory whose wallet sends refunds, and by itself what its settings say."""

    options: dict[str, Any] | None = None

    @property
    def settings(self) -> Settings:
        own = {"cashu_mints": self.mints, "nsec": self.nsec, "state_dir": self.state_dir}
        return Settings.model_validate({**own, **OPTIONS, **(self.options or {})})

    @property
    def node(self) -> Node:
        return Node(self.state_dir, self.mints, self.nsec)


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    made = await Payee().up()
    yield made
    made.down()


@pytest.fixture
def home(mint: str, tmp_path: Path) -> PayingHome:
    return PayingHome(tmp_path / "s", (mint,))


def test_every_step_of_the_table_has_its_deaths() -> None:
    events = {event for steps in PAYMENT_STATES.values() for event in steps}
    assert {*events, "begin"} == set(CROSSED)
    tried = {place for place, _ in [*BEFORE_IT, *AFTER_IT, *NOT_PAID]} | {PENDING}
    assert set(CROSSED.values()) <= tried


async def key_of(home: PayingHome, mint: str, address: str | None, *, expires_at: int | None = None) -> None:
    """A key with 100 sat, made in an earlier life that does nothing else."""
    options, home.options = home.options, None
    treasury = Treasury(home.settings)
    await treasury.start()
    token = await asyncio.to_thread(Payer(mint).token, 100)
    ask = Receive(token=token, purpose="key", account="a", refund_address=address, expires_at=expires_at)
    await treasury.receive(ask)
    await treasury.stop()
    home.options = options


async def until(seen: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not seen():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(("place", "when"), named([*BEFORE_IT, *AFTER_IT]))
async def test_a_refund_to_an_address_survives_death(
    home: PayingHome, mint: str, payee: Payee, place: tuple[str, str], when: str
) -> None:
    """(Incidents 49, 54, 56, 57, 60.)"""
    await key_of(home, mint, payee.address)
    async with dying_treasury(home, place, when) as treasury:
        told = await treasury.refund("a")
        if isinstance(told, Refunded):  # it was paid before the death, and the rest was paid when asked again
            assert told.amount == 1
        else:
            assert told == Sent(recipient=payee.address, amount_msat=98_000, state="paid")
    assert payments(home.node) == ["paid"]
    assert len(payee.asked) == (2 if (place, when) in BEFORE_IT else 1)
    assert home.node.account("a").balance_msat == (0 if isinstance(told, Refunded) else 1_000)
    await asyncio.to_thread(home.node.proves)


@pytest.mark.parametrize(("place", "when"), named(NOT_PAID))
async def test_a_payment_that_fails_survives_death(
    tmp_path: Path, payee: Payee, place: tuple[str, str], when: str
) -> None:
    """The mint finds no way. Where it may still be asked to pay, all stays set aside; else all is back."""
    mint = MoodyMint(tmp_path / "mint")
    mint.live(pay="FAILED", look="FAILED")
    home = PayingHome(tmp_path / "s", (mint.url,))
    try:
        await key_of(home, mint.url, payee.address, expires_at=int(time.time()))
        home.options = {"refund_processing_interval": 0.2}
        await dies_and_goes_on(home, place, when, lambda: bool(payments(home.node)))
        states, balance = home.node.store().db.execute(
            "SELECT (SELECT group_concat(state) FROM payments), balance FROM accounts"
        ).fetchone()  # fmt: skip
        assert "paid" not in states
        assert balance == (0 if "sent" in states else 100_000)
    finally:
        mint.end()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_death_when_it_is_noted_as_pending(tmp_path: Path, payee: Payee, when: str) -> None:
    mint = MoodyMint(tmp_path / "mint")
    mint.live(pay="PENDING", look="PENDING")
    home = PayingHome(tmp_path / "s", (mint.url,))
    try:
        await key_of(home, mint.url, payee.address, expires_at=int(time.time()))
        home.options = {"refund_processing_interval": 0.2}
        await dies_and_goes_on(home, PENDING, when, lambda: payments(home.node) == ["pending"])
        await asyncio.to_thread(mint.live)
        treasury = Treasury(home.settings)
        await treasury.start()
        await until(lambda: payments(home.node) == ["paid"])
        await treasury.stop()
        assert payee.asked == [98_000]
        await asyncio.to_thread(home.node.proves)
    finally:
        mint.end()


ALONE: list[Death] = [(BEGIN, "before"), (BEGIN, "after"), (ORDER, "before"), (ORDER, "after"), (PAID, "before"),
                      (STEP, "after"), (PAID, "after")]  # fmt: skip


@pytest.mark.parametrize(("place", "when"), named(ALONE))
async def test_an_expired_key_is_paid_once_whatever_dies(
    home: PayingHome, mint: str, payee: Payee, place: tuple[str, str], when: str
) -> None:
    """(Incident 51.)"""
    await key_of(home, mint, payee.address, expires_at=int(time.time()))
    home.options = {"refund_processing_interval": 0.2}
    await dies_and_goes_on(home, place, when, lambda: settled(home))
    assert payments(home.node) == ["paid"]
    assert home.node.account("a").balance_msat == 1_000
    await asyncio.to_thread(home.node.proves)


@pytest.mark.parametrize(("place", "when"), named(ALONE))
async def test_a_payout_is_made_once_whatever_dies(
    home: PayingHome, mint: str, payee: Payee, place: tuple[str, str], when: str
) -> None:
    """(Incidents 52, 56.)"""
    await key_of(home, mint, None)
    charge(home.node, "a", 60_000, "r")
    home.options = {"receive_ln_address": payee.address, "minimum_payout": 20, "payout_interval": 0.2}
    await dies_and_goes_on(home, place, when, lambda: settled(home))
    rows = home.node.store().db.execute("SELECT SUM(amount) FROM payments WHERE state = 'paid'").fetchone()
    assert 20_000 <= rows[0] <= 60_000
    assert home.node.account("a").balance_msat == 40_000
    await asyncio.to_thread(home.node.proves)


def settled(home: PayingHome) -> bool:
    """Something was paid, and nothing is open."""
    states = payments(home.node)
    return "paid" in states and not {"sent", "pending"} & set(states)


async def dies_and_goes_on(home: PayingHome, place: tuple[str, str], when: str, seen: Callable[[], bool]) -> None:
    """A worker is connected all the time, and brings up the next wallet; until this is seen in its books."""
    doomed = home.start(*place, when, "1")
    treasury = Treasury(home.settings)
    try:
        await treasury.start()
        await until(lambda: doomed.poll() is not None)
        await treasury.revive()
        await until(seen)
    finally:
        await treasury.stop()
        if doomed.poll() is None:
            doomed.kill()
            doomed.wait()
