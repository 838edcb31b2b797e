"""The wallet killed (SIGKILL) at every boundary between an invoice and its credit: paid once is credited once."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from addon.ledger import INVOICE_STATES, Invoices
from addon.treasury import OrderInvoice, Treasury
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.faults import FaultyMint, change, lose_reply
from tests.wallet.processes import Home, ended
from tests.wallet.test_crashes import BOOK, COINS, CREDIT, OPEN, SIGNED, Death, named, one_life, prove, receive

pytestmark = pytest.mark.anyio

ADD = ("addon.ledger.invoices", "Invoices.add")
CLOSE = ("addon.ledger.invoices", "Invoices.close_within")
LEAVE = ("addon.ledger.invoices", "Invoices.leave")
ORDER = ("addon.wallet.quotes", "order")
STATE = ("addon.wallet.quotes", "state")
ISSUE = ("addon.wallet.quotes", "issue")
AS_INPUTS = ("addon.wallet.quotes", "as_inputs")

BEFORE_ANYBODY_SEES_IT: list[Death] = [(ORDER, "before"), (ORDER, "after"), (ADD, "before"), (ADD, "after")]
ON_THE_WAY_TO_THE_CREDIT: list[Death] = [
    (STATE, "before"), (STATE, "after"), (OPEN, "before"), (OPEN, "after"), (ISSUE, "before"), (ISSUE, "after"),
    (BOOK, "before"), (COINS, "before"), (COINS, "after"), (CREDIT, "before"), (CLOSE, "before"), (CLOSE, "after"),
    (CREDIT, "after"), (BOOK, "after"),
]  # fmt: skip
WHILE_LOOKING: list[Death] = [(AS_INPUTS, "before"), (AS_INPUTS, "after"), (BOOK, "before"), (BOOK, "after")]


@pytest.fixture
def home(mint: str, tmp_path: Path) -> Home:
    return Home(tmp_path / "s", (mint,))


def ask(purpose: str = "key", account: str = "a") -> OrderInvoice:
    return OrderInvoice.model_validate({"id": "11" * 32, "amount_msat": 33_000, "purpose": purpose, "account": account})


async def until(seen: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not seen():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.05)


def state(home: Home) -> str | None:
    found = Invoices(Node(home.state_dir, home.mints).store()).find(ask().id)
    return None if found is None else found.state


async def dies_and_goes_on(home: Home, death: tuple[str, ...], asked: OrderInvoice) -> None:
    """An invoice is ordered of a wallet that dies there; another one takes it to its end, and nobody asks it to."""
    doomed = home.start(*death)
    await home.listening(doomed)
    treasury = Treasury(home.settings)
    try:
        await treasury.start()
        told = await treasury.invoice(asked)
        assert await ended(doomed, 60) == -signal.SIGKILL, "the wallet did not die where it should"
        assert await treasury.invoice(asked) == told, "the one that was shown is the one that is credited"
        await until(lambda: state(home) == "paid")
    finally:
        await treasury.stop()
        if doomed.poll() is None:
            doomed.kill()
            doomed.wait()


@pytest.mark.parametrize(("place", "when"), named(BEFORE_ANYBODY_SEES_IT))
async def test_an_order_survives_death(home: Home, place: tuple[str, str], when: str) -> None:
    await dies_and_goes_on(home, (*place, when, "1"), ask())
    await prove(home, [33_000])


@pytest.mark.parametrize(("place", "when"), named(ON_THE_WAY_TO_THE_CREDIT))
async def test_a_paid_invoice_survives_death(home: Home, place: tuple[str, str], when: str) -> None:
    """(Incidents 3 and 12: paid, and lost in between; or credited twice.)"""
    await dies_and_goes_on(home, (*place, when, "1"), ask())
    await prove(home, [33_000])


@pytest.mark.parametrize(("place", "when"), named([(ISSUE, "after"), (CREDIT, "after")]))
async def test_a_paid_top_up_survives_death(home: Home, mint: str, place: tuple[str, str], when: str) -> None:
    await one_life(home, receive(Buyer(Payer(mint), mint).token(10)))
    await dies_and_goes_on(home, (*place, when, "1"), ask("topup"))
    await prove(home, [43_000])


@pytest.mark.parametrize(("place", "when"), named(WHILE_LOOKING))
async def test_the_look_after_a_lost_reply_survives_death(
    mint: str, tmp_path: Path, place: tuple[str, str], when: str
) -> None:
    faulty = FaultyMint(mint)
    await faulty.up()
    faulty.next("/v1/mint/bolt11", lose_reply)
    home = Home(tmp_path / "s", (faulty.url,))
    await dies_and_goes_on(home, (*place, when, "1"), ask())
    assert sum(path == "/v1/mint/bolt11" for _, path, _ in faulty.asked) == 1
    await prove(home, [33_000])
    faulty.down()


@pytest.mark.parametrize(("place", "when"), named([(LEAVE, "before"), (CLOSE, "after"), (LEAVE, "after")]))
async def test_leaving_an_unpaid_invoice_survives_death(
    mint: str, tmp_path: Path, place: tuple[str, str], when: str
) -> None:
    faulty = FaultyMint(mint)
    await faulty.up()
    faulty.always("/v1/mint/quote/bolt11/", change(lambda quote: quote | {"state": "UNPAID"}))
    home = Home(tmp_path / "s", (faulty.url,))
    treasury = Treasury(home.settings)
    await treasury.start()
    await treasury.invoice(ask())
    await treasury.stop()
    store = Node(home.state_dir, home.mints).store()
    with store.transaction():
        store.db.execute("UPDATE invoices SET expires_at = 1")
    assert await ended(home.start(*place, when, "1"), 60) == -signal.SIGKILL
    again = Treasury(home.settings)
    await again.start()
    await until(lambda: state(home) == "left")
    faulty.always("/v1/mint/quote/bolt11/", None)
    await again.look_at_invoice(ask().id)
    await until(lambda: state(home) == "paid")
    await again.stop()
    await prove(home, [33_000])
    faulty.down()


@pytest.mark.parametrize(("place", "when"), named([(SIGNED, "before"), (CLOSE, "before"), (CLOSE, "after")]))
async def test_the_end_of_a_copys_invoice_survives_death(
    mint: str, tmp_path: Path, place: tuple[str, str], when: str
) -> None:
    """It was minted by another life; whenever the copy dies over that, it credits nothing."""
    faulty = FaultyMint(mint)
    await faulty.up()
    faulty.always("/v1/mint/quote/bolt11/", change(lambda quote: quote | {"state": "UNPAID"}))
    node = Node(tmp_path / "s", (faulty.url,)).start()
    assert node.vault is not None
    await node.vault.answer(ask())
    home = Home(node.copy(tmp_path / "copy").state_dir, node.mints, node.nsec)
    faulty.always("/v1/mint/quote/bolt11/", None)
    await until(lambda: node.balances() == [33_000])
    assert await ended(home.start(*place, when, "1"), 60) == -signal.SIGKILL
    treasury = Treasury(home.settings)
    await treasury.start()
    await until(lambda: state(home) == "lost")
    await treasury.stop()
    await prove(home, [])
    faulty.down()


def test_every_step_of_an_invoice_has_its_deaths() -> None:
    """A new event of the table needs a test above."""
    tried = {"issued": ON_THE_WAY_TO_THE_CREDIT, "unpaid": LEAVE, "taken": CLOSE}
    assert {event for events in INVOICE_STATES.values() for event in events} == set(tried)
