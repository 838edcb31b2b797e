"""The five rules of the books, as functions from a ledger to findings. No finding: the books prove.

`scripts/audit.py`, the property tests and every crash test call these same five. A sixth is asked of each
mint (NUT-07), and needs the wallet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlite_utils import Database

from addon.ledger.invoices import INVOICE_CHECKS
from addon.ledger.payment_rules import PAYMENTS_ONCE
from addon.ledger.proofs import Purse
from addon.ledger.singles import SINGLES_COINS, SINGLES_ONCE
from addon.ledger.store import Store


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where the books do not prove. `check` is the invariant's name."""

    check: str
    what: str


@dataclass(frozen=True, slots=True)
class Solvency:
    """What one purse owes and holds, in msat."""

    purse: Purse
    owed_msat: int
    held_msat: int

    @property
    def surplus_msat(self) -> int:
        return self.held_msat - self.owed_msat


_BALANCES: Final = """
SELECT 'account ' || a.id || ': balance ' || a.balance || ', its entries sum to ' || COALESCE(SUM(e.amount), 0)
FROM accounts a LEFT JOIN entries e ON e.account = a.id GROUP BY a.id
HAVING a.balance <> COALESCE(SUM(e.amount), 0)
"""
_HOLDS: Final = """
SELECT 'account ' || a.id || ': held ' || a.held || ' of ' || a.balance || ', its open holds sum to '
    || COALESCE(SUM(h.amount), 0)
FROM accounts a LEFT JOIN holds h ON h.account = a.id AND h.state = 'open' GROUP BY a.id
HAVING a.held <> COALESCE(SUM(h.amount), 0) OR a.held > a.balance
"""
_ONCE: Final = (
    """
SELECT 'swap ' || s.id || ' is done, its credit is ' || COALESCE(e.amount, 'not booked')
FROM swaps s LEFT JOIN entries e ON e.kind = 'credit' AND e.ref = s.id
WHERE s.state = 'done' AND s.purpose IN ('key', 'topup', 'single') AND (e.amount IS NULL OR e.account <> s.account
    OR e.amount <> (SELECT SUM(value) FROM json_each(s.amounts)) * CASE s.unit WHEN 'sat' THEN 1000 ELSE 1 END)
""",
    """
SELECT 'a credit of ' || e.amount || ' has no executed swap: ' || e.ref
FROM entries e LEFT JOIN swaps s ON s.id = e.ref AND s.state = 'done'
WHERE e.kind = 'credit' AND s.id IS NULL
""",
    """
SELECT 'refund ' || r.id || ' of ' || r.amount || ' was debited as ' || COALESCE(-e.amount, 'nothing')
FROM refunds r LEFT JOIN entries e ON e.kind = 'refund' AND e.ref = r.id
WHERE e.amount IS NULL OR e.amount <> -r.amount OR e.account <> r.account
""",
    """
SELECT 'refund ' || r.id || ' of ' || r.amount || ' msat sent coins of ' || COALESCE(SUM(p.amount), 0) || ' ' || r.unit
FROM refunds r LEFT JOIN proofs p ON p.taken_by = r.id AND p.state = 'sent'
WHERE r.state = 'done' GROUP BY r.id
HAVING COALESCE(SUM(p.amount), 0) * CASE r.unit WHEN 'sat' THEN 1000 ELSE 1 END <> r.amount
""",
    """
SELECT 'a refund of ' || e.amount || ' was debited without a row: ' || e.ref
FROM entries e LEFT JOIN refunds r ON r.id = e.ref LEFT JOIN payments p ON p.id = e.ref AND p.account = e.account
WHERE e.kind = 'refund' AND r.id IS NULL AND p.id IS NULL
""",
    """
SELECT 'refund ' || r.id || ' is ' || r.state || ', of ' || t.taken || ' msat taken for it ' || t.back || ' went back'
FROM refunds r JOIN (
    SELECT ref, SUM(CASE WHEN kind = 'adjustment' THEN 0 ELSE -amount END) AS taken,
        SUM(CASE WHEN kind = 'adjustment' THEN amount ELSE 0 END) AS back
    FROM entries WHERE kind IN ('refund', 'mint_fee', 'adjustment') GROUP BY ref
) t ON t.ref = r.id WHERE t.back <> CASE r.state WHEN 'returned' THEN t.taken ELSE 0 END
""",
    *PAYMENTS_ONCE,
    *SINGLES_ONCE,
)
_CHARGES: Final = (
    """
SELECT 'request ' || r.id || ' was told ' || r.cost || ', charged ' || COALESCE(-e.amount, 0)
FROM (SELECT id, account, cost FROM requests UNION ALL SELECT id, account, cost FROM days) r
    LEFT JOIN entries e ON e.kind = 'charge' AND e.ref = r.id
WHERE r.cost <> COALESCE(-e.amount, 0) OR (e.account IS NOT NULL AND e.account <> r.account)
""",
    """
SELECT 'a charge of ' || -e.amount || ' has no request: ' || e.ref
FROM entries e LEFT JOIN requests r ON r.id = e.ref LEFT JOIN days d ON d.id = e.ref
WHERE e.kind = 'charge' AND r.id IS NULL AND d.id IS NULL
""",
    """
SELECT 'account ' || a.id || ': spent ' || a.spent || ', its charges sum to ' || COALESCE(-SUM(e.amount), 0)
FROM accounts a LEFT JOIN entries e ON e.account = a.id AND e.kind = 'charge' GROUP BY a.id
HAVING a.spent <> COALESCE(-SUM(e.amount), 0)
""",
)
_OWED: Final = """
WITH rooms AS (
    SELECT e.mint, e.unit, CASE WHEN a.kind = 'single' AND a.state = 'open' THEN SUM(e.amount)
        ELSE MIN(SUM(e.amount), a.balance) END AS owed
    FROM accounts a CROSS JOIN entries e ON e.account = a.id AND e.mint IS NOT NULL
    WHERE a.balance > 0 OR (a.kind = 'single' AND a.state = 'open') GROUP BY a.id, e.mint, e.unit
), sums AS (
    SELECT mint, unit, owed, 0 AS held FROM rooms WHERE owed > 0
    UNION ALL SELECT mint, unit, amount, 0 FROM refunds WHERE state = 'open'
    UNION ALL SELECT mint, unit, amount + fee, 0 FROM payments WHERE state IN ('sent', 'pending')
    UNION ALL SELECT mint, unit, 0, amount * CASE unit WHEN 'sat' THEN 1000 ELSE 1 END
    FROM proofs WHERE state IN ('unspent', 'reserved')
)
SELECT mint, unit, SUM(owed), SUM(held) FROM sums GROUP BY mint, unit ORDER BY mint, unit
"""
_STRAY: Final = """
SELECT 'coins of ' || SUM(p.amount) || ' ' || p.unit || ' are still reserved for the closed swap ' || p.taken_by
FROM proofs p JOIN swaps s ON s.id = p.taken_by WHERE p.state = 'reserved' AND s.state <> 'sent' GROUP BY p.taken_by
UNION ALL SELECT 'coins of ' || SUM(p.amount) || ' ' || p.unit || ' are still reserved for the closed payment ' || m.id
FROM proofs p JOIN payments m ON m.id = p.taken_by
WHERE p.state = 'reserved' AND m.state NOT IN ('sent', 'pending') GROUP BY m.id
"""


