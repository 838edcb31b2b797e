"""The ledger's tables, and how an older file is brought up to them.

All amounts are integers in msat unless a column's name says otherwise; times are unix seconds, in
`requests` unix milliseconds. The rules that must never break are in the tables themselves: a balance
cannot go below what is held, no cause is booked twice, no coin is in two places.
"""

from __future__ import annotations

from typing import Final

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

MIGRATIONS: Final = Migrations("ledger")

_BOOKS: Final = """
CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('key', 'single')),
    balance INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    requests INTEGER NOT NULL DEFAULT 0 CHECK (requests >= 0),
    rotation INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    refund_address TEXT,
    state TEXT NOT NULL DEFAULT 'open'
        CHECK (state = 'open' OR (state = 'closed' AND kind = 'single' AND balance = 0)),
    CHECK (0 <= held AND held <= balance)
) STRICT, WITHOUT ROWID;
CREATE INDEX accounts_single_open ON accounts (id) WHERE kind = 'single' AND state = 'open';
CREATE INDEX accounts_owed ON accounts (id) WHERE balance > 0 OR (kind = 'single' AND state = 'open');
CREATE INDEX accounts_expiring ON accounts (expires_at) WHERE refund_address IS NOT NULL AND expires_at IS NOT NULL;

CREATE TABLE credentials (
    hash TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL CHECK (kind IN ('key', 'token')),
    retired_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX credentials_live_tokens ON credentials (account) WHERE kind = 'token' AND retired_at IS NULL;

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
) STRICT;
CREATE INDEX entries_of_account ON entries (account);
CREATE INDEX entries_across_mints ON entries (account, mint, unit) WHERE mint IS NOT NULL;

CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (id),
    amount INTEGER NOT NULL CHECK (amount > 0),
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'released')),
    worker TEXT NOT NULL,
    opened_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_open ON holds (account, worker) WHERE state = 'open';

CREATE TABLE requests (
    id TEXT PRIMARY KEY REFERENCES holds (id),
    account TEXT NOT NULL REFERENCES accounts (id),
    model TEXT NOT NULL,
    path TEXT NOT NULL,
    stream INTEGER NOT NULL CHECK (stream IN (0, 1)),
    status INTEGER NOT NULL,
    end TEXT NOT NULL CHECK (end IN ('complete', 'cut', 'client_left', 'upstream_failed', 'drained', 'lost')),
    hold INTEGER NOT NULL,
    cost INTEGER NOT NULL CHECK (0 <= cost AND cost <= hold),
    input_cost INTEGER NOT NULL CHECK (0 <= input_cost),
    output_cost INTEGER NOT NULL CHECK (0 <= output_cost),
    shortfall INTEGER NOT NULL DEFAULT 0 CHECK (0 <= shortfall),
    usage_source TEXT NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    usage TEXT,
    usd_per_btc TEXT,
    started_ms INTEGER NOT NULL,
    first_byte_ms INTEGER,
    ended_ms INTEGER NOT NULL,
    CHECK (input_cost + output_cost = cost)
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_ended ON requests (ended_ms);

CREATE TABLE days (
    id TEXT PRIMARY KEY CHECK (id = account || '.' || day),
    account TEXT NOT NULL REFERENCES accounts (id),
    day TEXT NOT NULL CHECK (day = date(day)),
    requests INTEGER NOT NULL CHECK (requests > 0),
    charged INTEGER NOT NULL CHECK (0 <= charged AND charged <= requests),
    cost INTEGER NOT NULL CHECK (charged <= cost),
    shortfall INTEGER NOT NULL CHECK (0 <= shortfall),
    CHECK ((charged = 0) = (cost = 0))
) STRICT, WITHOUT ROWID;
"""

