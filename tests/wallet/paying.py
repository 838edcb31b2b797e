"""Keys with Lightning addresses, at real mints whose Lightning backend does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from addon.treasury import Receive, Received, RefundAccount, Refunded, Sent
from scripts import realparts
from scripts.payer import Payer
from scripts.realparts import Part
from tests.wallet.conftest import Buyer, Node, Scene
from tests.wallet.faults import FaultyMint, lose_request

OPTIONS: Mapping[str, Any] = {"lnurl_allow_private": True, "refund_processing_interval": 0, "payout_interval": 0}
"""Nothing is sent by itself."""
MELT = "/v1/melt/bolt11"
QUOTE = "/v1/melt/quote/bolt11"
STATE = "/v1/melt/quote/bolt11/"


@contextlib.asynccontextmanager
async def stage_at(target: str, state_dir: Path, **options: Any) -> AsyncIterator[Scene]:
    """A node with a refund address's way open, at one mint whose network can be made to fail."""
    faulty = FaultyMint(target)
    await faulty.up()
    try:
        node = Node(state_dir, (faulty.url,), options={**OPTIONS, **options}).start()
        yield Scene(faulty, node, Buyer(Payer(target), faulty.url))
    finally:
        faulty.down()


class MoodyMint:
    """A mint whose Lightning backend changes its mind between two lives."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._part: Part | None = None
        self._port = realparts.free_port()
        self.url = ""

    def live(self, **moods: str) -> None:
        """(Again) with `pay` and `look`: what paying an invoice says, and what asking about it says later."""
        self.end()
        names = {"pay": "FAKEWALLET_PAY_INVOICE_STATE", "look": "FAKEWALLET_PAYMENT_STATE"}
        changes = {names[name]: mood for name, mood in moods.items()}
        self._part, self.url = realparts.mint(self._home, port=self._port, changes=changes)
        self._part.start()
        self._part.wait_until(self.url + "/v1/info")

    async def live_again(self, stage: Scene, **moods: str) -> None:
        """The same, while a node deals with it: what it asks meanwhile is lost."""
        stage.mint.always("/v1", lose_request)
        await asyncio.to_thread(lambda: self.live(**moods))
        stage.mint.always("/v1", None)

    def end(self) -> None:
        if self._part is not None:
            self._part.end()


async def open_key(stage: Scene, amount: int, address: str | None, account: str = "key", **terms: Any) -> str:
    """A key with so many sat and a refund address; its account."""
    ask = Receive(token=stage.buyer.token(amount), purpose="key", account=account, refund_address=address, **terms)
    assert stage.node.vault is not None
    answered = await stage.node.vault.answer(ask)
    assert isinstance(answered, Received)
    return answered.account


async def refund(node: Node, account: str, *, to_token: bool = False) -> Sent | Refunded:
    """What the refund call is answered by."""
    assert node.vault is not None
    answered = await node.vault.answer(RefundAccount(account=account, to_token=to_token))
    assert isinstance(answered, Sent | Refunded)
    return answered


def payments(node: Node) -> list[str]:
    """The state of every Lightning payment, oldest first."""
    return [str(s) for (s,) in node.store().db.execute("SELECT state FROM payments ORDER BY created_at, id")]


async def close_books(stage: Scene) -> None:
    """No payment is open any more, and the books prove."""
    await stage.eventually(lambda: not {"sent", "pending"} & set(payments(stage.node)))
    await stage.close_books()
