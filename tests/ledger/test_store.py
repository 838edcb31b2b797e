"""One ledger file and whoever writes it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from addon.ledger import FILE_NAME, PROXY_WAIT_MS, Store


def test_a_ledger_that_another_process_is_writing_is_well(tmp_path: Path) -> None:
    """(A probe that fails while somebody else writes would restart a busy node.)"""
    store = Store.open(tmp_path / FILE_NAME, wait_ms=PROXY_WAIT_MS, durable=False)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert store.takes_writes()
    other.execute("ROLLBACK")
    other.close()
    store.close()


def test_a_ledger_that_only_reads_is_not(tmp_path: Path) -> None:
    store = Store.open(tmp_path / FILE_NAME, wait_ms=PROXY_WAIT_MS, durable=False)
    store.db.execute("PRAGMA query_only = ON")
    assert not store.takes_writes()
    store.close()
