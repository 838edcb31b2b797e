"""Reads for people and clients: one account, its history, one receipt. Nothing here writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from addon.ledger.schema import Store

_TYPES: Final = {"credit": "in", "refund": "out", "charge": "charge"}
HISTORY_LIMIT: Final = 1000


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

    def history(self, account_id: str) -> list[dict[str, Any]]:
        """The account's last movements, oldest first (`contract`: GET /history). Amounts are positive."""
        rows = self._db.query(
            "SELECT id, kind, ref, amount, mint, unit, created_at FROM entries WHERE account = ? "
            "ORDER BY id DESC LIMIT ?",
            (account_id, HISTORY_LIMIT),
        )
        return [_transaction(row) for row in rows][::-1]

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


def _transaction(row: dict[str, Any]) -> dict[str, Any]:
    kind = _TYPES.get(row["kind"], "in" if row["amount"] > 0 else "out")
    told = {"id": str(row["id"]), "type": kind, "amount_msats": abs(row["amount"]), "created_at": row["created_at"]}
    if row["kind"] not in _TYPES:
        told["reason"] = row["kind"]
    if row["mint"] is not None:
        told |= {"mint": row["mint"], "unit": row["unit"]}
    if row["kind"] == "charge":
        told["request_id"] = row["ref"]
    return told
