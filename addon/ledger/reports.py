"""Reads for people and clients: one account, its history, one receipt. Nothing here writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from addon.ledger.store import Store

_TYPES: Final = {"credit": "in", "refund": "out", "charge": "charge"}
_NEWEST: Final = (1 << 63) - 1
_HISTORY: Final = """
SELECT e.kind, e.ref, e.amount, e.mint, e.unit, e.created_at, r.model, d.day, d.charged
FROM entries e LEFT JOIN requests r ON e.kind = 'charge' AND r.id = e.ref
    LEFT JOIN days d ON e.kind = 'charge' AND d.id = e.ref
WHERE e.account = ? AND e.id < ? ORDER BY e.id DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Account:
    """One account as its owner sees it. Amounts in msat; `expires_at` in unix seconds."""

    id: str
    kind: str
    balance_msat: int
    held_msat: int
    spent_msat: int
    requests: int
    rotation: int
    expires_at: int | None
    refund_address: str | None

    @property
    def available_msat(self) -> int:
        return self.balance_msat - self.held_msat


class Reports:
    """The reading side of one ledger file."""

    def __init__(self, store: Store) -> None:
        self._db = store.db

    def account(self, account_id: str) -> Account | None:
        row = self._db.execute(
            "SELECT id, kind, balance, held, spent, requests, rotation, expires_at, refund_address "
            "FROM accounts WHERE id = ?",
            (account_id,),
        ).fetchone()
        return None if row is None else Account(*row)

    def history(self, account_id: str, *, limit: int, before: str | None = None) -> list[dict[str, Any]] | None:
        """The account's movements as its owner sees them, newest first; amounts (msat) are positive.

        Of a day that is folded all charges are one, with the day (UTC) and how many they were.

        `before`: the id of one of them: only older ones. None: this account has no such movement.
        """
        start = _NEWEST if before is None else self._position(account_id, before)
        if start is None:
            return None
        return [_transaction(row) for row in self._db.query(_HISTORY, (account_id, start, limit))]

    def is_arriving(self, token_hash: str) -> bool:
        """Whether a token with this hash is being redeemed for an account of its own."""
        found = self._db.execute(
            "SELECT 1 FROM swaps WHERE state = 'sent' AND purpose = 'key' AND token_hash = ?", (token_hash,)
        )
        return found.fetchone() is not None

    def receipt(self, request_id: str, account_id: str) -> dict[str, Any] | None:
        """The row of one request of this account, with its raw usage decoded; None: not this account's."""
        rows = list(
            self._db.query(
                "SELECT r.*, a.balance - a.held AS available FROM requests r JOIN accounts a ON a.id = r.account "
                "WHERE r.id = ? AND r.account = ?",
                (request_id, account_id),
            )
        )
        if not rows:
            return None
        row = rows[0]
        return row | {"usage": None if row["usage"] is None else json.loads(row["usage"])}

    def is_running(self, request_id: str, account_id: str) -> bool:
        """Whether a request of this account still has its hold open."""
        row = self._db.execute(
            "SELECT 1 FROM holds WHERE id = ? AND account = ? AND state = 'open'", (request_id, account_id)
        ).fetchone()
        return row is not None

    def _position(self, account_id: str, transaction: str) -> int | None:
        kind, _, ref = transaction.partition("-")
        row = self._db.execute(
            "SELECT id FROM entries WHERE kind = ? AND ref = ? AND account = ?", (kind, ref, account_id)
        ).fetchone()
        return None if row is None else int(row[0])


def _transaction(row: dict[str, Any]) -> dict[str, Any]:
    """The id is the cause, and not the row's number: that one counts what all clients do here."""
    kind = _TYPES.get(row["kind"], "in" if row["amount"] > 0 else "out")
    told = {"id": f"{row['kind']}-{row['ref']}", "type": kind, "amount_msats": abs(row["amount"])}
    if row["kind"] not in _TYPES:
        told["reason"] = row["kind"]
    if row["mint"] is not None:
        told |= {"mint": row["mint"], "unit": row["unit"]}
    if row["day"] is not None:
        told |= {"day": row["day"], "requests": row["charged"]}
    elif row["kind"] == "charge":
        told |= {"request_id": row["ref"], "model": row["model"]}
    return told | {"created_at": row["created_at"]}
