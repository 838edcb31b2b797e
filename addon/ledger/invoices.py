"""Lightning invoices: what somebody may pay a mint for an account here, and whether it was paid.

    open ──issued──> paid
     │ └───taken──> lost
     └─unpaid──> left ──issued──> paid
                   └────taken──> lost

The row is written before anybody is shown the invoice. A paid one is minted as a swap is made (`journal.py`):
the row of that swap has the invoice's id, its input is the mint's quote, and the transaction that books the
credit also closes the invoice. Nobody is told the state `left`: it only means that the mint is asked again
when somebody asks us, and not by ourselves.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from addon.ledger.proofs import Purse
from addon.ledger.store import Store

InvoiceState = Literal["open", "left", "paid", "lost"]
InvoiceEvent = Literal["issued", "taken", "unpaid"]
InvoicePurpose = Literal["key", "topup"]
INVOICE_STATES: Final[Mapping[InvoiceState, Mapping[InvoiceEvent, InvoiceState]]] = {
    "open": {"issued": "paid", "taken": "lost", "unpaid": "left"},
    "left": {"issued": "paid", "taken": "lost"},
    "paid": {},
    "lost": {},
}
FORGET_AT_ONCE: Final = 200
COUNTED_S: Final = 3600
"""An unpaid invoice takes somebody's room for no longer; it can be paid as long as it says."""

_COLUMNS: Final = (
    "id, purpose, state, account, mint, unit, amount, quote, locked, bolt11, payment_hash, expires_at, "
    "key_expires_at, refund_address, created_at, closed_at"
)
INVOICE_CHECKS: Final = (
    """
SELECT 'invoice ' || i.id || ' is paid, its credit is ' || COALESCE(e.amount, 'not booked')
FROM invoices i LEFT JOIN entries e ON e.kind = 'credit' AND e.ref = i.id
WHERE i.state = 'paid' AND (e.amount IS NULL OR e.amount <> i.amount OR e.account <> i.account
    OR e.mint <> i.mint OR e.unit <> i.unit)
""",
    """
SELECT 'invoice ' || i.id || ' is ' || i.state || ', its swap is ' || s.state
FROM invoices i JOIN swaps s ON s.id = i.id WHERE (i.state = 'paid') <> (s.state = 'done')
    OR s.cause IS NULL OR s.cause <> i.id
""",
    """
SELECT 'the swap ' || s.id || ' minted for an invoice that is not there'
FROM swaps s LEFT JOIN invoices i ON i.id = s.cause
WHERE s.purpose IN ('key', 'topup') AND s.cause IS NOT NULL AND i.id IS NULL
""",
)
"""What `invariants.booked_once` asks about invoices."""


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice's row. `id`: SHA-256 (hex) of what its asker calls it by; who reads the ledger cannot ask.

    `quote`: the mint's name for it, sealed, for who knows it can mint; gone once the row is closed. `locked`: to
    a key of ours (NUT-20). `account` is topped up, or opened on these terms. Times in unix seconds.
    """

    id: str
    purpose: InvoicePurpose
    account: str
    purse: Purse
    amount_msat: int
    bolt11: str
    payment_hash: str
    expires_at: int
    created_at: int
    quote: bytes | None = field(repr=False)
    locked: bool = False
    key_expires_at: int | None = None
    refund_address: str | None = field(default=None, repr=False)
    state: InvoiceState = "open"
    closed_at: int | None = None

    @property
    def closed(self) -> bool:
        return not INVOICE_STATES[self.state]


class Invoices:
    """The invoices of one ledger file."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._execute = store.db.execute
        self._clock = clock

    def add(self, new: Invoice) -> bool:
        """Writes an invoice down. False, with nothing done: its id, or its payment, stands in another row."""
        row = (
            *(new.id, new.purpose, new.state, new.account, new.purse.mint, new.purse.unit, new.amount_msat),
            *(new.quote, int(new.locked), new.bolt11, new.payment_hash, new.expires_at, new.key_expires_at),
            *(new.refund_address, new.created_at, new.closed_at),
        )
        try:
            with self._store.transaction():
                self._execute(f"INSERT INTO invoices ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE):
                raise
            return False
        return True

    def find(self, invoice_id: str) -> Invoice | None:
        rows = self._select("id = ?", (invoice_id,))
        return rows[0] if rows else None

    def open_invoices(self) -> list[Invoice]:
        """Those whose mint is asked by ourselves, oldest first."""
        return self._select("state = 'open' ORDER BY created_at", ())

    def waiting(self, account: str | None = None) -> int:
        """How many of the last hour can be paid at this moment: for one account, or for new keys."""
        whose, who = ("purpose = 'key'", ()) if account is None else ("purpose = 'topup' AND account = ?", (account,))
        found = self._execute(
            f"SELECT COUNT(*) FROM invoices WHERE state = 'open' AND expires_at > ? AND created_at > ? AND {whose}",
            (int(self._clock()), int(self._clock()) - COUNTED_S, *who),
        )
        return int(found.fetchone()[0])

    def is_being_minted(self, invoice_id: str) -> bool:
        """Whether it was paid, and its coins are asked for."""
        found = self._execute("SELECT 1 FROM swaps WHERE cause = ? AND state = 'sent'", (invoice_id,))
        return found.fetchone() is not None

    def leave(self, invoice_id: str) -> None:
        """Nobody paid it in time: the mint is not asked any more unless somebody asks here."""
        with self._store.transaction():
            self.close_within(invoice_id, "unpaid")

    def close_within(self, invoice_id: str, event: InvoiceEvent) -> None:
        """One guarded step of the table, inside the caller's transaction. Nothing happens to what is no invoice."""
        for state, events in INVOICE_STATES.items():
            target = events.get(event)
            if target is not None:
                kept = "quote" if INVOICE_STATES[target] else "NULL"
                self._execute(
                    f"UPDATE invoices SET state = ?, quote = {kept}, closed_at = ? WHERE id = ? AND state = ?",
                    (target, int(self._clock()), invoice_id, state),
                )

    def forget_unpaid(self, *, before: int, most: int) -> bool:
        """Drops rows that were left before this time (unix seconds), or are not the `most` newest of those.

        A bounded number at once; True: there may be more.
        """
        left = "FROM invoices i WHERE state = 'left' AND NOT EXISTS (SELECT 1 FROM swaps s WHERE s.cause = i.id)"
        row = self._execute(f"SELECT closed_at {left} ORDER BY closed_at DESC LIMIT 1 OFFSET ?", (most,)).fetchone()
        before = before if row is None else max(before, row[0] + 1)
        with self._store.transaction():
            gone = self._execute(
                f"DELETE FROM invoices WHERE id IN (SELECT i.id {left} AND closed_at < ? ORDER BY closed_at LIMIT ?)",
                (before, FORGET_AT_ONCE),
            )
        return gone.rowcount == FORGET_AT_ONCE

    def _select(self, where: str, parameters: tuple[object, ...]) -> list[Invoice]:
        rows = self._execute(f"SELECT {_COLUMNS} FROM invoices WHERE {where}", parameters)
        return [
            Invoice(
                id=r[0], purpose=r[1], state=r[2], account=r[3], purse=Purse(r[4], r[5]), amount_msat=r[6],
                quote=r[7], locked=bool(r[8]), bolt11=r[9], payment_hash=r[10], expires_at=r[11],
                key_expires_at=r[12], refund_address=r[13], created_at=r[14], closed_at=r[15],
            )
            for r in rows
        ]  # fmt: skip
