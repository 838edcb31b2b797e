"""Tokens that bring nothing: the client still has its coins, and is told why."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from addon.errors import (
    FeesExceedToken,
    InsufficientBalance,
    InvalidApiKey,
    InvalidToken,
    MintNotAccepted,
    MintRateLimited,
    MintUnreachable,
    TokenAlreadySpent,
)
from addon.tokens import decode, encode
from addon.wallet.curve import blind, scalar
from tests.wallet.conftest import Scene, errors_of, scene
from tests.wallet.faults import answer, lose_reply

pytestmark = pytest.mark.anyio


async def test_a_token_spent_elsewhere_credits_nothing(stage: Scene) -> None:
    token = stage.buyer.token(90)
    stage.buyer.spend(token)
    for _ in range(3):
        with pytest.raises(TokenAlreadySpent):
            await stage.node.receive(token)
    assert stage.node.balances() == []
    assert stage.mint.count("/v1/swap") == 1  # final: the mint is not asked again
    await stage.close_books()


async def test_a_token_spent_elsewhere_after_a_lost_request_credits_nothing(stage: Scene) -> None:
    token = stage.buyer.token(90)

    async def spent_meanwhile(_: Any) -> None:
        await asyncio.to_thread(stage.buyer.spend, token)

    stage.mint.next("/v1/swap", spent_meanwhile)
    with pytest.raises(TokenAlreadySpent):
        await stage.node.receive(token)
    assert stage.node.balances() == []
    await stage.close_books()


async def test_a_mint_that_is_down_leaves_the_token_alone(stage: Scene) -> None:
    token = stage.buyer.token(40)
    await stage.node.receive(stage.buyer.token(1))  # the mint is known
    stage.mint.down()
    with pytest.raises(MintUnreachable):
        await stage.node.receive(token)
    assert stage.buyer.states(token) == {"UNSPENT"}
    await stage.mint.up()
    assert (await stage.node.receive(token)).credited_msat == 40_000
    await stage.close_books()


async def test_a_mint_that_was_never_seen_and_is_down_is_unreachable_not_unknown(tmp_path: Path, mint: str) -> None:
    async with scene(mint, tmp_path / "state") as stage:
        stage.mint.always("/v1/keysets", lose_reply)
        with pytest.raises(MintUnreachable):
            await stage.node.receive(stage.buyer.token(40))
        assert stage.node.rows() == []


async def test_a_rate_limited_token_is_left_alone_and_so_is_the_mint(stage: Scene) -> None:
    """(Incident 59: 429 storms.)"""
    await stage.node.receive(stage.buyer.token(1))
    token = stage.buyer.token(40)
    stage.mint.next("/v1/swap", answer(429, {}, retry_after="30"))
    asked = None
    for _ in range(3):
        with pytest.raises(MintRateLimited):
            await stage.node.receive(token)
        asked = asked or len(stage.mint.asked)
    assert len(stage.mint.asked) == asked
    assert stage.buyer.states(token) == {"UNSPENT"}
    assert "sent" not in stage.node.rows()


async def test_a_refused_token_is_not_asked_about_again_for_a_while(stage: Scene) -> None:
    """(Incident 59: polling dead tokens.)"""
    await stage.node.receive(stage.buyer.token(1))
    read = decode(stage.buyer.token(8))
    forged = encode(read.mint, read.unit, [replace(p, C=blind("x", scalar(b"\x05" * 32))) for p in read.proofs])
    before = stage.mint.count("/v1/swap")
    for _ in range(3):
        with pytest.raises(InvalidToken):
            await stage.node.receive(forged)
    assert stage.mint.count("/v1/swap") == before + 1


async def test_a_forged_signature_does_not_poison_the_true_token(stage: Scene) -> None:
    token = stage.buyer.token(8)
    read = decode(token)
    forged = encode(read.mint, read.unit, [replace(p, C=blind("x", scalar(b"\x05" * 32))) for p in read.proofs])
    with pytest.raises(InvalidToken):
        await stage.node.receive(forged)
    assert (await stage.node.receive(token)).credited_msat == 8_000
    await stage.close_books()


async def test_a_refusal_without_a_code_is_looked_into_before_it_is_believed(stage: Scene) -> None:
    token = stage.buyer.token(20)
    stage.mint.next("/v1/swap", answer(400, {"detail": "database error", "code": 0}))
    with pytest.raises(InvalidToken):
        await stage.node.receive(token)
    assert stage.mint.count("/v1/checkstate") == 1
    assert stage.mint.count("/v1/swap") == 1
    assert stage.buyer.states(token) == {"UNSPENT"}
    assert stage.node.rows() == ["refused"]
    assert stage.buyer.spend(token) == 20


async def test_a_refusal_without_a_code_of_a_swap_that_was_executed_is_credited(stage: Scene) -> None:
    async def executed(forward: Any) -> bytes:
        await forward()
        reply = await answer(400, {"detail": "UNIQUE constraint failed", "code": 0})(forward)
        assert reply is not None
        return reply

    stage.mint.next("/v1/swap", executed)
    assert (await stage.node.receive(stage.buyer.token(20))).credited_msat == 20_000
    await stage.close_books()


async def test_strangers_cannot_burn_counters(stage: Scene) -> None:
    """Refused rows give their counters back: recovery from the NSEC alone would else miss what comes after."""
    await stage.node.receive(stage.buyer.token(1))
    for n in range(6):
        token = stage.buyer.token(100 + n)
        stage.buyer.spend(token)
        with pytest.raises(TokenAlreadySpent):
            await stage.node.receive(token)
    await stage.node.receive(stage.buyer.token(63))
    used = [n for (n,) in stage.node.store().db.execute("SELECT MAX(counter) FROM proofs")]
    assert used[0] < 10
    await stage.close_books()


async def test_errors_of_several_askers_are_the_same(stage: Scene) -> None:
    token = stage.buyer.token(12)
    stage.buyer.spend(token)
    failed = errors_of(await asyncio.gather(*[stage.node.receive(token) for _ in range(5)], return_exceptions=True))
    assert [type(error) for error in failed] == 5 * [TokenAlreadySpent]


# --- refused before any mint is asked ---------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    ["http://localhost:{port}", "https://127.0.0.1:{port}", "http://127.0.0.1:{port}/x", "http://user@127.0.0.1:{port}",
     "http://127.0.0.1:{port}?a", "http://127.0.0.1:1{port}", "http://127.0.0.1.nip.io:{port}"],
)  # fmt: skip
async def test_no_connection_is_made_to_a_mint_that_is_not_accepted(stage: Scene, other: str) -> None:
    """(Incidents 10, 11, 66.)"""
    token = stage.buyer.token(5)
    await stage.node.receive(stage.buyer.token(1))
    asked = len(stage.mint.asked)
    with pytest.raises(MintNotAccepted) as refused:
        await stage.node.receive(stage.buyer.named(token, mint=other.format(port=stage.mint.url.rsplit(":", 1)[1])))
    assert stage.mint.url in refused.value.message
    assert refused.value.fields["accepted_mints"] == [stage.mint.url]
    assert len(stage.mint.asked) == asked


async def test_a_token_whose_unit_is_not_its_coins_is_refused(stage: Scene) -> None:
    """(Incident 8.)"""
    token = stage.buyer.token(5)
    for unit in ("msat", "usd"):
        with pytest.raises(InvalidToken):
            await stage.node.receive(stage.buyer.named(token, unit=unit))
    assert stage.mint.count("/v1/swap") == 0
    assert (await stage.node.receive(token)).credited_msat == 5_000


async def test_a_token_that_its_fee_eats_is_refused_untouched(fee_stage: Scene) -> None:
    token = fee_stage.buyer.token(1)
    with pytest.raises(FeesExceedToken):
        await fee_stage.node.receive(token)
    assert fee_stage.mint.count("/v1/swap") == 0
    assert fee_stage.buyer.states(token) == {"UNSPENT"}


async def test_too_small_a_token_is_refused_untouched(fee_stage: Scene) -> None:
    token = fee_stage.buyer.token(10)
    with pytest.raises(InsufficientBalance) as refused:
        await fee_stage.node.receive(token, least_msat=9_001)
    assert (refused.value.needed_msat, refused.value.available_msat) == (9_001, 9_000)
    assert fee_stage.buyer.states(token) == {"UNSPENT"}
    assert (await fee_stage.node.receive(token, least_msat=9_000)).credited_msat == 9_000


async def test_a_locked_token_is_refused_by_name(stage: Scene) -> None:
    read = decode(stage.buyer.token(4))
    locked = [replace(p, secret='["P2PK",{"nonce":"00","data":"02ab","tags":[]}]') for p in read.proofs[:1]]
    with pytest.raises(InvalidToken, match="locked"):
        await stage.node.receive(encode(read.mint, read.unit, locked))
    assert stage.mint.count("/v1/swap") == 0


async def test_impossible_coins_are_refused_untouched(stage: Scene) -> None:
    read = decode(stage.buyer.token(4))
    bad = [
        [replace(read.proofs[0], C="02" + "f" * 64)],
        [replace(read.proofs[0], keyset="00deadbeefdeadbe")],
        [replace(read.proofs[0], amount=1 << 62)],
    ]
    for proofs in bad:
        with pytest.raises(InvalidToken):
            await stage.node.receive(encode(read.mint, read.unit, proofs))
    assert stage.mint.count("/v1/swap") == 0
    assert stage.node.rows() == []


async def test_a_top_up_of_nobody_touches_nothing(stage: Scene) -> None:
    """(Incident 6: money for an account that is not there.)"""
    token = stage.buyer.token(4)
    with pytest.raises(InvalidApiKey):
        await stage.node.receive(token, "nobody", "topup")
    assert stage.buyer.states(token) == {"UNSPENT"}
