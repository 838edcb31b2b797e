"""What the node does beside its requests, once in a while."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from addon.housekeeping import housekeep
from addon.ledger import audit
from addon.settings import Settings
from tests.ledger.test_folding import Asked, fund, movements, opened, sell


@pytest.mark.anyio
async def test_a_node_that_starts_folds_what_is_old_and_ends_when_it_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        fund(store, "a")
        sell(store, [Asked("a", n, 2) for n in range(300)])
        keeping = asyncio.create_task(housekeep(Settings(state_dir=tmp_path, keep_days=400)))
        while store.db.execute("SELECT 1 FROM requests LIMIT 1").fetchone():
            await asyncio.sleep(0.001)
        assert [moved["amount_msats"] for moved in movements(store, "a")] == [600, 1_024_000]
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
        assert audit(store) == []


@pytest.mark.anyio
async def test_a_ledger_that_cannot_be_written_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no ledger" * 1000)
    keeping = asyncio.create_task(housekeep(Settings(state_dir=tmp_path)))
    while "could not be folded" not in caplog.text:
        await asyncio.sleep(0.001)
    assert str(tmp_path / "ledger.db") in caplog.text
    assert not keeping.done()
    keeping.cancel()
