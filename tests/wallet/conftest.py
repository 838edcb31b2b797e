"""Real mints, a buyer at each, and wallets of nodes that live in a test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from addon.ledger import FILE_NAME, Account, Books, Journal, Reports, Store, audit
from addon.money import Unit
from addon.settings import Settings
from addon.tokens import decode, encode
from addon.treasury import Change, Changed, Recall, Receive, Received, RefundAccount, Refunded
from addon.wallet.vault import Vault
from scripts import realparts
from scripts.payer import Payer
from tests.wallet.faults import FaultyMint


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def _running_mint(home: Path, fee_ppk: int) -> Iterator[str]:
    part, url = realparts.mint(home, fee_ppk=fee_ppk)
    part.start()
    try:
        part.wait_until(url + "/v1/info")
        yield url
    finally:
        part.end()


@pytest.fixture(scope="session")
def mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a mint without fees."""
    yield from _running_mint(tmp_path_factory.mktemp("mint"), 0)


@pytest.fixture(scope="session")
def fee_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a mint that takes 100 ppk of its unit per input."""
    yield from _running_mint(tmp_path_factory.mktemp("feemint"), 100)


@dataclass
class Buyer:
    """Tokens that name any address, with the coins of one mint."""

    payer: Payer
    address: str

    def token(self, amount: int) -> str:
        """A token of this amount, naming `address`."""
        return self.named(self.payer.token(amount))

    def named(self, token: str, *, mint: str | None = None, unit: str | None = None) -> str:
        """The same coins, said to be of another mint or unit."""
        read = decode(token)
        return encode(mint or self.address, unit or read.unit, read.proofs)

    def spend(self, token: str) -> int:
        """Somebody else claims it; what it brought."""
        return self.payer.receive(token)

    def states(self, token: str) -> set[str]:
        return self.payer.states(token)


@dataclass
class Node:
    """The wallet of one node, in this process: `start` is its life's beginning, `stop` its end."""

    state_dir: Path
    mints: tuple[str, ...]
    nsec: str = field(default_factory=lambda: secrets.token_hex(32))
    vault: Vault | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further settings."""

    def start(self) -> Node:
        (self.state_dir / "wallet").mkdir(parents=True, exist_ok=True)
        self.vault = Vault(self.settings, self.state_dir)
        self.vault.start()
        return self

    @property
    def settings(self) -> Settings:
        own = {"cashu_mints": self.mints, "nsec": self.nsec, "state_dir": self.state_dir}
        return Settings.model_validate(own | dict(self.options))

    def copy(self, state_dir: Path) -> Node:
        """The same node from a copy of its directory, as it is now."""
        self.store().db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        shutil.copytree(self.state_dir, state_dir)
        return Node(state_dir, self.mints, self.nsec, options=self.options)

    def store(self) -> Store:
        """The ledger, as another process sees it."""
        return Store.open(self.state_dir / FILE_NAME, wait_ms=5000, durable=False)

    async def receive(
        self, token: str, account: str = "", purpose: Literal["key", "topup", "single"] = "key", least_msat: int = 0
    ) -> Received:
        ask = Receive(token=token, purpose=purpose, account=account or secrets.token_hex(8), least_msat=least_msat)
        answer = await self._vault.answer(ask)
        assert isinstance(answer, Received)
        return answer

    async def refund(self, account: str) -> Refunded:
        answer = await self._vault.answer(RefundAccount(account=account))
        assert isinstance(answer, Refunded)
        return answer

    async def pay(self, token: str, account: str = "", least_msat: int = 0) -> Received:
        """A single payment's beginning."""
        return await self.receive(token, account, "single", least_msat)

    async def change(self, account: str) -> Changed:
        answer = await self._vault.answer(Change(account=account))
        assert isinstance(answer, Changed)
        return answer

    async def recall(self, token: str) -> Changed:
        answer = await self._vault.answer(Recall(token=token))
        assert isinstance(answer, Changed)
        return answer

    @property
    def _vault(self) -> Vault:
        assert self.vault is not None
        return self.vault

    def account(self, account: str) -> Account:
        found = Reports(self.store()).account(account)
        assert found is not None
        return found

    def balances(self) -> list[int]:
        """Every account's balance, msat."""
        return [int(b) for (b,) in self.store().db.execute("SELECT balance FROM accounts ORDER BY balance")]

    def rows(self) -> list[str]:
        """The state of every swap in the journal."""
        return [str(s) for (s,) in self.store().db.execute("SELECT state FROM swaps ORDER BY created_at, id")]

    def epoch(self, mint: str, unit: Unit = "sat") -> int | None:
        from addon.ledger import Purse

        return Journal(self.store()).epoch(Purse(mint, unit))

    def books(self) -> Books:
        return Books(self.store())

    def proves(self) -> None:
        """The books prove, and every coin in hand is unspent at its mint."""
        store = self.store()
        assert audit(store) == []
        coins: dict[str, list[str]] = {}
        for y, mint in store.db.execute("SELECT Y, mint FROM proofs WHERE state = 'unspent'"):
            coins.setdefault(mint, []).append(y)
        for mint, ys in coins.items():
            reply = httpx.post(mint + "/v1/checkstate", json={"Ys": ys}, trust_env=False).json()
            assert {state["state"] for state in reply["states"]} <= {"UNSPENT"}


@dataclass
class Scene:
    """A node, its mint behind a network that can fail, and a buyer."""

    mint: FaultyMint
    node: Node
    buyer: Buyer

    async def eventually(self, seen: Callable[[], bool], limit_s: float = 15.0) -> None:
        """Waits for what the background does."""
        deadline = time.monotonic() + limit_s
        while not seen():
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(0.02)

    async def close_books(self) -> None:
        """Nothing is open any more, and the books prove."""
        await self.eventually(lambda: "sent" not in self.node.rows())
        await asyncio.to_thread(self.node.proves)


@contextlib.asynccontextmanager
async def scene(target: str, state_dir: Path, unit: str = "sat") -> AsyncIterator[Scene]:
    """A started node that accepts one mint, whose network can be made to fail."""
    mint = FaultyMint(target)
    await mint.up()
    try:
        yield Scene(mint, Node(state_dir, (mint.url,)).start(), Buyer(Payer(target, unit), mint.url))
    finally:
        mint.down()


@pytest.fixture
async def stage(mint: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """At a mint without fees."""
    async with scene(mint, tmp_path / "state") as made:
        yield made


@pytest.fixture
async def fee_stage(fee_mint: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """At a mint with fees."""
    async with scene(fee_mint, tmp_path / "state") as made:
        yield made


def errors_of(results: list[Any]) -> list[BaseException]:
    """The failures among gathered results."""
    return [result for result in results if isinstance(result, BaseException)]
