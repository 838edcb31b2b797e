"""Refunds to the Lightning address that a key was opened with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from addon.errors import InvalidParameter, MintError, MintUnreachable, NoBalance, RequestsRunning
from addon.ledger import audit
from addon.money import to_msat
from addon.treasury import Refunded, Sent
from scripts.payer import Payer
from tests.parts.lnurl import Payee, invoice
from tests.wallet.conftest import Buyer, Node, Scene
from tests.wallet.faults import FaultyMint, Hold, answer, change, lose_reply, lose_request
from tests.wallet.paying import MELT, OPTIONS, QUOTE, MoodyMint, close_books, open_key, payments, refund, stage_at
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    made = await Payee().up()
    yield made
    made.down()


@pytest.fixture
async def stage(mint: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with stage_at(mint, tmp_path / "state") as made:
        yield made


async def test_it_goes_to_the_address_and_what_the_way_did_not_cost_stays(stage: Scene, payee: Payee) -> None:
    """The reserve (2 sat) comes out of the refund; FakeWallet's way costs 1. (Incidents 45, 49.)"""
    account = await open_key(stage, 100, payee.address)
    assert await refund(stage.node, account) == Sent(recipient=payee.address, amount_msat=98_000, state="paid")
    assert payee.asked == [98_000]
    assert stage.node.account(account).balance_msat == 1_000
    await close_books(stage)


