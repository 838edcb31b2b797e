"""One NSEC, several lives: what the mint signed for an earlier life is never credited, and never lost.

The attacks are the table of what a reused seed allows: a stranger's token in a used epoch, unspent, spent
before, or spent between the mint's refusal and our look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from addon.errors import MintUnreachable, TokenAlreadySpent
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node, Scene, scene
from tests.wallet.faults import FaultyMint, answer, lose_reply

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["plain", "with fees"])
async def lives(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """A node whose directory was copied when it was young, and which has earned more since."""
    target = request.getfixturevalue("mint" if request.param == "plain" else "fee_mint")
    faulty = FaultyMint(target)
    await faulty.up()
    buyer, first = Buyer(Payer(target), faulty.url), Node(tmp_path / "first", (faulty.url,)).start()
    await first.receive(buyer.token(3))
    copy = first.copy(tmp_path / "copy")
    await first.receive(buyer.token(160))
    await first.receive(buyer.token(160))
    copy.start()
    yield Scene(faulty, copy, buyer)
    faulty.down()


def credited(node: Node) -> int:
    """What all accounts of a node hold, in sat."""
    return sum(node.balances()) // 1000


async def test_an_unspent_token_in_a_used_epoch_is_swapped_in_the_next(lives: Scene) -> None:
    before, token = credited(lives.node), lives.buyer.token(160)
    received = await lives.node.receive(token)
    assert credited(lives.node) - before == received.credited_msat // 1000 in (159, 160)
    assert lives.node.epoch(lives.mint.url) == 1
    assert lives.buyer.states(token) == {"SPENT"}
    await lives.close_books()


async def test_a_token_spent_before_credits_nothing_in_a_used_epoch(lives: Scene) -> None:
    before, token = credited(lives.node), lives.buyer.token(160)
    lives.buyer.spend(token)
    with pytest.raises(TokenAlreadySpent):
        await lives.node.receive(token)
    assert credited(lives.node) == before
    await lives.close_books()


async def test_a_token_spent_between_refusal_and_look_credits_nothing(lives: Scene) -> None:
    """The double credit: inputs spent, and all derived outputs signed, for another swap."""
    before, token, replies = credited(lives.node), lives.buyer.token(160), []

    async def refused_then_stolen(forward: Any) -> None:
        replies.append(await forward())
        await asyncio.to_thread(lives.buyer.spend, token)

    lives.mint.next("/v1/swap", refused_then_stolen)
    with pytest.raises(TokenAlreadySpent):
        await lives.node.receive(token)
    assert b"11003" in replies[0]
    assert credited(lives.node) == before
    await lives.close_books()


async def test_a_lost_refusal_in_a_used_epoch_is_recovered_in_the_next(lives: Scene) -> None:
    before = credited(lives.node)
    lives.mint.next("/v1/swap", lose_reply)
    received = await lives.node.receive(lives.buyer.token(160))
    assert credited(lives.node) - before == received.credited_msat // 1000
    assert lives.node.epoch(lives.mint.url) == 1
    await lives.close_books()


async def test_an_empty_directory_begins_a_fresh_epoch(stage: Scene, tmp_path: Path) -> None:
    await stage.node.receive(stage.buyer.token(160))
    again = Node(tmp_path / "empty", stage.node.mints, stage.node.nsec).start()
    await again.receive(stage.buyer.token(160))
    assert (stage.node.epoch(stage.mint.url), again.epoch(stage.mint.url)) == (0, 1)
    assert again.balances() == [160_000]
    third = Node(tmp_path / "third", stage.node.mints, stage.node.nsec).start()
    spent = stage.buyer.token(160)
    stage.buyer.spend(spent)
    with pytest.raises(TokenAlreadySpent):
        await third.receive(spent)
    assert (third.epoch(stage.mint.url), third.balances()) == (2, [])
    await asyncio.to_thread(again.proves)
    await stage.close_books()


async def test_two_nodes_that_start_at_once_credit_every_token_once(mint: str, tmp_path: Path) -> None:
    """Both find the same epoch fresh; their coins are different all the same."""
    async with scene(mint, tmp_path / "one") as stage:
        one, two = stage.node, Node(tmp_path / "two", stage.node.mints, stage.node.nsec).start()
        await stage.eventually(lambda: {one.epoch(stage.mint.url), two.epoch(stage.mint.url)} == {0})
        tokens = [stage.buyer.token(50 + n) for n in range(6)]
        await asyncio.gather(*[(one if n % 2 else two).receive(token) for n, token in enumerate(tokens)])
        assert sum(one.balances()) + sum(two.balances()) == sum(50_000 + 1000 * n for n in range(6))
        coins = [{y for (y,) in node.store().db.execute("SELECT Y FROM proofs")} for node in (one, two)]
        assert not coins[0] & coins[1]
        for node in (one, two):
            await asyncio.to_thread(node.proves)


async def test_a_token_that_both_nodes_are_given_is_credited_by_one(mint: str, tmp_path: Path) -> None:
    async with scene(mint, tmp_path / "one") as stage:
        one, two = stage.node, Node(tmp_path / "two", stage.node.mints, stage.node.nsec).start()
        for n in range(4):
            token = stage.buyer.token(64 + n)
            answers = await asyncio.gather(one.receive(token), two.receive(token), return_exceptions=True)
            assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
        assert sum(one.balances()) + sum(two.balances()) == (64 + 65 + 66 + 67) * 1000
        for node in (one, two):
            await asyncio.to_thread(node.proves)


async def test_a_restored_backup_neither_forgets_nor_doubles_its_coins(lives: Scene) -> None:
    """The backup is played back and lives on; its refunds are made of coins that exist."""
    account = (await lives.node.receive(lives.buyer.token(100))).account
    refunded = await lives.node.refund(account)
    assert lives.buyer.states(refunded.token) == {"UNSPENT"}
    await lives.close_books()


async def test_an_error_is_never_fresh(mint: str, tmp_path: Path) -> None:
    async with scene(mint, tmp_path / "state") as stage:
        for reply in (answer(500, {}), answer(200, {}), answer(200, {"outputs": []}), answer(404, b"")):
            stage.mint.always("/v1/restore", reply)
            with pytest.raises(MintUnreachable):
                await stage.node.receive(stage.buyer.token(8))
            assert stage.node.epoch(stage.mint.url) is None
        assert stage.mint.count("/v1/swap") == 0
        stage.mint.always("/v1/restore", None)
        assert (await stage.node.receive(stage.buyer.token(8))).credited_msat == 8_000