_TREASURY: Final = """
CREATE TABLE swaps (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('key', 'topup', 'single', 'refund', 'consolidate')),
    state TEXT NOT NULL CHECK (state IN ('sent', 'done', 'refused', 'failed')),
    mint TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('sat', 'msat')),
    face INTEGER NOT NULL CHECK (face > 0),
    fee INTEGER NOT NULL CHECK (0 <= fee AND fee < face),
    inputs BLOB,
    amounts TEXT NOT NULL,
    keyset TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    counters TEXT NOT NULL,
    tag BLOB,
    account TEXT,
    cause TEXT,
    token_hash TEXT,
    expires_at INTEGER,
    refund_address TEXT,
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    CHECK ((state = 'sent') = (closed_at IS NULL)),
    CHECK (state = 'sent' OR inputs IS NULL)
) STRICT, WITHOUT ROWID;
CREATE INDEX swaps_open ON swaps (mint, unit) WHERE state = 'sent';
CREATE INDEX swaps_closed ON swaps (closed_at) WHERE state IN ('refused', 'failed');
CREATE INDEX swaps_of_cause ON swaps (cause) WHERE cause IS NOT NULL;

CREATE TABLE swap_inputs (
    Y TEXT PRIMARY KEY,
    swap TEXT NOT NULL REFERENCES swaps (id)
) STRICT, WITHOUT ROWID;
CREATE INDEX swap_inputs_of_swap ON swap_inputs (swap);

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
) STRICT, WITHOUT ROWID;
CREATE INDEX proofs_tags ON proofs (mint, unit) WHERE tag IS NOT NULL AND state = 'unspent';
CREATE INDEX proofs_in_hand ON proofs (mint, unit, amount) WHERE state IN ('unspent', 'reserved');
CREATE INDEX proofs_taken ON proofs (taken_by) WHERE taken_by IS NOT NULL;

CREATE TABLE refunds (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL REFERENCES accounts (id),
    mint TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('sat', 'msat')),
    amount INTEGER NOT NULL CHECK (amount > 0),
    state TEXT NOT NULL CHECK (state IN ('open', 'done', 'returned')),
    token BLOB,
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    CHECK ((state = 'open') = (closed_at IS NULL)),
    CHECK ((state = 'done') = (token IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX refunds_of_account ON refunds (account);
CREATE INDEX refunds_open ON refunds (mint, unit) WHERE state = 'open';

CREATE TABLE epochs (
    mint TEXT NOT NULL,
    unit TEXT NOT NULL,
    epoch INTEGER NOT NULL CHECK (epoch >= 0),
    PRIMARY KEY (mint, unit)
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (
    mint TEXT NOT NULL,
    unit TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    keyset TEXT NOT NULL,
    next INTEGER NOT NULL CHECK (next >= 0),
    PRIMARY KEY (mint, unit, epoch, keyset)
) STRICT, WITHOUT ROWID;

CREATE TABLE returned_counters (
    mint TEXT NOT NULL,
    unit TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    keyset TEXT NOT NULL,
    counter INTEGER NOT NULL,
    PRIMARY KEY (mint, unit, epoch, keyset, counter)
) STRICT, WITHOUT ROWID;
"""

_LIGHTNING: Final = """
CREATE TABLE invoices (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL CHECK (purpose IN ('key', 'topup')),
    state TEXT NOT NULL CHECK (state IN ('open', 'left', 'paid', 'lost')),
    account TEXT NOT NULL,
    mint TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('sat', 'msat')),
    amount INTEGER NOT NULL CHECK (amount > 0),
    quote BLOB,
    locked INTEGER NOT NULL CHECK (locked IN (0, 1)),
    bolt11 TEXT NOT NULL,
    payment_hash TEXT NOT NULL UNIQUE,
    expires_at INTEGER NOT NULL,
    key_expires_at INTEGER,
    refund_address TEXT,
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    CHECK ((state IN ('open', 'left')) = (quote IS NOT NULL)),
    CHECK ((state = 'open') = (closed_at IS NULL))
) STRICT, WITHOUT ROWID;
CREATE INDEX invoices_open ON invoices (purpose, account) WHERE state = 'open';
CREATE INDEX invoices_left ON invoices (closed_at) WHERE state = 'left';

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
"""

_RATES: Final = """
CREATE TABLE rates (
    kind TEXT PRIMARY KEY CHECK (kind IN ('latest', 'agreed')),
    usd_per_btc TEXT NOT NULL CHECK (CAST(usd_per_btc AS REAL) > 0),
    taken_at INTEGER NOT NULL,
    sources TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""


@MIGRATIONS()
def m001_accounts(db: Database) -> None:
    """Accounts, who may use them, every movement, holds, a row per paid request, and what old ones are folded into."""
    db.executescript(_BOOKS)


@MIGRATIONS()
def m002_wallet(db: Database) -> None:
    """The wallet's journal, its coins without their secrets, and the counters they are derived from."""
    db.executescript(_TREASURY)


@MIGRATIONS()
def m003_lightning(db: Database) -> None:
    """What comes in by an invoice, and what is paid over Lightning."""
    db.executescript(_LIGHTNING)


@MIGRATIONS()
def m004_rates(db: Database) -> None:
    """The last prices of bitcoin."""
    db.executescript(_RATES)
