"""The ledger's file: how it is opened, and the one way to begin a transaction.

`sqlite_utils` gives the connection, the migrations and the reads. Its `atomic()` begins deferred, and a
deferred transaction that reads before it writes fails at once when another process wrote in between,
whatever the time-out: so `Store.transaction` owns the one BEGIN IMMEDIATE.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlite_utils import Database

from addon.errors import InternalError, LedgerBusy
from addon.ledger.schema import MIGRATIONS

FILE_NAME: Final = "ledger.db"
PROXY_WAIT_MS: Final = 0
"""The proxy never sleeps inside SQLite: it would stop every stream. Its hooks retry instead."""
WALLET_WAIT_MS: Final = 5000


class Store:
    """One connection to the ledger's file. Never shared between threads."""

    def __init__(self, db: Database) -> None:
        self.db = db

    @classmethod
    def open(cls, path: Path, *, wait_ms: int, durable: bool) -> Store:
        """Opens or creates the file and brings its tables up to date.

        `durable`: each commit survives a power cut (the wallet's, where money crosses the border). Without
        it a dying process still loses nothing; a power cut may lose the last commits, from the end only.
        Raises InternalError when the file is there and is no ledger: it is never replaced.
        """
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=wait_ms / 1000)
            store = cls(Database(connection))
            store._configure(wait_ms=wait_ms, durable=durable)
            with store.transaction():
                MIGRATIONS.apply(store.db)
            path.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            raise InternalError(
                f"The ledger {path} cannot be used ({error}). Restore it from a backup, or check its owner "
                "and the disk; it is not replaced, since it holds the balances."
            ) from None
        return store

    def _configure(self, *, wait_ms: int, durable: bool) -> None:
        for pragma in (
            f"busy_timeout = {max(wait_ms, 1000)}",  # while opening, waiting harms nobody
            "journal_mode = WAL",
            f"synchronous = {'FULL' if durable else 'NORMAL'}",
            "foreign_keys = ON",
            "secure_delete = ON",
            "cache_size = -16000",
            "wal_autocheckpoint = 16000",
            f"busy_timeout = {wait_ms}",
        ):
            self.db.execute(f"PRAGMA {pragma}").fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One change of state, whole or not at all. Not nested, and never kept across an await.

        Raises LedgerBusy at once, with nothing done, when another process is writing.
        """
        try:
            self.db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise LedgerBusy("The ledger is being written by another process.") from None
            raise
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.conn.in_transaction:
                self.db.execute("ROLLBACK")
            raise

    def takes_writes(self) -> bool:
        """Whether a change could be written now; another process that is just writing is no hindrance."""
        try:
            with self.transaction():
                return True
        except LedgerBusy:
            return True
        except sqlite3.Error:
            return False

    def close(self) -> None:
        """Closes the connection; the last one to go also folds the write-ahead log into the file."""
        self.db.close()
