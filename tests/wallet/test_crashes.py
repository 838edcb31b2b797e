"""The wallet killed (SIGKILL) at every boundary of redemption and refund: nothing is lost, nothing doubled.

Each test lets a wallet die at a named function while it is asked. The proxy's side finds it dead, starts
another, and asks again by itself; the books must prove after that, and the coins be where they belong.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from addon.errors import TokenAlreadySpent
from addon.tokens import decode
from addon.treasury import Receive, Treasury
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.faults import FaultyMint, Hold, lose_reply
from tests.wallet.processes import Home, Lines, as_token, ended
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio

OPEN = ("addon.ledger.journal", "Journal.open")
POST = ("addon.wallet.mints", "Mint.swap")
BOOK = ("addon.ledger.journal", "Journal.executed")
COINS = ("addon.ledger.proofs", "Proofs.add")
CREDIT = ("addon.ledger.journal", "Journal._credit")
CLOSE = ("addon.ledger.journal", "Journal.not_executed")
EPOCH = ("addon.ledger.journal", "Journal.enter_epoch")
DEBIT = ("addon.ledger.refunds", "Refunds.open")
PAY = ("addon.ledger.refunds", "Refunds.pay")
PAY_WITHIN = ("addon.ledger.refunds", "Refunds.pay_within")
STATES = ("addon.wallet.mints", "Mint.states")
SIGNED = ("addon.wallet.mints", "Mint.signed")

Death = tuple[tuple[str, str], str]


def named(deaths: Sequence[Death]) -> list[object]:
    return [pytest.param(*d, id=f"{d[1]} {d[0][1]}") for d in deaths]


@contextlib.asynccontextmanager
async def dying_treasury(home: Home, place: tuple[str, str], when: str, count: int = 1) -> AsyncIterator[Treasury]:
    """A worker whose wallet dies once, at this place; it must really have died there."""
    doomed = home.start(*place, when, str(count))
    await home.listening(doomed)
    treasury = Treasury(home.settings)
    try:
        await treasury.start()
        yield treasury
        assert await ended(doomed, 1) == -signal.SIGKILL, "the wallet did not die where it should"
    finally:
        await treasury.stop()
        if doomed.poll() is None:
            doomed.kill()
            doomed.wait()


@pytest.fixture
def home(mint: str, tmp_path: Path) -> Home:
    return Home(tmp_path / "s", (mint,))


@pytest.fixture
def buyer(mint: str) -> Buyer:
    return Buyer(Payer(mint), mint)


async def prove(home: Home, balances: Sequence[int]) -> None:
    node = Node(home.state_dir, home.mints, home.nsec)
    assert node.balances() == list(balances)
    assert "sent" not in node.rows()
    await asyncio.to_thread(node.proves)


def receive(token: str, account: str = "a", purpose: str = "key") -> Receive:
    return Receive.model_validate({"token": token, "account": account, "purpose": purpose})


REDEMPTION: list[Death] = [
    (OPEN, "before"), (OPEN, "after"), (POST, "before"), (POST, "after"), (BOOK, "before"), (COINS, "before"),
    (COINS, "after"), (CREDIT, "before"), (CREDIT, "after"), (BOOK, "after"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "when"), named(REDEMPTION))
async def test_a_redemption_survives_death(home: Home, buyer: Buyer, place: tuple[str, str], when: str) -> None:
    """(Incident 3: a crash between the mint's swap and the credit.)"""
    token = buyer.token(100)
    async with dying_treasury(home, place, when) as treasury:
        first = await treasury.receive(receive(token))
        again = await treasury.receive(receive(token, "b"))
        assert (first.account, first.credited_msat) == ("a", 100_000)
        assert (again.account, again.replayed) == ("a", True)
    assert buyer.states(token) == {"SPENT"}
    await prove(home, [100_000])


@pytest.mark.parametrize(
    ("place", "when"), named([(STATES, "before"), (SIGNED, "before"), (BOOK, "before"), (BOOK, "after")])
)
async def test_a_recovery_survives_death(
    mint: str, tmp_path: Path, buyer: Buyer, place: tuple[str, str], when: str
) -> None:
    """Death while it finds out what became of a lost reply."""
    faulty = FaultyMint(mint)
    await faulty.up()
    home, token = Home(tmp_path / "s", (faulty.url,)), buyer.named(buyer.token(100), mint=faulty.url)
    faulty.next("/v1/swap", lose_reply)
    count = 3 if place == SIGNED else 1  # the first two look for a fresh epoch
    async with dying_treasury(home, place, when, count) as treasury:
        assert (await treasury.receive(receive(token))).credited_msat == 100_000
    await prove(home, [100_000])
    faulty.down()


@pytest.mark.parametrize(("place", "when"), named([(CLOSE, "before"), (CLOSE, "after")]))
async def test_a_refusal_survives_death(home: Home, buyer: Buyer, place: tuple[str, str], when: str) -> None:
    token = buyer.token(100)
    buyer.spend(token)
    async with dying_treasury(home, place, when) as treasury:
        with pytest.raises(TokenAlreadySpent):
            await treasury.receive(receive(token))
    await prove(home, [])


@pytest.mark.parametrize(("place", "when"), named([(EPOCH, "before"), (EPOCH, "after")]))
async def test_the_look_for_an_epoch_survives_death(
    home: Home, buyer: Buyer, place: tuple[str, str], when: str
) -> None:
    async with dying_treasury(home, place, when) as treasury:
        assert (await treasury.receive(receive(buyer.token(5)))).credited_msat == 5_000
    await prove(home, [5_000])


async def test_a_top_up_survives_death(home: Home, buyer: Buyer) -> None:
    await one_life(home, receive(buyer.token(1)))
    async with dying_treasury(home, POST, "after") as treasury:
        await treasury.receive(receive(buyer.token(9), "a", "topup"))
    await prove(home, [10_000])


async def one_life(home: Home, ask: Receive) -> None:
    """A wallet that lives and ends as it should."""
    treasury = Treasury(home.settings)
    await treasury.start()
    await treasury.receive(ask)
    await treasury.stop()


FROM_HAND: list[Death] = [
    (DEBIT, "before"), (DEBIT, "after"), (STATES, "after"), (PAY, "before"), (PAY_WITHIN, "after"), (PAY, "after")
]  # fmt: skip
BY_SWAP: list[Death] = [
    (DEBIT, "before"), (DEBIT, "after"), (OPEN, "before"), (OPEN, "after"), (POST, "before"), (POST, "after"),
    (BOOK, "before"), (COINS, "after"), (PAY_WITHIN, "before"), (PAY_WITHIN, "after"), (BOOK, "after"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cost", "place", "when"),
    [pytest.param(1, *d, id=f"from hand, {d[1]} {d[0][1]}") for d in FROM_HAND]
    + [pytest.param(13, *d, id=f"by a swap, {d[1]} {d[0][1]}") for d in BY_SWAP],
)
async def test_a_refund_survives_death(home: Home, buyer: Buyer, cost: int, place: tuple[str, str], when: str) -> None:
    """(Incidents 38, 42, 56, 57.) Coins 1 and 32 pay 32 as they are; 20 takes a swap."""
    await one_life(home, receive(buyer.token(33)))
    charge(Node(home.state_dir, home.mints), "a", cost * 1000, "r")
    async with dying_treasury(home, place, when) as treasury:
        first = as_token(await treasury.refund("a"))
        assert await treasury.refund("a") == first
        assert (first.amount, first.tokens) == (33 - cost, (first.token,))
    await prove(home, [0])
    assert decode(first.token).amount == 33 - cost == buyer.spend(first.token)


async def test_four_deaths_in_a_row_are_survived(home: Home, buyer: Buyer) -> None:
    """The first while it is asked, the others while they recover what the one before left."""
    token = buyer.token(100)
    doomed = home.start(*OPEN, "after", "1")
    await home.listening(doomed)
    worker = Lines(home)
    await worker.open()
    assert await worker.ask(receive(token).model_dump()) is None
    assert await ended(doomed) == -signal.SIGKILL
    for place, when in ((STATES, "before"), (POST, "after"), (BOOK, "before")):
        assert await ended(home.start(*place, when, "1")) == -signal.SIGKILL
    treasury = Treasury(home.settings)
    assert (await treasury.start()).recovered == 1
    assert (await treasury.receive(receive(token))).credited_msat == 100_000
    await treasury.stop()
    await prove(home, [100_000])


async def test_a_wallet_killed_while_the_mint_answers_credits_once(mint: str, tmp_path: Path, buyer: Buyer) -> None:
    """The swap is executed, the reply is on its way, and nobody is there to hear it."""
    faulty, hold = FaultyMint(mint), Hold(executed_first=True)
    await faulty.up()
    home, token = Home(tmp_path / "s", (faulty.url,)), buyer.named(buyer.token(100), mint=faulty.url)
    faulty.next("/v1/swap", hold)
    treasury = Treasury(home.settings)
    await treasury.start()
    asked = asyncio.create_task(treasury.receive(receive(token)))
    await hold.reached.wait()
    assert treasury._child is not None
    os.kill(treasury._child.pid, signal.SIGKILL)
    hold.release.set()
    assert (await asked).credited_msat == 100_000
    await treasury.stop()
    assert faulty.count("/v1/swap") == 1
    await prove(home, [100_000])
    faulty.down()


async def test_what_nobody_asks_about_again_is_credited_at_the_next_start(home: Home, buyer: Buyer) -> None:
    """(Incident 3.) The client is gone; the account is there when it comes back."""
    token = buyer.token(100)
    doomed = home.start(*POST, "after", "1")
    await home.listening(doomed)
    worker = Lines(home)
    await worker.open()
    assert await worker.ask(receive(token).model_dump()) is None
    await ended(doomed)
    assert Node(home.state_dir, home.mints).rows() == ["sent"]
    later = Treasury(home.settings)
    assert (await later.start()).recovered == 1
    while Node(home.state_dir, home.mints).rows() == ["sent"]:
        await asyncio.sleep(0.05)
    await later.stop()
    await prove(home, [100_000])
