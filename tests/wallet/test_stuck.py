"""Rows that a mint does not decide: they stay open, go on by themselves, and are in nobody's way.

A mint that dies in the middle of a swap may leave its coins pending for ever; others answer some tokens with
an error of their own, whatever is asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from addon.errors import InvalidToken, MintUnreachable, OutcomeUnknown
from addon.tokens import decode
from tests.wallet.conftest import Node, Scene
from tests.wallet.faults import Forward, Reply, Rule, answer, change, lose_request

pytestmark = pytest.mark.anyio

PENDING = answer(400, {"detail": "proofs are pending", "code": 11002})
CATCH_ALL = answer(400, {"detail": "something else", "code": 0})
BROKEN = answer(500, {"detail": "internal error"})
GATEWAY = answer(502, b"<html>bad gateway")
RULES = [pytest.param(PENDING, id="pending"), pytest.param(CATCH_ALL, id="code 0"), pytest.param(GATEWAY, id="502")]


@pytest.fixture
async def account(stage: Scene, monkeypatch: pytest.MonkeyPatch) -> str:
    """An account with 3 sat, at a mint that is known; from here on nobody waits for long."""
    found = (await stage.node.receive(stage.buyer.token(3))).account
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 2.5)
    monkeypatch.setattr("addon.wallet.swap.ASIDE_AFTER_S", 0.3)
    return found


class Cursed:
    """Swaps of these tokens are lost the first time, and answered by `rule` ever after; all others pass."""

    def __init__(self, stage: Scene, tokens: list[str], rule: Rule) -> None:
        self._stage, self._rule = stage, rule
        self._secrets = {proof.secret for token in tokens for proof in decode(token).proofs}
        self.asked: Counter[str] = Counter()
        stage.mint.always("/v1/swap", self)

    async def __call__(self, forward: Forward) -> Reply:
        body: Any = self._stage.mint.asked[-1][2]
        first = body["inputs"][0]["secret"]
        if first not in self._secrets:
            return await forward()
        self.asked[first] += 1
        return await (lose_request if self.asked[first] == 1 else self._rule)(forward)

    def lift(self) -> None:
        self._stage.mint.always("/v1/swap", None)


async def unknown(node: Node, token: str) -> None:
    """Sent, and not decided. A place at the mint may come free a little later."""
    for _ in range(10):
        try:
            await node.receive(token)
        except OutcomeUnknown:
            return
        except MintUnreachable:
            continue
    raise AssertionError("it is not sent, or it is decided")


async def served(node: Node, token: str, account: str) -> int:
    """Credited although others are undecided, msat. A place may come free a little later."""
    for _ in range(10):
        try:
            return (await node.receive(token, account, "topup")).credited_msat
        except (MintUnreachable, OutcomeUnknown):
            continue
    raise AssertionError("the places are kept")


@pytest.mark.parametrize("rule", RULES)
async def test_ten_undecided_tokens_keep_no_place(stage: Scene, account: str, rule: Rule) -> None:
    """(Incident 55.) Others are served; and the ten are credited once the mint decides."""
    tokens = [stage.buyer.token(5) for _ in range(10)]
    cursed = Cursed(stage, tokens, rule)
    await asyncio.gather(*[unknown(stage.node, token) for token in tokens[:8]])
    await asyncio.gather(*[unknown(stage.node, token) for token in tokens[8:]])
    assert stage.node.rows().count("sent") == 10
    assert await served(stage.node, stage.buyer.token(7), account) == 7_000
    assert {state for token in tokens for state in stage.buyer.states(token)} == {"UNSPENT"}
    cursed.lift()
    for token in tokens:
        for _ in range(4):
            try:
                received = await stage.node.receive(token)
                break
            except OutcomeUnknown:
                continue
        assert received.credited_msat == 5_000
    await stage.close_books()
    assert sorted(stage.node.balances()) == sorted([10_000] + 10 * [5_000])


async def test_undecided_rows_of_an_earlier_life_keep_no_place(stage: Scene, account: str, tmp_path: Path) -> None:
    tokens = [stage.buyer.token(5) for _ in range(9)]
    Cursed(stage, tokens, PENDING)
    await asyncio.gather(*[unknown(stage.node, token) for token in tokens])
    again = stage.node.copy(tmp_path / "next life").start()
    await stage.eventually(lambda: all(n > 2 for n in _asked(stage, tokens)))
    assert await served(again, stage.buyer.token(7), account) == 7_000


def _asked(stage: Scene, tokens: list[str]) -> list[int]:
    firsts = [body["inputs"][0]["secret"] for _, path, body in stage.mint.asked if path == "/v1/swap"]
    return [firsts.count(decode(token).proofs[0].secret) for token in tokens]


@pytest.mark.usefixtures("account")
async def test_a_mint_that_decides_nothing_gets_no_more_than_eight_tokens(stage: Scene) -> None:
    """Their places are kept: what comes after is not sent, and told so."""
    tokens = [stage.buyer.token(5) for _ in range(9)]
    for path in ("/v1/swap", "/v1/checkstate", "/v1/restore"):
        stage.mint.always(path, BROKEN)
    await asyncio.gather(*[unknown(stage.node, token) for token in tokens[:8]])
    with pytest.raises(MintUnreachable, match="nothing was spent"):
        await stage.node.receive(tokens[8])
    assert _asked(stage, tokens)[8] == 0


async def test_no_row_is_set_aside_before_its_epoch_shows_that_it_is_used(
    stage: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a node without a directory could find the epoch fresh: all its first counters are lent, none is signed."""
    await stage.node.receive(stage.buyer.token(1))  # a tag, and nothing that is derived
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 2.5)
    monkeypatch.setattr("addon.wallet.swap.ASIDE_AFTER_S", 0.3)
    tokens = [stage.buyer.token(5) for _ in range(9)]
    cursed = Cursed(stage, tokens, GATEWAY)
    await asyncio.gather(*[unknown(stage.node, token) for token in tokens[:8]])
    with pytest.raises(MintUnreachable, match="nothing was spent"):
        await stage.node.receive(tokens[8])
    cursed.lift()


