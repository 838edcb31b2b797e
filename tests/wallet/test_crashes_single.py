"""The wallet killed (SIGKILL) at every boundary of a single payment: one credit, and its exact change, or all of it back."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from addon.errors import OutcomeUnknown, PaymentRunning, TokenAlreadySpent
from addon.tokens import decode
from addon.treasury import Change, Changed, Treasury
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.faults import FaultyMint, lose_reply
from tests.wallet.processes import Home, Lines, ended
from tests.wallet.test_crashes import (
    BOOK,
    COINS,
    CREDIT,
    OPEN,
    PAY_WITHIN,
    POST,
    SIGNED,
    STATES,
    Death,
    dying_treasury,
    named,
    prove,
    receive,
)
from tests.wallet.test_single import begin, end

pytestmark = pytest.mark.anyio

SET_ASIDE = ("addon.ledger.proofs", "Proofs.reserve")
CLOSE = ("addon.ledger.singles", "Singles.close")
FREE = ("addon.ledger.proofs", "Proofs.free_reserved")
DEBIT = ("addon.ledger.refunds", "Refunds.open_within")
SEAL = ("addon.wallet.coins", "Coins.seal_token")
TELL = ("addon.wallet.coins", "Coins.open_token")

REDEMPTION: list[Death] = [
    (OPEN, "before"), (OPEN, "after"), (POST, "before"), (POST, "after"), (BOOK, "before"), (COINS, "after"),
    (CREDIT, "after"), (SET_ASIDE, "before"), (SET_ASIDE, "after"), (BOOK, "after"),
]  # fmt: skip
CHANGE: list[Death] = [
    (SEAL, "after"), (CLOSE, "before"), (FREE, "after"), (DEBIT, "after"), (PAY_WITHIN, "after"), (CLOSE, "after"),
    (TELL, "before"),
]  # fmt: skip


@pytest.fixture
def home(mint: str, tmp_path: Path) -> Home:
    return Home(tmp_path / "s", (mint,))


@pytest.fixture
def buyer(mint: str) -> Buyer:
    return Buyer(Payer(mint), mint)


def node(home: Home) -> Node:
    return Node(home.state_dir, home.mints, home.nsec)


async def recalled(treasury: Treasury, token: str) -> Changed:
    """What the payer gets who asks until it is told."""
    while True:
        try:
            return await treasury.recall(token)
        except (PaymentRunning, OutcomeUnknown):
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("place", "when"), named(REDEMPTION))
async def test_the_redemption_of_a_payment_survives_death(
    home: Home, buyer: Buyer, place: tuple[str, str], when: str
) -> None:
    """(Incident 3.) Asked again under the same account it goes on; another use of the token is told that it is one."""
    token = buyer.token(100)
    async with dying_treasury(home, place, when) as treasury:
        first = await treasury.receive(receive(token, "p", "single"))
        assert (first.account, first.credited_msat) == ("p", 100_000)
        with pytest.raises(TokenAlreadySpent):
            await treasury.receive(receive(token, "q", "single"))
        begin(node(home), "p", 100_000)
        end(node(home), "p", 100_000, 40_500)
        changed = await treasury.change("p")
        assert await treasury.recall(token) == changed
    assert changed.amount == 59 == buyer.spend(changed.token)
    await prove(home, [0])


@pytest.mark.parametrize(("place", "when"), named(CHANGE))
async def test_the_change_survives_death(home: Home, buyer: Buyer, place: tuple[str, str], when: str) -> None:
    """(Incidents 38, 42: paid twice; a token that was only in memory.)"""
    token = buyer.token(100)
    async with dying_treasury(home, place, when) as treasury:
        await treasury.receive(receive(token, "p", "single"))
        begin(node(home), "p", 100_000)
        end(node(home), "p", 100_000, 40_500)
        changed = await treasury.change("p")
        assert await treasury.change("p") == changed == await treasury.recall(token)
    assert (changed.amount, decode(changed.token).amount) == (59, 59)
    assert buyer.spend(changed.token) == 59
    await prove(home, [0])


@pytest.mark.parametrize(("place", "when"), named([(STATES, "before"), (SIGNED, "before"), (SET_ASIDE, "after")]))
async def test_the_recovery_of_a_payment_survives_death(
    mint: str, tmp_path: Path, buyer: Buyer, place: tuple[str, str], when: str
) -> None:
    faulty = FaultyMint(mint)
    await faulty.up()
    home, token = Home(tmp_path / "s", (faulty.url,)), buyer.named(buyer.token(100), mint=faulty.url)
    faulty.next("/v1/swap", lose_reply)
    count = 3 if place == SIGNED else 1  # the first two look for a fresh epoch
    async with dying_treasury(home, place, when, count) as treasury:
        await treasury.receive(receive(token, "p", "single"))
        changed = await treasury.change("p")
    assert changed.amount == 100 == buyer.spend(changed.token)
    await prove(home, [0])
    faulty.down()


@pytest.mark.parametrize("place", [OPEN, POST, BOOK], ids=["before POST", "after POST", "after the credit"])
async def test_a_payment_that_died_with_its_proxy_comes_back_whole(
    home: Home, buyer: Buyer, place: tuple[str, str]
) -> None:
    """(Incidents 3, 43.) Nobody asks for it again but its payer, at the refund call."""
    token = buyer.token(100)
    doomed = home.start(*place, "after", "1")
    await home.listening(doomed)
    worker = Lines(home)
    await worker.open()
    assert await worker.ask(receive(token, "p", "single").model_dump()) is None
    assert await ended(doomed) == -signal.SIGKILL
    later = Treasury(home.settings)
    await later.start()
    changed = await recalled(later, token)
    assert await later.recall(token) == changed
    await later.stop()
    assert changed.amount == 100 == buyer.spend(changed.token)
    await prove(home, [0])


async def test_a_payment_that_died_between_cost_and_change_has_its_change(home: Home, buyer: Buyer) -> None:
    """Proxy and wallet both; the next wallet pays it by itself, and tells it to the payer."""
    token = buyer.token(100)
    doomed = home.start(*CLOSE, "before", "1")
    await home.listening(doomed)
    worker = Lines(home)
    await worker.open()
    await worker.ask(receive(token, "p", "single").model_dump())
    begin(node(home), "p", 100_000)
    end(node(home), "p", 100_000, 30_000)
    assert await worker.ask(Change(account="p").model_dump()) is None
    assert await ended(doomed) == -signal.SIGKILL
    later = Treasury(home.settings)
    await later.start()
    while node(home).balances() != [0]:
        await asyncio.sleep(0.02)
    changed = await later.recall(token)
    await later.stop()
    assert changed.amount == 70 == buyer.spend(changed.token)
    await prove(home, [0])