def balances_are_entries(db: Database) -> list[Finding]:
    """1. Each balance is the sum of its account's entries."""
    return _findings(db, "balances_are_entries", _BALANCES)


def held_is_open_holds(db: Database) -> list[Finding]:
    """2. What is held is the sum of the open holds, and never more than the balance."""
    return _findings(db, "held_is_open_holds", _HOLDS)


def booked_once(db: Database) -> list[Finding]:
    """3. Every token, invoice, refund and payout is booked exactly once, at its own amount."""
    return [f for sql in (*_ONCE, *INVOICE_CHECKS) for f in _findings(db, "booked_once", sql)]


def solvent(db: Database) -> list[Finding]:
    """4. Per mint and unit: what is owed is covered by coins in hand, and those are really in hand."""
    short = [s for s in solvency(db) if s.surplus_msat < 0]
    return [f for sql in (_STRAY, *SINGLES_COINS) for f in _findings(db, "solvent", sql)] + [
        Finding(
            "solvent",
            f"{s.purse.mint} ({s.purse.unit}): owed {s.owed_msat} msat, coins {s.held_msat} msat",
        )
        for s in short
    ]


def charges_are_costs(db: Database) -> list[Finding]:
    """5. What was charged is what clients were told, request by request (or folded day) and account by account."""
    return [f for sql in _CHARGES for f in _findings(db, "charges_are_costs", sql)]


def solvency(db: Database) -> list[Solvency]:
    """Each purse: owed (balances its owners may ask of it, open refunds) and in hand.

    What is set aside for an open single payment is owed whole: what its request cost is earned with its change.
    """
    return [Solvency(Purse(r[0], r[1]), int(r[2]), int(r[3])) for r in db.execute(_OWED)]


INVARIANTS: Final[tuple[Callable[[Database], list[Finding]], ...]] = (
    balances_are_entries,
    held_is_open_holds,
    booked_once,
    solvent,
    charges_are_costs,
)


def audit(store: Store) -> list[Finding]:
    """Every finding of every rule, on one consistent view of the books."""
    store.db.execute("BEGIN")
    try:
        return [finding for rule in INVARIANTS for finding in rule(store.db)]
    finally:
        store.db.execute("ROLLBACK")


def _findings(db: Database, rule: str, sql: str) -> list[Finding]:
    return [Finding(rule, str(what)) for (what,) in db.execute(sql)]
