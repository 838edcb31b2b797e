"""Redeeming: one token, one credit; and who may hear of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from addon.errors import (
    TokenAlreadySpent,
)
from addon.tokens import decode, encode
from tests.wallet.conftest import Scene, scene
from tests.wallet.faults import Hold, answer, lose_request

pytestmark = pytest.mark.anyio


async def test_a_token_sent_eight_times_at_once_is_credited_once(stage: Scene) -> None:
    """(Incident 1: credited twice on one redemption.)"""
    token = stage.buyer.token(500)
    answers = await asyncio.gather(*[stage.node.receive(token) for _ in range(8)])
    assert len({answer.account for answer in answers}) == 1
    assert sorted(answer.replayed for answer in answers) == [False] + 7 * [True]
    assert {answer.credited_msat for answer in answers} == {500_000}
    assert stage.mint.count("/v1/swap") == 1
    assert stage.node.balances() == [500_000]
    await stage.close_books()


async def test_twelve_tokens_at_once_are_each_credited_once(stage: Scene) -> None:
    """(Incident 2: a top-up as read-modify-write lost an update.)"""
    account = (await stage.node.receive(stage.buyer.token(1))).account
    tokens = [stage.buyer.token(10 + n) for n in range(12)]
    await asyncio.gather(*[stage.node.receive(token, account, "topup") for token in tokens])
    assert stage.node.account(account).balance_msat == (1 + sum(10 + n for n in range(12))) * 1000
    await stage.close_books()


async def test_no_more_than_eight_swaps_are_in_flight_at_a_mint(stage: Scene) -> None:
    account = (await stage.node.receive(stage.buyer.token(1))).account
    tokens, before = [stage.buyer.token(3) for _ in range(12)], stage.mint.count("/v1/swap")
    holds = [Hold() for _ in range(12)]
    stage.mint.next("/v1/swap", *holds)
    asks = [asyncio.create_task(stage.node.receive(token, account, "topup")) for token in tokens]
    await stage.eventually(lambda: stage.mint.count("/v1/swap") - before == 8)
    await asyncio.gather(*[hold.reached.wait() for hold in holds[:8]])
    assert stage.node.rows().count("sent") == 8
    for hold in holds:
        hold.release.set()
    await asyncio.gather(*asks)
    assert stage.node.account(account).balance_msat == 37_000
    await stage.close_books()


async def test_what_the_mint_gave_is_credited_never_the_face(fee_stage: Scene) -> None:
    """(Incident 5: face value credited although the mint took its input fee.)"""
    received = await fee_stage.node.receive(fee_stage.buyer.token(1000))
    assert received.credited_msat == 999_000
    await fee_stage.close_books()


async def test_msat_tokens_are_credited_in_msat(mint: str, tmp_path: Path) -> None:
    """(Incident 45: units confused six times.)"""
    async with scene(mint, tmp_path / "state", "msat") as stage:
        assert (await stage.node.receive(stage.buyer.token(12_345))).credited_msat == 12_345
        await stage.close_books()


async def test_the_same_coins_in_other_bundles_are_not_credited_again(stage: Scene) -> None:
    token = stage.buyer.token(7)
    await stage.node.receive(token)
    read = decode(token)
    parts = [encode(read.mint, read.unit, [proof]) for proof in read.proofs]
    for part in parts:
        with pytest.raises(TokenAlreadySpent):
            await stage.node.receive(part)
    assert stage.node.balances() == [7_000]
    assert stage.mint.count("/v1/swap") == 1
    await stage.close_books()


async def test_a_client_that_leaves_does_not_stop_the_swap(stage: Scene) -> None:
    hold = Hold(executed_first=True)
    stage.mint.next("/v1/swap", hold)
    ask = asyncio.create_task(stage.node.receive(stage.buyer.token(64)))
    await hold.reached.wait()
    ask.cancel()
    hold.release.set()
    await stage.eventually(lambda: stage.node.rows() == ["done"])
    assert stage.node.balances() == [64_000]
    await stage.close_books()


async def test_a_token_stays_a_credential_until_its_key_is_used(stage: Scene) -> None:
    token = stage.buyer.token(4)
    account = (await stage.node.receive(token)).account
    assert (await stage.node.receive(token)).account == account
    stage.node.books().retire_tokens(account)
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token)
    assert stage.node.balances() == [4_000]


async def test_a_top_up_is_replayed_to_its_own_account_only(stage: Scene) -> None:
    one, two = [(await stage.node.receive(stage.buyer.token(1))).account for _ in range(2)]
    token = stage.buyer.token(9)
    assert not (await stage.node.receive(token, one, "topup")).replayed
    assert (await stage.node.receive(token, one, "topup")).replayed
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token, two, "topup")
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token, "new", "key")
    assert sorted(stage.node.balances()) == [1_000, 10_000]
    await stage.close_books()


async def test_secrets_are_in_neither_the_ledger_nor_its_log(stage: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """(Incident 63: a thief of the database spends nothing.)"""
    token = stage.buyer.token(99)
    stage.mint.next("/v1/swap", lose_request)
    stage.mint.always("/v1/checkstate", answer(503, {}))
    ask = asyncio.create_task(stage.node.receive(token))
    await stage.eventually(lambda: stage.mint.count("/v1/checkstate") > 1)
    sent = next(body for _, path, body in stage.mint.asked if path == "/v1/swap")
    kept = b"".join(path.read_bytes() for path in stage.node.state_dir.glob("ledger.db*"))
    for proof in sent["inputs"]:
        assert proof["secret"].encode() not in kept
        assert proof["secret"] not in caplog.text
    stage.mint.always("/v1/checkstate", None)
    await ask
    own = stage.node.store().db.execute("SELECT C FROM proofs").fetchall()
    assert own
    assert token.encode() not in b"".join(path.read_bytes() for path in stage.node.state_dir.glob("ledger.db*"))
    await stage.close_books()
