"""What strangers can make the ledger write for nothing is bounded."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from addon.errors import InsufficientBalance, InvalidToken, TokenAlreadySpent
from addon.ledger import Journal
from addon.tokens import decode, encode
from addon.wallet.curve import blind, scalar
from tests.wallet.conftest import Scene, scene

pytestmark = pytest.mark.anyio


@pytest.fixture
def tidy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five closed rows are kept, and that is looked after often."""
    monkeypatch.setattr("addon.wallet.recovery.MOST_CLOSED", 5)
    monkeypatch.setattr("addon.wallet.recovery.TIDY_EVERY_S", 0.05)


def rows(stage: Scene, table: str) -> int:
    (count,) = stage.node.store().db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()
    return int(count)


@pytest.mark.usefixtures("tidy")
async def test_spent_tokens_do_not_grow_the_ledger(stage: Scene) -> None:
    account = (await stage.node.receive(stage.buyer.token(50))).account
    tokens = [stage.buyer.token(3) for _ in range(12)]
    for token in tokens:
        stage.buyer.spend(token)
        with pytest.raises(TokenAlreadySpent):
            await stage.node.receive(token)
    await stage.eventually(lambda: stage.node.rows().count("failed") <= 5)
    assert rows(stage, "swap_inputs") <= 5 * 2 + 6
    with pytest.raises(TokenAlreadySpent):  # forgotten here, and known at the mint
        await stage.node.receive(tokens[0])
    assert stage.node.account(account).balance_msat == 50_000
    await stage.close_books()


@pytest.mark.usefixtures("tidy")
async def test_forged_tokens_do_not_grow_the_ledger(stage: Scene) -> None:
    read = decode(stage.buyer.token(1))
    for n in range(12):
        point = blind(f"forged {n}", scalar(bytes([n + 1]) * 32))
        with pytest.raises(InvalidToken):
            await stage.node.receive(encode(read.mint, read.unit, [replace(read.proofs[0], C=point)]))
    await stage.eventually(lambda: rows(stage, "swaps") <= 5)
    assert rows(stage, "swap_inputs") == 0


async def test_open_and_executed_rows_are_never_forgotten(stage: Scene) -> None:
    token = stage.buyer.token(3)
    await stage.node.receive(token)
    while Journal(stage.node.store()).forget_closed(before=1 << 40, most=0):
        pass
    assert (await stage.node.receive(token)).replayed
    await stage.close_books()


def spelt(stage: Scene, token: str, memo: str) -> str:
    """The same coins as a V3 token with a memo."""
    read = decode(token)
    proofs = [{"id": p.keyset, "amount": p.amount, "secret": p.secret, "C": p.C} for p in read.proofs]
    document = {"token": [{"mint": read.mint, "proofs": proofs}], "unit": read.unit, "memo": memo}
    return "cashuA" + base64.urlsafe_b64encode(json.dumps(document).encode()).decode()


async def test_a_token_written_in_endless_ways_makes_few_credentials(stage: Scene) -> None:
    token = stage.buyer.token(3)
    account = (await stage.node.receive(token)).account
    answers = await asyncio.gather(
        *[stage.node.receive(spelt(stage, token, str(n))) for n in range(40)], return_exceptions=True
    )
    assert {a.account for a in answers if not isinstance(a, BaseException)} == {account}
    assert {type(a) for a in answers if isinstance(a, BaseException)} == {TokenAlreadySpent}
    assert rows(stage, "credentials") <= 17
    assert (await stage.node.receive(token)).account == account


async def test_dust_opens_no_account(mint: str, tmp_path: Path) -> None:
    """Else a thousand accounts cost a sat."""
    async with scene(mint, tmp_path / "state", "msat") as stage:
        dust = stage.buyer.token(999)
        with pytest.raises(InsufficientBalance):
            await stage.node.receive(dust)
        assert rows(stage, "swaps") == rows(stage, "accounts") == 0
        assert stage.buyer.states(dust) == {"UNSPENT"}
        assert (await stage.node.receive(stage.buyer.token(1000))).credited_msat == 1000
