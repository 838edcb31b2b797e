"""Refunds to the Lightning address that a key was opened with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from addon.treasury import Receive, RefundAccount, Refunded, Sent
from scripts.payer import Payer
from tests.parts.lnurl import Payee
from tests.wallet.conftest import Buyer, Node, Scene
from tests.wallet.faults import FaultyMint

pytestmark = pytest.mark.anyio

OPTIONS: Mapping[str, Any] = {"lnurl_allow_private": True, "refund_processing_interval": 0}


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    made = await Payee().up()
    yield made
    made.down()


@pytest.fixture
async def stage(mint: str, tmp_path: Path) -> AsyncIterator[Scene]:
    faulty = FaultyMint(mint)
    await faulty.up()
    node = Node(tmp_path / "state", (faulty.url,), options=OPTIONS).start()
    yield Scene(faulty, node, Buyer(Payer(mint), faulty.url))
    faulty.down()


async def open_key(stage: Scene, amount: int, address: str | None, **terms: Any) -> str:
    """A key with so many sat and a refund address."""
    ask = Receive(
        token=stage.buyer.token(amount), purpose="key", account=f"key{amount}", refund_address=address, **terms
    )
    assert stage.node.vault is not None
    answered = await stage.node.vault.answer(ask)
    return str(getattr(answered, "account"))  # noqa: B009


async def refund(node: Node, account: str, *, to_token: bool = False) -> Sent | Refunded:
    assert node.vault is not None
    answered = await node.vault.answer(RefundAccount(account=account, to_token=to_token))
    assert isinstance(answered, Sent | Refunded)
    return answered


async def test_a_refund_goes_to_the_address_and_what_the_way_did_not_cost_stays(stage: Scene, payee: Payee) -> None:
    """The reserve (2 sat) comes out of the refund; FakeWallet's way costs 1."""
    account = await open_key(stage, 100, payee.address)
    sent = await refund(stage.node, account)
    assert sent == Sent(recipient=payee.address, amount_msat=98_000, state="paid")
    assert payee.asked == [98_000]
    assert stage.node.account(account).balance_msat == 1_000
    await stage.close_books()
