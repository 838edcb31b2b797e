"""The operator's profit, and never anything else, goes to RECEIVE_LN_ADDRESS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from addon.ledger import Journal, NewSwap, Payments, Proofs, Purse
from addon.treasury import Refunded
from scripts.payer import Payer
from tests.parts.lnurl import Payee
from tests.wallet.conftest import Buyer, Node, Scene
from tests.wallet.faults import FaultyMint, answer, lose_reply, lose_request
from tests.wallet.paying import MELT, OPTIONS, MoodyMint, close_books, open_key, payments, refund, stage_at
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio

SOON = 0.05


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    made = await Payee().up()
    yield made
    made.down()


def paid_to(payee: Payee, least_sat: int = 50) -> dict[str, Any]:
    """The operator's settings. His own host may be private, whatever clients may name."""
    return {"receive_ln_address": payee.address, "minimum_payout": least_sat, "payout_interval": SOON,
            "lnurl_allow_private": False}  # fmt: skip


@pytest.fixture
async def stage(mint: str, tmp_path: Path, payee: Payee) -> AsyncIterator[Scene]:
    async with stage_at(mint, tmp_path / "state", **paid_to(payee)) as made:
        yield made


async def test_only_what_is_owed_to_nobody_is_paid_out(stage: Scene, payee: Payee) -> None:
    """(Incidents 52, 53.) All that customers have is still theirs, to the msat and as coins."""
    one, other = await open_key(stage, 1000, None, "one"), await open_key(stage, 700, None, "other")
    charge(stage.node, one, 299_999, "r")
    await stage.eventually(lambda: payments(stage.node)[:1] == ["paid"])
    await close_books(stage)
    assert 220_000 <= sum(payee.asked) <= 299_000
    for account, left in ((one, 700), (other, 700)):
        paid = await refund(stage.node, account)
        assert isinstance(paid, Refunded)
        assert stage.buyer.spend(paid.token) == left
    await close_books(stage)