async def test_parts_of_a_sat_stay_and_large_amounts_leave_room_for_two_percent(stage: Scene, payee: Payee) -> None:
    account = await open_key(stage, 5000, payee.address)
    charge(stage.node, account, 250, "r")
    sent = await refund(stage.node, account)
    assert isinstance(sent, Sent)
    assert sent.amount_msat == (4999_000 - 4999_000 * 2 // 100) // 1000 * 1000
    assert stage.node.account(account).balance_msat == 4_999_750 - sent.amount_msat - 1_000
    await close_books(stage)


async def test_a_mint_that_takes_a_fee_for_coins_takes_it_out_of_the_refund(fee_mint: str, tmp_path: Path,
                                                                            payee: Payee) -> None:  # fmt: skip
    async with stage_at(fee_mint, tmp_path / "state") as stage:
        account = await open_key(stage, 200, payee.address)
        before = stage.node.account(account).balance_msat
        sent = await refund(stage.node, account)
        assert isinstance(sent, Sent)
        left = stage.node.account(account).balance_msat
        assert 0 <= before - sent.amount_msat - left <= 3_000
        await close_books(stage)


async def test_below_ten_sat_and_on_wish_it_is_a_token(stage: Scene, payee: Payee) -> None:
    small, other = await open_key(stage, 9, payee.address), await open_key(stage, 20, payee.address, "other")
    for account, to_token, amount in ((small, False, 9), (other, True, 20)):
        paid = await refund(stage.node, account, to_token=to_token)
        assert isinstance(paid, Refunded)
        assert stage.buyer.spend(paid.token) == amount
    assert payee.paths == []
    await close_books(stage)


async def test_a_key_without_an_address_gets_a_token(stage: Scene) -> None:
    paid = await refund(stage.node, await open_key(stage, 50, None))
    assert isinstance(paid, Refunded)
    await close_books(stage)


async def test_many_askers_at_once_are_paid_once(stage: Scene, payee: Payee) -> None:
    """(Incidents 38, 56.) What the mint gave back is a token, for who asks on."""
    account = await open_key(stage, 100, payee.address)
    told = await asyncio.gather(*[refund(stage.node, account) for _ in range(5)])
    assert payee.asked == [98_000]
    assert [isinstance(one, Sent) for one in told].count(True) == 1
    assert {one.amount for one in told if isinstance(one, Refunded)} == {1}
    await close_books(stage)


async def test_asked_again_it_is_told_again(stage: Scene, payee: Payee) -> None:
    account = await open_key(stage, 100, payee.address)
    first = await refund(stage.node, account)
    charge(stage.node, account, 1_000, "the rest")
    assert await refund(stage.node, account) == first
    with pytest.raises(NoBalance):
        await refund(stage.node, account, to_token=True)
    assert payee.asked == [98_000]


async def test_not_while_requests_run(stage: Scene, payee: Payee) -> None:
    """(Incident 41.)"""
    account = await open_key(stage, 100, payee.address)
    stage.node.books().hold("r", account, 10_000, worker="w")
    with pytest.raises(RequestsRunning, match="ongoing requests"):
        await refund(stage.node, account)
    assert payee.paths == []


async def test_a_refused_payment_gives_everything_back_at_once(stage: Scene, payee: Payee) -> None:
    account = await open_key(stage, 100, payee.address)
    for rule in (answer(400, {"detail": "no route", "code": 20004}), answer(429, {})):
        stage.mint.next(MELT, rule)
        with pytest.raises(MintUnreachable, match="as before"):
            await refund(stage.node, account)
        await stage.eventually(lambda: stage.node.account(account).balance_msat == 100_000)
    stage.mint.down()
    with pytest.raises(MintError):
        await refund(stage.node, account)
    await stage.mint.up()
    assert stage.node.account(account).balance_msat == 100_000
    await close_books(stage)


async def test_the_outputs_of_refused_payments_are_used_again(stage: Scene, payee: Payee) -> None:
    """Else strangers could burn counters, until a search from the secret alone finds nothing any more."""
    account = await open_key(stage, 100, payee.address)
    counters = "SELECT SUM(next) FROM counters"
    stage.mint.next(MELT, answer(400, {"detail": "no route", "code": 20004}))
    with pytest.raises(MintUnreachable):
        await refund(stage.node, account)
    (before,) = stage.node.store().db.execute(counters).fetchone()
    for _ in range(10):
        stage.mint.next(MELT, answer(400, {"detail": "no route", "code": 20004}))
        with pytest.raises(MintUnreachable):
            await refund(stage.node, account)
    assert stage.node.store().db.execute(counters).fetchone() == (before,)


@pytest.mark.parametrize(
    "rule", [
        lose_reply, lose_request, answer(502, b"bad gateway"), answer(408, b"<html>gave up"), change(lambda told: "junk"),
    ],
    ids=["the reply is lost", "the order is lost", "another answers", "a gateway gives up", "junk"],
)  # fmt: skip
async def test_an_answer_that_is_lost_is_found_again_and_nothing_is_paid_twice(
    stage: Scene, payee: Payee, rule: object
) -> None:
    """(Incidents 54, 55, 60.)"""
    account = await open_key(stage, 100, payee.address)
    stage.mint.next(MELT, rule)  # type: ignore[arg-type]
    assert await refund(stage.node, account) == Sent(recipient=payee.address, amount_msat=98_000, state="paid")
    assert payee.asked == [98_000]
    assert stage.node.account(account).balance_msat == 1_000
    await close_books(stage)


async def test_while_the_outcome_is_not_known_nothing_is_given_back(
    stage: Scene, payee: Payee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order's reply and every question after it are lost; then the mint is there again. (Incident 54.)"""
    monkeypatch.setattr("addon.wallet.address_refund.LIMIT_S", 2.0)
    account = await open_key(stage, 100, payee.address)
    stage.mint.next(MELT, lose_reply)
    stage.mint.always("/v1/melt/quote/bolt11/", lose_request)
    for _ in range(2):
        told = await refund(stage.node, account)
        assert told == Sent(recipient=payee.address, amount_msat=98_000, state="pending")
    assert stage.node.account(account).balance_msat == 0
    assert await refund(stage.node, account, to_token=True) == told, "never: no balance"
    assert audit(stage.node.store()) == []
    stage.mint.always("/v1/melt/quote/bolt11/", None)
    await close_books(stage)
    assert stage.node.account(account).balance_msat == 1_000
    assert payee.asked == [98_000]


async def test_an_order_that_may_be_at_work_is_not_given_up_before_its_invoice_has_expired(
    stage: Scene, payee: Payee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first order never came to an end; later ones are refused. It could still be paid: so nothing goes back."""
    monkeypatch.setattr("addon.wallet.address_refund.LIMIT_S", 2.0)
    account = await open_key(stage, 100, payee.address)
    stage.mint.next(MELT, lose_request)
    stage.mint.always(MELT, answer(400, {"detail": "no route", "code": 20004}))
    assert isinstance(await refund(stage.node, account), Sent)
    await stage.eventually(lambda: stage.mint.count(MELT) > 3)
    assert payments(stage.node) == ["sent"]
    monkeypatch.setattr("addon.wallet.melt.EXPIRED_FOR_S", -10_000)
    await close_books(stage)
    assert payments(stage.node) == ["returned"]
    assert stage.node.account(account).balance_msat == 100_000


async def test_a_pending_payment_is_told_so_and_followed_to_its_end(
    tmp_path: Path, payee: Payee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mint's own Lightning node is slow; and the mint restarts meanwhile."""
    monkeypatch.setattr("addon.wallet.address_refund.LIMIT_S", 2.0)
    mint = MoodyMint(tmp_path / "mint")
    mint.live(pay="PENDING", look="PENDING")
    try:
        async with stage_at(mint.url, tmp_path / "state") as stage:
            account = await open_key(stage, 100, payee.address)
            for _ in range(2):
                told = await refund(stage.node, account)
                assert told == Sent(recipient=payee.address, amount_msat=98_000, state="pending")
            assert payments(stage.node) == ["pending"]
            await mint.live_again(stage)
            await close_books(stage)
            told = await refund(stage.node, account)
            assert payee.asked == [98_000]
            assert isinstance(told, Refunded)
            assert told.amount == 2  # it told no fee
    finally:
        mint.end()


async def test_a_payment_that_fails_after_it_was_pending_comes_back(tmp_path: Path, payee: Payee,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("addon.wallet.address_refund.LIMIT_S", 2.0)
    mint = MoodyMint(tmp_path / "mint")
    mint.live(pay="PENDING", look="PENDING")
    try:
        async with stage_at(mint.url, tmp_path / "state") as stage:
            account = await open_key(stage, 100, payee.address)
            assert isinstance(await refund(stage.node, account), Sent)
            await mint.live_again(stage, pay="FAILED", look="FAILED")
            await stage.eventually(lambda: stage.node.account(account).balance_msat == 100_000)
            await close_books(stage)
            with pytest.raises(MintUnreachable, match="no way"):
                await refund(stage.node, account)
            paid = await refund(stage.node, account, to_token=True)
            assert isinstance(paid, Refunded)
            assert paid.amount == 100
    finally:
        mint.end()


async def test_what_is_on_its_way_at_the_end_goes_on_in_the_next_life(
    stage: Scene, payee: Payee, tmp_path: Path
) -> None:
    account = await open_key(stage, 100, payee.address)
    hold = Hold(executed_first=True)
    stage.mint.next(MELT, hold)
    asked = asyncio.create_task(refund(stage.node, account))
    await hold.reached.wait()
    next_life = stage.node.copy(tmp_path / "next")
    asked.cancel()
    stage.node = next_life.start()
    await close_books(stage)
    assert payments(next_life) == ["paid"]
    assert next_life.account(account).balance_msat == 1_000
    hold.release.set()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda told: told | {"amount": told["amount"] - 1}, "as it is"),
        (lambda told: told | {"amount": told["amount"] + 1}, "as it is"),
        (lambda told: told | {"fee_reserve": 3}, "too high a fee"),
        (lambda told: told | {"state": "PAID"}, "as it is"),
    ],
)
async def test_a_quote_that_is_not_the_invoices_or_too_dear_is_refused(
    stage: Scene, payee: Payee, edit: object, words: str
) -> None:
    account = await open_key(stage, 100, payee.address)
    stage.mint.next(QUOTE, change(edit))  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match=words):
        await refund(stage.node, account)
    assert payments(stage.node) == []
    assert stage.node.account(account).balance_msat == 100_000


