"""What the node does beside its requests, once in a while."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from addon.background import Background
from addon.housekeeping import housekeep
from addon.ledger import audit
from addon.settings import Settings
from tests.ledger.test_folding import Asked, fund, movements, opened, sell


@pytest.mark.anyio
async def test_what_is_old_is_folded(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", n, 2) for n in range(300)])
        await housekeep(Settings(state_dir=tmp_path, keep_days=400))
        assert [moved["amount_msats"] for moved in movements(store, "a")] == [600, 1_024_000]
        assert audit(store) == []


@pytest.mark.anyio
async def test_a_ledger_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no ledger" * 1000)
    await housekeep(Settings(state_dir=tmp_path))
    assert "could not be folded" in caplog.text and str(tmp_path / "ledger.db") in caplog.text


@pytest.mark.anyio
async def test_work_that_fails_is_told_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    """(A watch that died of one odd connection gave up on all the others.)"""
    tries, again = 0, asyncio.Event()

    async def step() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise KeyError("sk-secret")
        again.set()

    background = Background()
    background.repeat(step, 0.001)
    async with asyncio.timeout(10):
        await again.wait()
    background.cancel()
    assert "KeyError" in caplog.text and "sk-secret" not in caplog.text
