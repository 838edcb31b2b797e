"""Answers of a mint that do not come, come late, or are wrong: looked into, never guessed."""

from __future__ import annotations

from typing import Any

import pytest

from addon.errors import (
    InvalidToken,
    OutcomeUnknown,
)
from addon.tokens import decode, encode
from addon.wallet.curve import blind, scalar
from tests.wallet.conftest import Scene
from tests.wallet.faults import answer, change, lose_reply, lose_request

pytestmark = pytest.mark.anyio


async def test_a_lost_reply_is_recovered_and_credited_once(stage: Scene) -> None:
    """(Incidents 3, 4, 9: spent at the mint, credit failed, client told to retry.)"""
    token = stage.buyer.token(100)
    stage.mint.next("/v1/swap", lose_reply)
    assert (await stage.node.receive(token)).credited_msat == 100_000
    assert (await stage.node.receive(token)).replayed
    assert stage.mint.count("/v1/swap") == 1
    await stage.close_books()


async def test_a_lost_request_is_repeated_with_the_same_outputs(stage: Scene) -> None:
    stage.mint.next("/v1/swap", lose_request)
    assert (await stage.node.receive(stage.buyer.token(100))).credited_msat == 100_000
    first, second = [body for _, path, body in stage.mint.asked if path == "/v1/swap"]
    assert first == second
    await stage.close_books()


@pytest.mark.parametrize(
    "rule",
    [
        answer(500, {"detail": "oops"}),
        answer(502, b"<html>bad gateway"),
        answer(200, b"not json"),
        answer(200, {"signatures": []}),
        answer(200, {"signatures": "none"}),
    ],
)
async def test_an_answer_that_says_nothing_is_looked_into(stage: Scene, rule: Any) -> None:
    """(Incident 54: an ambiguous answer is not a failure.)"""
    stage.mint.next("/v1/swap", rule)
    assert (await stage.node.receive(stage.buyer.token(33))).credited_msat == 33_000
    await stage.close_books()


def _doubled(reply: Any) -> Any:
    return {"signatures": [s | {"amount": 2 * s["amount"]} for s in reply["signatures"]]}


def _unproven(reply: Any) -> Any:
    return {"signatures": [{k: v for k, v in s.items() if k != "dleq"} for s in reply["signatures"]]}


def _forged(reply: Any) -> Any:
    point = blind("somebody's", scalar(b"\x07" * 32))
    return {"signatures": [s | {"C_": point} for s in reply["signatures"]]}


def _cut(reply: Any) -> Any:
    return {"signatures": reply["signatures"][:-1]}


@pytest.mark.parametrize("lie", [_doubled, _unproven, _forged, _cut])
async def test_a_wrong_answer_credits_what_was_really_signed(stage: Scene, lie: Any) -> None:
    stage.mint.next("/v1/swap", change(lie))
    assert (await stage.node.receive(stage.buyer.token(77))).credited_msat == 77_000
    await stage.close_books()


async def test_an_unknown_outcome_is_told_as_such_and_never_as_spent(
    stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Incident 4.) The swap goes on; the same token is credited later."""
    await stage.node.receive(stage.buyer.token(1))
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 0.6)
    token = stage.buyer.token(50)
    stage.mint.next("/v1/swap", lose_reply)
    stage.mint.always("/v1/checkstate", answer(503, {}))
    with pytest.raises(OutcomeUnknown):
        await stage.node.receive(token)
    part = decode(token)
    with pytest.raises(OutcomeUnknown):  # its coins in another bundle: not known either
        await stage.node.receive(encode(part.mint, part.unit, part.proofs[:1]))
    stage.mint.always("/v1/checkstate", None)
    await stage.eventually(lambda: stage.node.rows() == ["done", "done"])
    assert (await stage.node.receive(token)).credited_msat == 50_000
    await stage.close_books()


async def test_asking_again_hurries_a_recovery_that_waits(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mint that was down for long is looked at again as soon as somebody asks."""
    await stage.node.receive(stage.buyer.token(1))
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 1.5)
    monkeypatch.setattr("addon.wallet.swap.LONGEST_PAUSE_S", 1000.0)
    monkeypatch.setattr("addon.wallet.swap.FIRST_PAUSE_S", 0.6)
    token = stage.buyer.token(50)
    stage.mint.next("/v1/swap", lose_reply)
    stage.mint.always("/v1/checkstate", answer(503, {}))
    with pytest.raises(OutcomeUnknown):
        await stage.node.receive(token)
    stage.mint.always("/v1/checkstate", None)
    assert (await stage.node.receive(token)).credited_msat == 50_000
    await stage.close_books()


async def test_coins_in_another_payment_are_refused_for_the_moment_only(stage: Scene) -> None:
    token = stage.buyer.token(6)
    stage.mint.next("/v1/swap", answer(400, {"detail": "proofs are pending", "code": 11002}))
    with pytest.raises(InvalidToken, match="another payment"):
        await stage.node.receive(token)
    assert (await stage.node.receive(token)).credited_msat == 6_000
    await stage.close_books()
