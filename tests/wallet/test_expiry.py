"""What an expired key still has goes to its address by itself: once, and only there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from addon.treasury import Refunded
from tests.parts.lnurl import Payee
from tests.wallet.conftest import Scene
from tests.wallet.faults import answer, lose_reply
from tests.wallet.paying import MELT, close_books, open_key, payments, refund, stage_at

pytestmark = pytest.mark.anyio

SOON = 0.05


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    made = await Payee().up()
    yield made
    made.down()


@pytest.fixture
async def stage(mint: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with stage_at(mint, tmp_path / "state", refund_processing_interval=SOON) as made:
        yield made


def looks(stage: Scene) -> Any:
    """Asks a question of the mint that only another look for expired keys is behind."""
    return stage.mint.count(MELT)


async def test_it_goes_there_once_and_the_rest_stays_for_the_refund_call(stage: Scene, payee: Payee) -> None:
    """(Incident 51.) A second key expires later: by its payment the first one was looked at again."""
    account = await open_key(stage, 100, payee.address, expires_at=int(time.time()))
    await stage.eventually(lambda: payments(stage.node) == ["paid"])
    await open_key(stage, 50, payee.address, "second", expires_at=int(time.time()))
    await stage.eventually(lambda: payments(stage.node) == ["paid", "paid"])
    assert payee.asked == [98_000, 48_000]
    assert stage.node.account(account).balance_msat == 1_000
    paid = await refund(stage.node, account)
    assert isinstance(paid, Refunded)
    assert paid.amount == 1
    await close_books(stage)


async def test_other_keys_keep_their_balance(stage: Scene, payee: Payee) -> None:
    """Not expired, without an address, too small, in use: nothing of theirs moves."""
    now = int(time.time())
    kept = [
        await open_key(stage, 30, payee.address, "alive", expires_at=now + 9_999),
        await open_key(stage, 31, payee.address, "for good"),
        await open_key(stage, 32, None, "no address", expires_at=now),
        await open_key(stage, 9, payee.address, "small", expires_at=now),
    ]
    await open_key(stage, 100, payee.address, "expired", expires_at=now)
    await stage.eventually(lambda: payments(stage.node) == ["paid"])
    assert [stage.node.account(name).balance_msat for name in kept] == [30_000, 31_000, 32_000, 9_000]
    assert payee.asked == [98_000]
    await close_books(stage)


async def test_money_that_is_held_waits_for_the_request_to_end(mint: str, tmp_path: Path, payee: Payee) -> None:
    async with stage_at(mint, tmp_path / "state") as stage:
        await open_key(stage, 100, payee.address, "busy", expires_at=int(time.time()))
        await open_key(stage, 40, payee.address, "free", expires_at=int(time.time()))
        books = stage.node.books()
        books.hold("r", "busy", 10_000, worker="w")
        stage.node.options = {**stage.node.options, "refund_processing_interval": SOON}
        stage.node.start()
        await stage.eventually(lambda: payments(stage.node) == ["paid"])
        assert stage.node.account("busy").balance_msat == 100_000
        books.release_worker("w")
        await stage.eventually(lambda: payments(stage.node) == ["paid", "paid"])
        assert payee.asked == [38_000, 98_000]
        await close_books(stage)


async def test_it_is_tried_again_until_it_arrives(stage: Scene, payee: Payee) -> None:
    """The address's host is away, its invoice is refused, the mint finds no way, an answer is lost: then it works."""
    payee.down()
    stage.mint.next(MELT, answer(400, {"detail": "no route", "code": 20004}), lose_reply)
    account = await open_key(stage, 100, payee.address, expires_at=int(time.time()))
    await payee.up()
    await stage.eventually(lambda: "paid" in payments(stage.node))
    assert payments(stage.node) == ["returned", "paid"]
    assert stage.node.account(account).balance_msat == 1_000
    await close_books(stage)


async def test_an_address_that_cannot_be_paid_leaves_the_money_where_it_is(stage: Scene, payee: Payee) -> None:
    payee.raw = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    account = await open_key(stage, 100, payee.address, expires_at=int(time.time()))
    await stage.eventually(lambda: len(payee.paths) > 2)
    paid = await refund(stage.node, account, to_token=True)
    assert isinstance(paid, Refunded)
    assert paid.amount == 100
    await close_books(stage)


async def test_zero_switches_it_off(mint: str, tmp_path: Path, payee: Payee) -> None:
    async with stage_at(mint, tmp_path / "state") as stage:
        account = await open_key(stage, 100, payee.address, expires_at=int(time.time()))
        assert len(await _tasks_of(stage)) == 0
        assert stage.node.account(account).balance_msat == 100_000
        assert payee.paths == []


async def _tasks_of(stage: Scene) -> list[object]:
    assert stage.node.vault is not None
    return list(stage.node.vault._outgoing._tasks)


async def test_what_was_under_way_when_the_wallet_ended_is_not_sent_twice(
    stage: Scene, payee: Payee, tmp_path: Path
) -> None:
    """(Incident 56.)"""
    stage.mint.next(MELT, lose_reply)
    stage.mint.always("/v1/melt/quote/bolt11/", answer(503, {}))
    account = await open_key(stage, 100, payee.address, expires_at=int(time.time()))
    await stage.eventually(lambda: payments(stage.node) == ["sent"])
    stage.node = stage.node.copy(tmp_path / "next").start()
    stage.mint.always("/v1/melt/quote/bolt11/", None)
    await stage.eventually(lambda: payments(stage.node) == ["paid"])
    assert payee.asked == [98_000]
    assert stage.node.account(account).balance_msat == 1_000
    await close_books(stage)
