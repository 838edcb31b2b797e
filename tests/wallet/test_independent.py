"""Against an implementation that shares no code with ours: its mint, its wallet, all keyset ids, fees, units."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from addon.errors import FeesExceedToken, InvalidToken, OutcomeUnknown, TokenAlreadySpent
from addon.money import Unit, to_msat
from addon.tokens import decode
from tests.wallet import independent
from tests.wallet.conftest import Node, Scene, scene
from tests.wallet.faults import lose_reply, lose_request
from tests.wallet.test_refund import charge

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def wallet() -> Iterator[independent.Wallet]:
    made = independent.Wallet()
    yield made
    made.close()


@pytest.fixture(
    params=[(0, "sat", 0), (0, "sat", 1), (100, "sat", 1), (100, "sat", 0), (100, "msat", 1)],
    ids=["00", "01", "01 fees", "00 fees", "01 fees msat"],
    scope="module",
)
def other_mint(request: pytest.FixtureRequest) -> Iterator[tuple[str, Unit, int]]:
    fee_ppk, unit, version = request.param
    with independent.mint(fee_ppk=fee_ppk, unit=unit, version=version) as url:
        yield url, unit, fee_ppk


def spend(wallet: independent.Wallet, url: str, unit: str, amount: int, version: int = 4) -> str:
    wallet("fund", url=url, unit=unit, amount=2 * amount + 10)
    return str(wallet("token", url=url, unit=unit, amount=amount, version=version)["token"])


def fee_of(token: str, fee_ppk: int) -> int:
    return -(-len(decode(token).proofs) * fee_ppk // 1000)


@pytest.mark.parametrize("version", [3, 4])
async def test_its_tokens_are_redeemed_and_ours_are_claimed(
    other_mint: tuple[str, Unit, int], wallet: independent.Wallet, tmp_path: Path, version: int
) -> None:
    """(Incident 7: short keyset ids not expanded; V3, V4, short and long ids, from two implementations.)"""
    url, unit, fee_ppk = other_mint
    node = Node(tmp_path / "s", (url,)).start()
    token = await asyncio.to_thread(spend, wallet, url, unit, 5000, version)
    received = await node.receive(token)
    assert received.credited_msat == to_msat(5000 - fee_of(token, fee_ppk), unit)
    charge(node, received.account, to_msat(1230, unit), "r")
    refunded = await node.refund(received.account)
    assert refunded.unit == unit
    claimed = await asyncio.to_thread(wallet, "receive", token=refunded.token, url=url, unit=unit)
    assert claimed["received"] == refunded.amount - fee_of(refunded.token, fee_ppk)
    with pytest.raises(TokenAlreadySpent):
        await node.receive(refunded.token)
    await asyncio.to_thread(node.proves)


@pytest.mark.parametrize("rule", [lose_reply, lose_request])
async def test_its_lost_answers_are_recovered(
    other_mint: tuple[str, Unit, int], wallet: independent.Wallet, tmp_path: Path, rule: Any
) -> None:
    url, unit, fee_ppk = other_mint
    async with scene(url, tmp_path / "s", unit) as stage:
        token = await asyncio.to_thread(spend, wallet, url, unit, 3330)
        stage.mint.next("/v1/swap", rule)
        received = await stage.node.receive(stage.buyer.named(token))
        assert received.credited_msat == to_msat(3330 - fee_of(token, fee_ppk), unit)
        await stage.close_books()


async def test_another_life_at_it_is_neither_credited_nor_lost(
    other_mint: tuple[str, Unit, int], wallet: independent.Wallet, tmp_path: Path
) -> None:
    url, unit, _ = other_mint
    async with scene(url, tmp_path / "first", unit) as stage:
        await stage.node.receive(stage.buyer.token(1030))
        copy = stage.node.copy(tmp_path / "copy")
        await stage.node.receive(stage.buyer.token(1600))
        again = Scene(stage.mint, copy.start(), stage.buyer)
        before, stolen = sum(copy.balances()), stage.buyer.token(1600)

        async def refused_then_stolen(forward: Any) -> None:
            await forward()
            await asyncio.to_thread(stage.buyer.spend, stolen)

        stage.mint.next("/v1/swap", refused_then_stolen)
        with pytest.raises(TokenAlreadySpent):
            await copy.receive(stolen)
        assert sum(copy.balances()) == before
        received = await copy.receive(stage.buyer.token(1600))
        assert sum(copy.balances()) == before + received.credited_msat
        await again.close_books()


async def test_a_token_locked_to_somebody_is_refused(wallet: independent.Wallet, tmp_path: Path) -> None:
    with independent.mint() as url:
        wallet("fund", url=url, unit="sat", amount=100)
        token = wallet("token", url=url, unit="sat", amount=10, p2pk={"pubkey": "02" + "a1" * 32})["token"]
        with pytest.raises(InvalidToken, match="locked"):
            await Node(tmp_path / "s", (url,)).start().receive(token)


async def test_signatures_without_the_promised_proofs_are_not_credited(
    wallet: independent.Wallet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mint that says it proves every signature (NUT-12), and does not."""
    monkeypatch.setattr("addon.wallet.receive.LIMIT_S", 1.0)
    with independent.mint() as url:
        node = Node(tmp_path / "s", (url,)).start()
        await node.receive(spend(wallet, url, "sat", 8))
        token = spend(wallet, url, "sat", 8)
        await asyncio.to_thread(httpx.post, url + "/__fault", json={"nodleq": True}, trust_env=False)
        with pytest.raises(OutcomeUnknown):
            await node.receive(token)
        assert node.balances() == [8_000]


async def test_a_coin_worth_less_than_its_fee_is_refused(wallet: independent.Wallet, tmp_path: Path) -> None:
    with independent.mint(fee_ppk=1000) as url:
        token = spend(wallet, url, "sat", 1)
        with pytest.raises(FeesExceedToken):
            await Node(tmp_path / "s", (url,)).start().receive(token)