async def test_a_quote_or_an_invoice_that_comes_a_second_time_is_not_paid(stage: Scene, payee: Payee) -> None:
    one, other = await open_key(stage, 100, payee.address), await open_key(stage, 100, payee.address, "other")
    same = invoice(98_000)
    payee.make = lambda _: same
    assert isinstance(await refund(stage.node, one), Sent)
    with pytest.raises(InvalidParameter):
        await refund(stage.node, other)
    assert stage.node.account(other).balance_msat == 100_000
    await close_books(stage)


async def test_another_mint_pays_where_the_first_is_away(mint: str, fee_mint: str, tmp_path: Path,
                                                         payee: Payee) -> None:  # fmt: skip
    """(Incident 55.) Each account is paid with coins of the mints that it brought them from."""
    faulty = FaultyMint(mint)
    await faulty.up()
    node = Node(tmp_path / "state", (faulty.url, fee_mint), options=OPTIONS).start()
    stage = Scene(faulty, node, Buyer(Payer(mint), faulty.url))
    account = await open_key(stage, 100, payee.address)
    await node.receive(Payer(fee_mint).token(50), account, "topup")
    faulty.down()
    sent = await refund(node, account)
    assert isinstance(sent, Sent)
    assert to_msat(40, "sat") < sent.amount_msat < to_msat(50, "sat")
    await faulty.up()
    sent = await refund(node, account)
    assert isinstance(sent, Sent)
    assert sent.amount_msat == 98_000
    await close_books(stage)
    faulty.down()