@pytest.mark.usefixtures("account")
async def test_who_asks_again_and_again_does_not_make_us_storm_the_mint(stage: Scene) -> None:
    """(Incident 59.)"""
    token = stage.buyer.token(5)
    Cursed(stage, [token], PENDING)
    await unknown(stage.node, token)
    for _ in range(30):
        task = asyncio.create_task(unknown(stage.node, token))
        await asyncio.sleep(0.02)
        task.cancel()
    assert _asked(stage, [token])[0] <= 9


async def test_a_token_that_the_mint_always_refuses_without_a_code_is_refused(stage: Scene) -> None:
    """Every POST was answered, its coins are not spent and nothing of ours is signed: nothing can be at work."""
    token = stage.buyer.token(5)

    def pending(reply: Any) -> Any:
        return {"states": [state | {"state": "PENDING"} for state in reply["states"]]}

    stage.mint.always("/v1/swap", CATCH_ALL)
    stage.mint.next("/v1/checkstate", change(pending))
    with pytest.raises(InvalidToken):
        await stage.node.receive(token)
    assert stage.node.rows() == ["refused"]
    assert stage.buyer.spend(token) == 5


async def test_a_swap_that_was_sent_twice_on_its_way_is_credited(stage: Scene) -> None:
    """What stands before a mint tried again: we hear the refusal of the second, "already spent"."""

    async def twice(forward: Forward) -> Reply:
        await forward()
        return await forward()

    stage.mint.next("/v1/swap", twice)
    token = stage.buyer.token(90)
    assert (await stage.node.receive(token)).credited_msat == 90_000
    assert (await stage.node.receive(token)).replayed
    await stage.close_books()
