"""The tables that came with Lightning, and older ones that it changed: part of `schema.py`."""

from __future__ import annotations

from typing import Final

from sqlite_utils import Database

ENTRIES: Final = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    account TEXT REFERENCES accounts (id),
    kind TEXT NOT NULL CHECK (kind IN ('credit', 'charge', 'refund', 'rounding', 'melt_fee', 'mint_fee',
        'payout', 'adjustment')),
    ref TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount <> 0),
    mint TEXT,
    unit TEXT CHECK (unit IN ('sat', 'msat')),
    created_at INTEGER NOT NULL,
    UNIQUE (kind, ref),
    CHECK ((mint IS NULL) = (unit IS NULL)),
    CHECK (account IS NOT NULL OR kind IN ('payout', 'melt_fee')),
    CHECK (kind <> 'payout' OR account IS NULL)
) STRICT
"""

PROOFS: Final = """
CREATE TABLE proofs (
    Y TEXT PRIMARY KEY,
    mint TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('sat', 'msat')),
    keyset TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    C TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    counter INTEGER,
    tag BLOB,
    state TEXT NOT NULL CHECK (state IN ('unspent', 'reserved', 'sent', 'spent', 'lost')),
    made_by TEXT NOT NULL,
    taken_by TEXT,
    CHECK ((counter IS NULL) <> (tag IS NULL)),
    CHECK ((state = 'unspent') = (taken_by IS NULL))
) STRICT, WITHOUT ROWID
"""

PAYMENTS: Final = """
CREATE TABLE payments (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('refund', 'expiry', 'payout')),
    state TEXT NOT NULL CHECK (state IN ('sent', 'pending', 'paid', 'returned')),
    account TEXT REFERENCES accounts (id),
    recipient TEXT NOT NULL,
    mint TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('sat', 'msat')),
    amount INTEGER NOT NULL CHECK (amount > 0),
    fee INTEGER NOT NULL CHECK (fee >= 0),
    fee_paid INTEGER CHECK (fee_paid >= 0),
    quote TEXT NOT NULL,
    payment_hash TEXT NOT NULL,
    invoice_expires_at INTEGER NOT NULL,
    keyset TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    counters TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    CHECK ((account IS NULL) = (purpose = 'payout')),
    CHECK ((state IN ('sent', 'pending')) = (closed_at IS NULL)),
    CHECK ((state = 'paid') = (fee_paid IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX payments_of_account ON payments (account) WHERE account IS NOT NULL;
CREATE INDEX payments_open ON payments (mint, unit) WHERE state IN ('sent', 'pending');
CREATE UNIQUE INDEX payments_once ON payments (payment_hash) WHERE state <> 'returned';
CREATE UNIQUE INDEX payments_quotes ON payments (mint, quote);
CREATE INDEX accounts_expiring ON accounts (expires_at) WHERE refund_address IS NOT NULL AND expires_at IS NOT NULL;
"""


def rebuild(db: Database, table: str, create: str) -> None:
    """The same rows under other rules (SQLite cannot change those of a table), with the indexes that it had."""
    of_table = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL"
    indexes = [sql for (sql,) in db.execute(of_table, (table,)).fetchall()]
    db.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
    db.execute(create)
    db.execute(f"INSERT INTO {table} SELECT * FROM {table}_before")
    db.execute(f"DROP TABLE {table}_before")
    for sql in indexes:
        db.execute(sql)
