"""Lightning payments at mints, and beside copies of this node, that do not do as they should."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from addon.errors import InvalidParameter, MintUnreachable
from addon.ledger import audit
from addon.treasury import Refunded, Sent
from tests.parts.lnurl import Payee
from tests.wallet.conftest import Scene
from tests.wallet.faults import answer, change
from tests.wallet.paying import MELT, close_books, open_key, payments, refund, stage_at

pytestmark = pytest.mark.anyio


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    made = await Payee().up()
    yield made
    made.down()


@pytest.fixture
async def stage(mint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr("addon.wallet.address_refund.LIMIT_S", 3.0)
    async with stage_at(mint, tmp_path / "state") as made:
        yield made


async def test_coins_that_a_copy_of_this_node_spent_are_lost_and_the_payment_given_back(
    stage: Scene, payee: Payee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Incident 60.) Its owner is owed as before; the audit says that coins are missing."""
    monkeypatch.setattr("addon.wallet.address_refund.LIMIT_S", 15.0)
    account = await open_key(stage, 100, payee.address)
    copy = stage.node.copy(tmp_path / "copy").start()
    taken = await refund(copy, account, to_token=True)
    assert isinstance(taken, Refunded)
    assert stage.buyer.spend(taken.token) == 100
    with pytest.raises(MintUnreachable):
        await refund(stage.node, account)
    assert payments(stage.node) == ["returned"]
    assert stage.node.account(account).balance_msat == 100_000
    assert {finding.check for finding in audit(stage.node.store())} == {"solvent"}


async def test_outputs_that_another_life_had_signed_lead_to_the_next_epoch(
    stage: Scene, payee: Payee, tmp_path: Path
) -> None:
    """A copy of the directory made coins of the same counters; the next try has fresh ones."""
    account = await open_key(stage, 100, payee.address)
    copy = stage.node.copy(tmp_path / "copy").start()
    await copy.receive(stage.buyer.token(1000))
    with pytest.raises(MintUnreachable):
        await refund(stage.node, account)
    assert stage.node.epoch(stage.mint.url) == 1
    await stage.node.receive(stage.buyer.token(7))  # its first coins there
    assert isinstance(await refund(stage.node, account), Sent)
    await close_books(stage)


def _doubled(told: Any) -> Any:
    return told | {"signatures": [one | {"amount": 64} for one in told["signatures"]]}


def _stripped(told: Any) -> Any:
    return told | {"signatures": [one | {"dleq": None} for one in told["signatures"]]}


@pytest.mark.parametrize("edit", [_doubled, _stripped, lambda told: {"outputs": "junk"}])
async def test_change_that_is_not_right_is_asked_for_again_and_credited_once(
    stage: Scene, payee: Payee, edit: Callable[[Any], Any]
) -> None:
    """The invoice is paid, so nothing goes back but what the mint really signed."""
    account = await open_key(stage, 100, payee.address)
    stage.mint.always("/v1/restore", change(edit))
    told = await refund(stage.node, account)
    assert told == Sent(recipient=payee.address, amount_msat=98_000, state="pending")
    assert stage.node.account(account).balance_msat == 0
    stage.mint.always("/v1/restore", None)
    await close_books(stage)
    assert stage.node.account(account).balance_msat == 1_000


async def test_a_mint_that_gives_no_change_back_costs_no_more_than_was_reserved(stage: Scene, payee: Payee) -> None:
    account = await open_key(stage, 100, payee.address)
    stage.mint.always("/v1/restore", change(lambda told: {"outputs": [], "signatures": []}))
    assert isinstance(await refund(stage.node, account), Sent)
    assert stage.node.account(account).balance_msat == 0
    assert payments(stage.node) == ["paid"]


async def test_a_mint_without_change_pays_with_coins_of_just_the_amount_or_not_at_all(
    stage: Scene, payee: Payee
) -> None:
    stage.mint.always("/v1/info", change(lambda told: told | {"nuts": told["nuts"] | {"8": {"supported": False}}}))
    account = await open_key(stage, 10, payee.address)  # 1, 1, 8: an amount of 8 and 2 for the way
    sent = await refund(stage.node, account)
    assert isinstance(sent, Sent)
    assert sent.amount_msat == 8_000
    assert stage.node.account(account).balance_msat == 0
    other = await open_key(stage, 1025, payee.address, "other")  # 1, 1024
    with pytest.raises(InvalidParameter, match="no change"):
        await refund(stage.node, other)
    assert stage.node.account(other).balance_msat == 1_025_000


async def test_who_asks_again_and_again_does_not_make_us_storm_the_mint(stage: Scene, payee: Payee) -> None:
    """(Incident 59.)"""
    account = await open_key(stage, 100, payee.address)
    stage.mint.next(MELT, answer(500, {}))
    stage.mint.always("/v1/melt/quote/bolt11/", answer(500, {}))
    for _ in range(3):
        assert isinstance(await refund(stage.node, account), Sent)
    assert stage.mint.count("/v1/melt/quote/bolt11/") < 40
    stage.mint.always("/v1/melt/quote/bolt11/", None)
    await stage.eventually(lambda: payments(stage.node) != ["sent"], 30)