async def test_customers_get_all_of_theirs_also_where_the_mint_takes_fees(
    fee_mint: str, tmp_path: Path, payee: Payee
) -> None:
    async with stage_at(fee_mint, tmp_path / "state", **paid_to(payee)) as stage:
        keys = [await open_key(stage, 100, None, f"key{n}") for n in range(4)]
        charge(stage.node, keys[0], 90_500, "r")
        left = [stage.node.account(key).balance_msat // 1000 for key in keys]
        await stage.eventually(lambda: payments(stage.node) == ["paid"])
        await close_books(stage)
        assert [getattr(await refund(stage.node, key), "amount") for key in keys] == left  # noqa: B009
        await close_books(stage)


async def test_below_the_minimum_nothing_goes(stage: Scene, payee: Payee) -> None:
    key, rich = await open_key(stage, 60, None), await open_key(stage, 300, None, "rich")
    charge(stage.node, key, 49_000, "r")
    await stage.eventually(lambda: Payments(stage.node.store()).free_profit_msat(purse(stage)) == 49_000)
    charge(stage.node, rich, 1_000, "one more")
    await stage.eventually(lambda: payments(stage.node) == ["paid"])
    assert payee.asked == [48_000]
    await close_books(stage)


def purse(stage: Scene) -> Purse:
    return Purse(stage.mint.url, "sat")


async def test_one_at_a_time_and_a_lost_answer_is_never_paid_again(stage: Scene, payee: Payee) -> None:
    """(Incidents 54, 56.) The mint does not tell what became of it, for many looks; profit grows meanwhile."""
    stage.mint.next(MELT, lose_reply)
    stage.mint.always("/v1/melt/quote/bolt11/", lose_request)
    key = await open_key(stage, 1000, None)
    charge(stage.node, key, 100_000, "r1")
    await stage.eventually(lambda: payments(stage.node) == ["sent"])
    charge(stage.node, key, 200_000, "r2")
    await stage.eventually(lambda: stage.mint.count("/v1/melt/quote/bolt11/") > 3)
    assert len(payee.asked) == 1
    assert payments(stage.node) == ["sent"]
    stage.mint.always("/v1/melt/quote/bolt11/", None)
    await stage.eventually(lambda: payments(stage.node)[:2] == ["paid", "paid"])
    await close_books(stage)
    assert payee.asked[0] == 98_000
    assert 220_000 <= sum(payee.asked) <= 300_000
    paid = await refund(stage.node, key)
    assert isinstance(paid, Refunded)
    assert paid.amount == 700


async def test_a_payout_that_fails_is_tried_again_and_hinders_nothing(stage: Scene, payee: Payee) -> None:
    """(Incidents 49, 57: proofs stuck after a failed payment.)"""
    payee.down()
    stage.mint.next(MELT, answer(400, {"detail": "no route", "code": 20004}))
    key = await open_key(stage, 1000, None)
    charge(stage.node, key, 300_000, "r")
    received = await stage.node.receive(stage.buyer.token(50), key, "topup")
    assert received.credited_msat == 50_000
    await payee.up()
    await stage.eventually(lambda: payments(stage.node)[:2] == ["returned", "paid"])
    paid = await refund(stage.node, key)
    assert isinstance(paid, Refunded)
    assert paid.amount == 750
    await close_books(stage)


async def test_refunds_wait_for_coins_that_a_payout_has(stage: Scene, payee: Payee) -> None:
    """(Incident 57.) The only large coin is on its way, its change is not back yet: never "No balance"."""
    key = await open_key(stage, 1000, None)
    stage.mint.next(MELT, lose_reply)
    stage.mint.always("/v1/melt/quote/bolt11/", lose_request)
    charge(stage.node, key, 300_000, "r")
    await stage.eventually(lambda: payments(stage.node) == ["sent"])
    asked = asyncio.create_task(refund(stage.node, key))
    await stage.eventually(lambda: stage.mint.count("/v1/melt/quote/bolt11/") > 3)
    stage.mint.always("/v1/melt/quote/bolt11/", None)
    paid = await asked
    assert isinstance(paid, Refunded)
    assert sum([stage.buyer.spend(token) for token in paid.tokens]) <= 700
    while stage.node.account(key).balance_msat >= 1000:
        assert isinstance(await refund(stage.node, key), Refunded)
    await close_books(stage)


async def test_coins_that_are_being_changed_hold_a_payout_back(stage: Scene) -> None:
    """After a start, nothing is paid out before what was open there is settled. (Incident 53.)"""
    await open_key(stage, 100, None)
    charge(stage.node, "key", 99_000, "r")
    store = stage.node.store()
    coins = Proofs(store).unspent(purse(stage))
    if not coins:  # it was quick
        return
    free = Payments(store).free_profit_msat(purse(stage))
    ys, face = (coins[-1].Y,), coins[-1].amount
    Journal(store).open(
        NewSwap(id="own", purpose="consolidate", purse=purse(stage), face=face, fee=0, amounts=(1, face - 1),
                keyset=coins[-1].keyset, epoch=coins[-1].epoch, tag=b"", ys=ys)
    )  # fmt: skip
    assert free >= 0
    assert Payments(store).free_profit_msat(purse(stage)) == 0


async def test_mints_are_paid_out_one_by_one_and_one_that_hangs_stops_no_other(
    mint: str, fee_mint: str, tmp_path: Path, payee: Payee
) -> None:
    """(Incident 55.)"""
    faulty = FaultyMint(mint)
    await faulty.up()
    node = Node(tmp_path / "state", (faulty.url, fee_mint), options={**OPTIONS, **paid_to(payee)}).start()
    stage = Scene(faulty, node, Buyer(Payer(mint), faulty.url))
    faulty.always("/v1/melt", answer(500, {}))
    one = await open_key(stage, 300, None)
    other = (await node.receive(Payer(fee_mint).token(300))).account
    charge(node, one, 200_000, "r1")
    charge(node, other, 200_000, "r2")
    await stage.eventually(lambda: payments(node)[:1] == ["paid"])
    mints = "SELECT DISTINCT mint FROM payments WHERE state = 'paid'"
    assert node.store().db.execute(mints).fetchall() == [(fee_mint,)]
    faulty.always("/v1/melt", None)
    await stage.eventually(lambda: len(node.store().db.execute(mints).fetchall()) == 2)
    await close_books(stage)
    faulty.down()


async def test_profit_in_msat_coins_is_paid_out_in_whole_sats(mint: str, tmp_path: Path, payee: Payee) -> None:
    """(Incident 45.)"""
    async with stage_at(mint, tmp_path / "state", **paid_to(payee)) as stage:
        stage.buyer = Buyer(Payer(mint, "msat"), stage.mint.url)
        key = await open_key(stage, 400_500, None)
        charge(stage.node, key, 300_499, "r")
        await stage.eventually(lambda: payments(stage.node)[:1] == ["paid"])
        await close_books(stage)
        assert {asked % 1000 for asked in payee.asked} == {0}
        assert 220_000 <= payee.asked[0] <= 300_499
        paid = await refund(stage.node, key)
        assert isinstance(paid, Refunded)
        assert paid.amount_msat == 100_001


async def test_a_payout_that_stays_pending_keeps_no_customer_from_paying(tmp_path: Path, payee: Payee) -> None:
    mint = MoodyMint(tmp_path / "mint")
    mint.live(pay="PENDING", look="PENDING")
    try:
        async with stage_at(mint.url, tmp_path / "state", **paid_to(payee)) as stage:
            key = await open_key(stage, 1000, None)
            charge(stage.node, key, 300_000, "r")
            await stage.eventually(lambda: payments(stage.node) == ["pending"])
            assert (await stage.node.receive(stage.buyer.token(50), key, "topup")).credited_msat == 50_000
            assert stage.node.account(key).balance_msat == 750_000
            await mint.live_again(stage)
            await close_books(stage)
    finally:
        mint.end()
