"""A mint in trouble keeps its own coins from their owners, and nobody's at another mint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from addon.errors import Failure, MintNotAccepted, MintUnreachable
from addon.tokens import decode
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.faults import FaultyMint, Hold, Rule, answer, change
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio


class Pair:
    """One account with 100 sat of a mint whose network can fail, and 51 of a good one."""

    def __init__(self, bad: FaultyMint, good: str, target: str, state_dir: Path) -> None:
        self.bad, self.good = bad, good
        self.plain, self.other = Buyer(Payer(target), bad.url), Buyer(Payer(good), good)
        self.node = Node(state_dir, (bad.url, good)).start()

    async def account(self) -> str:
        account = (await self.node.receive(self.plain.token(100))).account
        await self.node.receive(self.other.token(51), account, "topup")
        return account

    async def proves(self) -> None:
        await asyncio.to_thread(self.node.proves)


@pytest.fixture
async def pair(mint: str, fee_mint: str, tmp_path: Path) -> AsyncIterator[Pair]:
    bad = FaultyMint(mint)
    await bad.up()
    yield Pair(bad, fee_mint, mint, tmp_path / "state")
    bad.down()


async def good_coins(pair: Pair, account: str) -> None:
    """Within two calls the good mint's coins are paid out, and told again until they are claimed."""
    for _ in range(2):
        try:
            answered = await pair.node.refund(account)
        except Failure:
            continue
        assert decode(answered.token).mint == pair.good and answered.amount == 50
        assert (await pair.node.refund(account)).token == answered.token
        pair.other.spend(answered.token)
        return
    raise AssertionError("the good mint's coins were kept")


async def test_a_mint_that_hangs_keeps_nobodys_other_coins(pair: Pair) -> None:
    """(Incident 55.) It takes the connection, and never answers."""
    account = await pair.account()
    pair.bad.always("/v1/", Hold())
    await good_coins(pair, account)
    pair.bad.always("/v1/", None)
    assert (await pair.node.refund(account)).amount == 100
    await pair.proves()


async def test_a_swap_that_never_ends_keeps_nobodys_other_coins(pair: Pair) -> None:
    """The refund at the bad mint needs a change, and its outcome stays unknown."""
    account = await pair.account()
    neighbour = (await pair.node.receive(pair.plain.token(200))).account
    charge(pair.node, neighbour, 40_000, "r")
    assert (await pair.node.refund(neighbour)).amount == 160  # with the account's 32
    pair.bad.always("/v1/swap", answer(502, b"bad gateway"))
    await good_coins(pair, account)
    pair.bad.always("/v1/swap", None)
    rest = await pair.node.refund(account)
    assert rest.amount == 100 and pair.node.account(account).balance_msat == 0
    await pair.proves()


def _no_restore(info: Any) -> Any:
    return info | {"nuts": {k: v for k, v in info["nuts"].items() if k != "9"}}


async def test_a_mint_that_is_not_accepted_any_more_keeps_nobodys_other_coins(pair: Pair) -> None:
    """After a restart it offers no NUT-09."""
    account = await pair.account()
    pair.bad.always("/v1/info", change(_no_restore))
    pair.node = Node(pair.node.state_dir, pair.node.mints, pair.node.nsec).start()
    await good_coins(pair, account)
    with pytest.raises(MintNotAccepted):
        await pair.node.refund(account)
    pair.bad.always("/v1/info", None)
    assert (await pair.node.refund(account)).amount == 100
    await pair.proves()


def _forgotten(reply: Any) -> Any:
    return {"keysets": []}


@pytest.mark.parametrize("path", ["/v1/keysets"])
async def test_a_mint_that_forgot_its_keysets_keeps_nobodys_other_coins(pair: Pair, path: str) -> None:
    account = await pair.account()
    forget: Rule = change(_forgotten)
    pair.bad.always(path, forget)
    pair.node = Node(pair.node.state_dir, pair.node.mints, pair.node.nsec).start()
    charge(pair.node, account, 3_000, "r")
    await good_coins(pair, account)
    pair.bad.always(path, None)
    pair.node = Node(pair.node.state_dir, pair.node.mints, pair.node.nsec).start()
    assert (await pair.node.refund(account)).amount == 97
    await pair.proves()


async def test_coins_of_a_mint_that_is_not_configured_any_more_are_paid_back(pair: Pair) -> None:
    """The operator gave a mint up; those who brought its coins have them."""
    account = await pair.account()
    node = Node(pair.node.state_dir, (pair.good,), pair.node.nsec).start()
    with pytest.raises(MintNotAccepted):
        await node.receive(pair.plain.token(5))
    first, second = await node.refund(account), await node.refund(account)
    assert [decode(r.token).mint for r in (first, second)] == [pair.bad.url, pair.good]
    assert pair.plain.spend(first.token) == 100
    await asyncio.to_thread(node.proves)


async def test_a_lost_reply_of_a_mint_that_is_not_configured_any_more_is_recovered(pair: Pair) -> None:
    account = await pair.account()
    token = pair.plain.token(9)
    hold = Hold(executed_first=True)
    pair.bad.next("/v1/swap", hold)
    asked = asyncio.create_task(pair.node.receive(token, account, "topup"))
    await hold.reached.wait()
    copied = pair.node.copy(pair.node.state_dir.parent / "next life")
    node = Node(copied.state_dir, (pair.good,), pair.node.nsec).start()
    while "sent" in node.rows():
        await asyncio.sleep(0.02)
    assert node.account(account).balance_msat == 159_000
    hold.release.set()
    await asked


async def test_a_mint_that_is_down_for_long_is_told_as_such(pair: Pair) -> None:
    account = await pair.account()
    pair.bad.down()
    await good_coins(pair, account)
    with pytest.raises(MintUnreachable):
        await pair.node.refund(account)
