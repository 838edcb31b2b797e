"""What of a purse's coins is the operator's own, and free: owed to nobody, and in nobody's way.

Counted so that it errs to the clients' side: only coins at rest are had; balances, open refunds and whatever
clients' tokens are just being redeemed there are owed. While coins of the purse are being changed, a refund is
owed, or another payout is under way, nothing is free. Single payments are covered by coins that are set aside.
"""

from __future__ import annotations

from typing import Final

from sqlite_utils import Database

from addon.ledger.proofs import Purse
from addon.money import to_msat

_BUSY: Final = """
SELECT 1 FROM swaps WHERE state = 'sent' AND inputs IS NULL AND mint = ?1 AND unit = ?2
UNION ALL SELECT 1 FROM refunds WHERE state = 'open' AND mint = ?1 AND unit = ?2
UNION ALL SELECT 1 FROM payments WHERE state IN ('sent', 'pending') AND purpose = 'payout' AND mint = ?1 AND unit = ?2
"""
_IN_HAND: Final = "SELECT COALESCE(SUM(amount), 0) FROM proofs WHERE mint = ? AND unit = ? AND state = 'unspent'"
_ARRIVING: Final = (
    "SELECT COALESCE(SUM(face), 0) FROM swaps WHERE state = 'sent' AND inputs IS NOT NULL AND mint = ? AND unit = ?"
)
_ROOMS: Final = """
SELECT COALESCE(SUM(room), 0) FROM (
    SELECT MIN(SUM(e.amount), a.balance) AS room FROM accounts a CROSS JOIN entries e ON e.account = a.id
    WHERE e.mint = ? AND e.unit = ? AND a.kind = 'key' AND a.balance > 0 GROUP BY a.id
) WHERE room > 0
"""


def free_profit_msat(db: Database, purse: Purse) -> int:
    """What may be paid out of a purse now; zero where there is none. Certain within a transaction only."""
    place = (purse.mint, purse.unit)
    if db.execute(_BUSY, place).fetchone() is not None:
        return 0
    (in_hand,), (arriving,) = (db.execute(sql, place).fetchone() for sql in (_IN_HAND, _ARRIVING))
    (owed_msat,) = db.execute(_ROOMS, place).fetchone()
    return max(0, to_msat(in_hand - arriving, purse.unit) - int(owed_msat))
