"""What is paid back: the debit comes first, the token second, and both are written down.

    open ──paid──> done
         └─returned──> returned

Opening a refund takes the money from the account and owes it (one transaction); paying it puts coins into
a token, which is stored, sealed, before anybody is told. Asked again, the same token is answered. What
cannot be paid as it was opened (the coins or the fee are others now) goes back to the account.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from addon.errors import RequestsRunning
from addon.ledger.ids import new_id
from addon.ledger.proofs import Proofs, Purse
from addon.ledger.store import Store

RefundState = Literal["open", "done", "returned"]
RefundEvent = Literal["paid", "returned"]
REFUND_STATES: Final[Mapping[RefundState, Mapping[RefundEvent, RefundState]]] = {
    "open": {"paid": "done", "returned": "returned"},
    "done": {},
    "returned": {},
}
MOST_BEFORE: Final = 5
MOST_TOLD: Final = 50
"""Tokens in one answer: it has to fit into a line."""
REQUESTS_RUNNING: Final = "Cannot refund key. There are ongoing requests for this api key."
"""The exact text that clients match."""

_COLUMNS: Final = "r.id, r.account, r.mint, r.unit, r.amount, r.state, r.token"


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund's row. `token` is sealed, and there once the state is `done`."""

    id: str
    account: str
    purse: Purse
    amount_msat: int
    state: RefundState
    token: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Payment:
    """The coins (by their Y) that pay a refund, and its sealed token."""

    refund: str
    ys: tuple[str, ...]
    token: bytes = field(repr=False)


class Refunds:
    """The refunds of one ledger file."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._execute = store.db.execute
        self._clock = clock
        self._proofs = Proofs(store)

    def rooms(self, account: str) -> list[tuple[Purse, int]]:
        """What a key may still ask of each mint (msat), largest first: brought from there − refunded there.

        Capped by the balance. So a rogue mint can cheat only those who brought its coins. A single payment asks
        for its change instead (`singles.py`).
        """
        rows = self._execute(
            "SELECT e.mint, e.unit, MIN(SUM(e.amount), a.balance) AS room FROM entries e "
            "JOIN accounts a ON a.id = e.account WHERE e.account = ? AND a.kind = 'key' AND e.mint IS NOT NULL "
            "GROUP BY e.mint, e.unit ORDER BY room DESC, e.mint",
            (account,),
        )
        return [(Purse(mint, unit), int(room)) for mint, unit, room in rows if room > 0]

    def open(self, account: str, purse: Purse, amount_msat: int, fee_msat: int = 0) -> Refund:
        """Takes `amount_msat` off the account and owes it, in one transaction.

        `fee_msat` more is taken for the mint's fee, where nobody else can bear it. Raises RequestsRunning,
        with nothing done, while any of the account's money is held.
        """
        refund = Refund(new_id(), account, purse, amount_msat, "open", None)
        with self._store.transaction():
            taken = self._execute(
                "UPDATE accounts SET balance = balance - ?1 WHERE id = ?2 AND held = 0 AND balance >= ?1",
                (amount_msat + fee_msat, account),
            )
            if taken.rowcount != 1:
                raise RequestsRunning(REQUESTS_RUNNING)
            self.open_within(refund)
            if fee_msat:
                self._enter("mint_fee", refund.id, account, purse, -fee_msat)
        return refund

    def open_within(self, refund: Refund) -> None:
        """Writes a refund down inside the caller's transaction, which also takes its amount off the account."""
        self._execute(
            "INSERT INTO refunds (id, account, mint, unit, amount, state, created_at) "
            "VALUES (?, ?, ?, ?, ?, 'open', ?)",
            (refund.id, refund.account, refund.purse.mint, refund.purse.unit, refund.amount_msat, int(self._clock())),
        )
        self._enter("refund", refund.id, refund.account, refund.purse, -refund.amount_msat)

    def pay(self, payment: Payment) -> None:
        """Coins in hand pay an open refund; one transaction."""
        with self._store.transaction():
            self.pay_within(payment)

    def pay_within(self, payment: Payment) -> None:
        """The same inside the caller's transaction (the swap that made the coins, or the payment, closes with it)."""
        self._proofs.send(payment.ys, refund=payment.refund)
        done = self._execute(
            "UPDATE refunds SET state = ?, token = ?, closed_at = ? WHERE id = ? AND state = 'open'",
            (REFUND_STATES["open"]["paid"], payment.token, int(self._clock()), payment.refund),
        )
        if done.rowcount != 1:
            raise ValueError("this refund is not open")

    def give_back(self, refund: Refund) -> bool:
        """Puts an open refund, and the fee taken for it, back on its account.

        False, with nothing done: it is not open any more, or a swap that pays it is under way.
        """
        with self._store.transaction():
            done = self._execute(
                "UPDATE refunds SET state = ?, closed_at = ? WHERE id = ?3 AND state = 'open' "
                "AND NOT EXISTS (SELECT 1 FROM swaps WHERE cause = ?3 AND state = 'sent')",
                (REFUND_STATES["open"]["returned"], int(self._clock()), refund.id),
            )
            if done.rowcount != 1:
                return False
            (taken,) = self._execute(
                "SELECT -SUM(amount) FROM entries WHERE ref = ? AND kind IN ('refund', 'mint_fee')", (refund.id,)
            ).fetchone()
            self._execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (taken, refund.account))
            self._enter("adjustment", refund.id, refund.account, refund.purse, taken)
        return True

    def find(self, refund_id: str) -> Refund | None:
        """One refund's row."""
        rows = self._select("FROM refunds r WHERE r.id = ?", (refund_id,))
        return rows[0] if rows else None

    def open_refunds(self, account: str | None = None) -> list[Refund]:
        """Refunds that are owed, oldest first: all, or one account's."""
        where = "r.state = 'open'" + ("" if account is None else " AND r.account = ?")
        return self._select(f"FROM refunds r WHERE {where} ORDER BY r.id", () if account is None else (account,))

    def answered(self, account: str, *, before_top_up: bool = False) -> list[Refund]:
        """The paid refunds since the account's last credit, oldest first: what a repeated call tells again.

        `before_top_up`: the last few before it instead.
        """
        found = self._select(
            "FROM refunds r JOIN entries e ON e.kind = 'refund' AND e.ref = r.id WHERE r.account = ?1 "
            "AND r.state = 'done' AND ?2 = (e.id < COALESCE((SELECT MAX(c.id) FROM entries c "
            "WHERE c.account = ?1 AND c.kind = 'credit'), 0)) ORDER BY e.id DESC LIMIT ?3",
            (account, before_top_up, MOST_BEFORE if before_top_up else MOST_TOLD),
        )
        return found[::-1]

    def _enter(self, kind: str, refund_id: str, account: str, purse: Purse, amount_msat: int) -> None:
        self._execute(
            "INSERT INTO entries (account, kind, ref, amount, mint, unit, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (account, kind, refund_id, amount_msat, purse.mint, purse.unit, int(self._clock())),
        )

    def _select(self, rest: str, parameters: tuple[object, ...]) -> list[Refund]:
        rows = self._execute(f"SELECT {_COLUMNS} {rest}", parameters)
        return [Refund(r[0], r[1], Purse(r[2], r[3]), r[4], r[5], r[6]) for r in rows]
