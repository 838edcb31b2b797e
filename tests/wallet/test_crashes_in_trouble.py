"""The wallet killed (SIGKILL) where something had gone wrong already: refusals, lost coins, fees that rose, a first start."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from addon.errors import FeesExceedToken, TokenAlreadySpent
from addon.ledger import audit
from addon.treasury import Treasury
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.faults import FaultyMint, answer, change
from tests.wallet.processes import Home, Lines, as_token, ended
from tests.wallet.test_crashes import CLOSE, DEBIT, dying_treasury, named, one_life, prove, receive
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio

GIVE_BACK = ("addon.ledger.refunds", "Refunds.give_back")
LOSE = ("addon.ledger.journal", "Journal.lose")
FORGET = ("addon.ledger.journal", "Journal.forget_closed")
SPELLING = ("addon.ledger.journal", "Journal.still_opened_by_token")
KEEP = ("addon.wallet.identity", "_keep")


class Trouble:
    """A wallet's home at a mint whose network can fail, and a buyer."""

    def __init__(self, faulty: FaultyMint, target: str, state_dir: Path) -> None:
        self.mint = faulty
        self.home, self.buyer = Home(state_dir, (faulty.url,)), Buyer(Payer(target), faulty.url)

    @property
    def node(self) -> Node:
        return Node(self.home.state_dir, self.home.mints, self.home.nsec)

    async def opened(self, sats: int, cost: int) -> None:
        """Account "a" with so many sat, of which a request cost some."""
        await one_life(self.home, receive(self.buyer.token(sats)))
        charge(self.node, "a", cost * 1000, "r")


@pytest.fixture
async def trouble(mint: str, tmp_path: Path) -> AsyncIterator[Trouble]:
    faulty = FaultyMint(mint)
    await faulty.up()
    yield Trouble(faulty, mint, tmp_path / "s")
    faulty.down()


@pytest.mark.parametrize(("place", "when"), named([(CLOSE, "before"), (CLOSE, "after")]))
async def test_a_refused_change_of_own_coins_survives_death(
    trouble: Trouble, place: tuple[str, str], when: str
) -> None:
    """(Incident 57: coins stuck as reserved.)"""
    await trouble.opened(33, 13)
    trouble.mint.next("/v1/swap", answer(400, {"detail": "no", "code": 10001}))
    async with dying_treasury(trouble.home, place, when) as treasury:
        refunded = as_token(await treasury.refund("a"))
    assert trouble.buyer.spend(refunded.token) == 20
    await prove(trouble.home, [0])


@pytest.mark.parametrize(("place", "when"), named([(LOSE, "before"), (LOSE, "after")]))
async def test_the_loss_of_coins_survives_death(
    trouble: Trouble, tmp_path: Path, place: tuple[str, str], when: str
) -> None:
    """(Incident 60.) Another life of the directory spent them; what is there is paid out."""
    await trouble.opened(33, 1)
    await one_life(trouble.home, receive(trouble.buyer.token(32), "b"))
    copy = trouble.node.copy(tmp_path / "copy").start()
    trouble.buyer.spend((await copy.refund("a")).token)
    async with dying_treasury(trouble.home, place, when) as treasury:
        refunded = as_token(await treasury.refund("a"))
    assert trouble.buyer.states(refunded.token) == {"UNSPENT"}
    assert {finding.check for finding in audit(trouble.node.store())} == {"solvent"}  # told, and nothing else is wrong


def _dear(reply: Any) -> Any:
    return {"keysets": [keyset | {"input_fee_ppk": 50_000} for keyset in reply["keysets"]]}


@pytest.mark.parametrize(("place", "when"), named([(GIVE_BACK, "before"), (GIVE_BACK, "after")]))
async def test_a_refund_that_goes_back_survives_death(trouble: Trouble, place: tuple[str, str], when: str) -> None:
    """It was debited; before it is paid the mint takes 50 sat a coin. Then it comes to its senses."""
    await trouble.opened(33, 13)
    doomed = trouble.home.start(*DEBIT, "after", "1")
    await trouble.home.listening(doomed)
    worker = Lines(trouble.home)
    await worker.open()
    assert await worker.ask({"op": "refund", "account": "a"}) is None
    assert await ended(doomed) == -signal.SIGKILL
    assert trouble.node.account("a").balance_msat == 0
    trouble.mint.always("/v1/keysets", change(_dear))
    async with dying_treasury(trouble.home, place, when) as treasury:
        with pytest.raises(FeesExceedToken):
            await treasury.refund("a")
    assert trouble.node.account("a").balance_msat == 20_000
    trouble.mint.always("/v1/keysets", None)
    treasury = Treasury(trouble.home.settings)
    await treasury.start()
    told = as_token(await treasury.refund("a"))
    await treasury.stop()
    assert told.tokens == (told.token,) and trouble.buyer.spend(told.token) == 20
    await prove(trouble.home, [0])


@pytest.mark.parametrize(
    ("place", "when"), named([(FORGET, "before"), (FORGET, "after"), (SPELLING, "before"), (SPELLING, "after")])
)
async def test_tidying_and_telling_again_survive_death(trouble: Trouble, place: tuple[str, str], when: str) -> None:
    token, spent = trouble.buyer.token(9), trouble.buyer.token(9)
    trouble.buyer.spend(spent)
    await one_life(trouble.home, receive(token))
    doomed = trouble.home.start(*place, when, "1")
    await trouble.home.listening(doomed)
    treasury = Treasury(trouble.home.settings)
    await treasury.start()
    assert (await treasury.receive(receive(token, "b"))).account == "a"
    with pytest.raises(TokenAlreadySpent):
        await treasury.receive(receive(spent, "c"))
    await treasury.stop()
    assert await ended(doomed, 1) == -signal.SIGKILL
    await prove(trouble.home, [9_000])


@pytest.mark.parametrize(("when", "count"), [("before", 1), ("after", 1), ("before", 2), ("after", 2)])
async def test_a_first_start_survives_death(trouble: Trouble, when: str, count: int) -> None:
    """The secret, then the name of the directory's owner: whole, or not there."""
    trouble.home.nsec = ""
    doomed = trouble.home.start(*KEEP, when, str(count))
    assert await ended(doomed) == -signal.SIGKILL
    kept = trouble.home.state_dir / "nsec"
    secret = kept.read_bytes() if kept.exists() else None
    treasury = Treasury(trouble.home.settings)
    name = (await treasury.start()).npub
    assert (await treasury.receive(receive(trouble.buyer.token(4)))).credited_msat == 4_000
    await treasury.stop()
    assert secret in (None, kept.read_bytes())
    again = Treasury(trouble.home.settings)
    assert (await again.start()).npub == name
    await again.stop()
    await asyncio.to_thread(trouble.node.proves)
