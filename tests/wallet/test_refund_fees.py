"""Who bears a mint's fee when coins have to be changed for a refund; and that nobody loses more than that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from addon.errors import FeesExceedToken, NoBalance
from addon.ledger import audit, solvency
from addon.tokens import decode
from scripts import realparts
from tests.wallet.conftest import Scene, scene
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def dear_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a mint that takes 3 sat for each coin."""
    part, url = realparts.mint(tmp_path_factory.mktemp("dearmint"), fee_ppk=3000)
    part.start()
    try:
        part.wait_until(url + "/v1/info")
        yield url
    finally:
        part.end()


@pytest.fixture
async def dear_stage(dear_mint: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene(dear_mint, tmp_path / "state") as made:
        yield made


async def accounts(stage: Scene, *tokens: int) -> list[str]:
    return [(await stage.node.receive(stage.buyer.token(sats))).account for sats in tokens]


async def everything(stage: Scene, account: str) -> int:
    """What an account gets back, in sat, asking until there is nothing left."""
    seen: set[str] = set()
    while True:
        try:
            answer = await stage.node.refund(account)
        except (NoBalance, FeesExceedToken):
            break
        if answer.token in seen:
            break
        seen |= {answer.token}
    return sum(decode(token).amount for token in seen)


def surplus(stage: Scene) -> int:
    """msat that the operator may call his own at the mint."""
    return sum(purse.surplus_msat for purse in solvency(stage.node.store().db))


async def test_refunds_at_once_do_not_spend_the_same_surplus_on_their_fees(fee_stage: Scene) -> None:
    """One sat was earned, four refunds need a change: three of them bear the fee themselves."""
    payers = await accounts(fee_stage, 33, 33, 33, 33)
    for n, payer in enumerate(payers):
        charge(fee_stage.node, payer, 300, f"r{n}")
    (whale,) = await accounts(fee_stage, 258)
    taken = await everything(fee_stage, whale)  # the small coins may be gone now
    paid = await asyncio.gather(*[everything(fee_stage, payer) for payer in payers])
    assert audit(fee_stage.node.store()) == []
    assert surplus(fee_stage) >= 0
    assert taken >= 257 - 1
    assert all(sats >= 31 - 1 for sats in paid)
    await fee_stage.close_books()


@pytest.mark.parametrize("tokens", [(60, 60), (60, 60, 60), (9, 17, 33), (100, 3, 3)])
async def test_everybody_gets_all_but_the_fee_where_nothing_was_earned(fee_stage: Scene, tokens: Sequence[int]) -> None:
    """Coins are shared: what one took may leave the others without fitting ones. (Once told "No balance".)"""
    owners = await accounts(fee_stage, *tokens)
    for owner, face in zip(owners, tokens, strict=True):
        got = await everything(fee_stage, owner)
        left = fee_stage.node.account(owner).balance_msat
        assert got >= face - 1 - 1 or left == 0, (got, left)  # a sat went to the mint with the token, one now
        assert left < 1000
        await fee_stage.close_books()


async def test_the_fee_that_an_account_bears_is_an_entry_of_its_own(fee_stage: Scene) -> None:
    one, two = await accounts(fee_stage, 60, 60)
    await everything(fee_stage, one)
    got = await everything(fee_stage, two)
    rows = fee_stage.node.store().db.execute(
        "SELECT kind, SUM(amount) FROM entries WHERE account = ? GROUP BY kind", (two,)
    )
    entries = {str(kind): int(amount) for kind, amount in rows}
    assert entries["refund"] == -1000 * got
    assert sum(entries.values()) == fee_stage.node.account(two).balance_msat
    assert entries.get("mint_fee", 0) in (0, -1000)


async def test_less_than_a_fee_stays_on_the_key_and_is_not_called_nothing(fee_stage: Scene) -> None:
    """Clients throw a key away that has no balance."""
    rich, poor = await accounts(fee_stage, 34, 2)
    taken = await fee_stage.node.refund(rich)
    coins = [row for (row,) in fee_stage.node.store().db.execute("SELECT amount FROM proofs WHERE state = 'unspent'")]
    assert taken.amount == 33
    if coins == [1]:
        assert (await fee_stage.node.refund(poor)).amount == 1
    else:
        with pytest.raises(FeesExceedToken):
            await fee_stage.node.refund(poor)
        assert fee_stage.node.account(poor).balance_msat == 1000


@pytest.mark.parametrize("seed", range(4))
async def test_any_mix_is_paid_back_at_once_and_the_books_prove(dear_stage: Scene, seed: int) -> None:
    """Nine accounts of a dear mint, charged next to nothing, all at once; then again until nothing is left."""
    dice = random.Random(seed)
    owners = await accounts(dear_stage, *[dice.choice([32, 33, 64, 128, 256]) for _ in range(9)])
    for n, owner in enumerate(owners):
        charge(dear_stage.node, owner, dice.randint(100, 2500), f"r{n}")
    await asyncio.gather(*[everything(dear_stage, owner) for owner in owners])
    assert audit(dear_stage.node.store()) == []
    assert surplus(dear_stage) >= 0
    await dear_stage.close_books()
    for owner in owners:
        await everything(dear_stage, owner)  # what others' changes brought meanwhile
        left = dear_stage.node.account(owner).balance_msat // 1000
        assert left == 0 or left < smallest_coin(dear_stage), "coins are there, and are not paid out"
    await dear_stage.close_books()


def smallest_coin(stage: Scene) -> int:
    row = stage.node.store().db.execute("SELECT MIN(amount) FROM proofs WHERE state = 'unspent'").fetchone()
    return int(row[0] or 1 << 60)
