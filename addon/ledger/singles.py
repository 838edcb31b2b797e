"""Single payments: an account for what one token brought, for one request and its change, and for nothing else.

    open ──changed──> closed

The coins that the token was changed for are set aside until then, so that the change can be paid from them
without asking a mint. The change is a refund that is opened and paid in the transaction that closes the account;
what is less than a coin, or not worth its own fee, is booked as `rounding`: a closed account holds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from addon.ledger.proofs import Proofs, Purse
from addon.ledger.refunds import Payment, Refund, Refunds
from addon.ledger.store import Store

SingleState = Literal["open", "closed"]
SingleEvent = Literal["changed"]
SINGLE_STATES: Final[Mapping[SingleState, Mapping[SingleEvent, SingleState]]] = {
    "open": {"changed": "closed"},
    "closed": {},
}

_FIND: Final = """
SELECT a.id, e.mint, e.unit, a.state, a.balance, a.held, a.spent, a.created_at
FROM accounts a JOIN entries e ON e.account = a.id AND e.kind = 'credit' WHERE a.id = ? AND a.kind = 'single'
"""
_CLOSE: Final = """
UPDATE accounts SET state = ?, balance = 0
WHERE id = ? AND kind = 'single' AND state = 'open' AND held = 0 AND balance = ?
"""
_ROUNDING: Final = "INSERT INTO entries (account, kind, ref, amount, created_at) VALUES (?1, 'rounding', ?1, ?2, ?3)"
_WAITING: Final = "SELECT COUNT(*), COALESCE(SUM(balance), 0) FROM accounts WHERE kind = 'single' AND state = 'open'"
_CHARGED: Final = "SELECT id FROM accounts WHERE kind = 'single' AND state = 'open' AND held = 0 AND spent > 0"

SINGLES_ONCE: Final = (
    """
SELECT 'single payment ' || a.id || ' is ' || a.state || ', ' || -e.amount || ' msat of it were rounded off'
FROM accounts a JOIN entries e ON e.account = a.id AND e.kind = 'rounding'
    LEFT JOIN refunds r ON r.account = a.id
WHERE a.state <> 'closed' OR e.ref <> a.id OR e.amount > 0
    OR (r.id IS NOT NULL AND -e.amount >= CASE r.unit WHEN 'sat' THEN 1000 ELSE 1 END)
""",
)
"""What is rounded off (rule 3), and whose coins are where (rule 4): each row of the answers is a finding, in words."""
SINGLES_COINS: Final = (
    """
SELECT 'single payment ' || a.id || ' is ' || a.state || ', coins of ' || COALESCE(SUM(p.amount), 0) || ' ' || e.unit
    || ' are set aside for it'
FROM accounts a JOIN entries e ON e.account = a.id AND e.kind = 'credit'
    LEFT JOIN proofs p ON p.taken_by = a.id AND p.state = 'reserved' AND p.made_by = e.ref
WHERE a.kind = 'single' GROUP BY a.id
HAVING COALESCE(SUM(p.amount), 0) * CASE e.unit WHEN 'sat' THEN 1000 ELSE 1 END
    <> CASE a.state WHEN 'open' THEN e.amount ELSE 0 END
""",
    """
SELECT 'the change ' || r.id || ' holds a coin that its payment did not bring: ' || p.Y
FROM refunds r JOIN accounts a ON a.id = r.account AND a.kind = 'single'
    JOIN proofs p ON p.taken_by = r.id LEFT JOIN swaps s ON s.id = p.made_by WHERE s.account IS NOT r.account
""",
)


@dataclass(frozen=True, slots=True)
class Single:
    """A single payment's account, and where its coins are from. Amounts in msat, the time in unix seconds."""

    account: str
    purse: Purse
    state: SingleState
    balance_msat: int
    held_msat: int
    spent_msat: int
    created_at: int


class Singles:
    """The single payments of one ledger file."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._execute = store.db.execute
        self._clock = clock
        self._proofs = Proofs(store)
        self._refunds = Refunds(store, clock)

    def find(self, account: str) -> Single | None:
        """The single payment of this account."""
        row = self._execute(_FIND, (account,)).fetchone()
        return None if row is None else Single(row[0], Purse(row[1], row[2]), *row[3:])

    def charged(self) -> list[str]:
        """The accounts whose request was charged, and whose change nobody asked for yet."""
        return [str(account) for (account,) in self._execute(_CHARGED)]

    def waiting(self) -> tuple[int, int]:
        """How many are not over, and what is left of them (msat): set aside for their payers."""
        count, left_msat = self._execute(_WAITING).fetchone()
        return int(count), int(left_msat)

    def close(self, single: Single, change: Refund | None, payment: Payment | None) -> bool:
        """Pays the change out of the account's own coins, frees the others, books the rest; one transaction.

        False, with nothing done: the account is not as it was seen, because a request began.
        """
        rest_msat = single.balance_msat
        with self._store.transaction():
            closed = self._execute(_CLOSE, (SINGLE_STATES["open"]["changed"], single.account, single.balance_msat))
            if closed.rowcount != 1:
                return False
            self._proofs.free_reserved(single.account)
            if change is not None and payment is not None:
                self._refunds.open_within(change)
                self._refunds.pay_within(payment)
                rest_msat -= change.amount_msat
            if rest_msat:
                self._execute(_ROUNDING, (single.account, -rest_msat, int(self._clock())))
        return True
