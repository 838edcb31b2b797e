"""What is paid over Lightning: written down before the mint is asked to pay, closed once it is known what it did.

    sent ──pending──> pending
      ├──paid──> paid <──────┤
      └──unpaid──> returned <┘

Writing the row takes the amount and the most that it can cost from the account, and sets the coins aside; a
payout takes only what is owed to nobody. What the mint did not use of the fee goes back. The same invoice is
never paid by two rows, and none is closed because an answer was lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from addon.errors import RequestsRunning
from addon.ledger.counters import Counters
from addon.ledger.profit import free_profit_msat
from addon.ledger.proofs import Proofs, Purse, StoredProof
from addon.ledger.refunds import REQUESTS_RUNNING
from addon.ledger.store import Store
from addon.money import to_msat

PaymentPurpose = Literal["refund", "expiry", "payout"]
PaymentState = Literal["sent", "pending", "paid", "returned"]
PaymentEvent = Literal["pending", "paid", "unpaid"]

PAYMENT_STATES: Final[Mapping[PaymentState, Mapping[PaymentEvent, PaymentState]]] = {
    "sent": {"pending": "pending", "paid": "paid", "unpaid": "returned"},
    "pending": {"paid": "paid", "unpaid": "returned"},
    "paid": {},
    "returned": {},
}
_COLUMNS: Final = (
    "id, purpose, state, account, recipient, mint, unit, amount, fee, quote, payment_hash, "
    "invoice_expires_at, keyset, epoch, counters"
)
_OPEN: Final = "state IN ('sent', 'pending')"


class InvoiceTaken(Exception):
    """This invoice, or this quote, stands in another row: it would be paid twice, or not at all."""


class ProfitMoved(Exception):
    """What was free for a payout is owed to somebody now, or another payout is under way."""


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment to be written down. `fee_msat`: the most that it may cost beside its amount.

    `outputs`: how many blank ones take the change. `expires_at`: after it nobody can pay the invoice (unix seconds).
    """

    id: str
    purpose: PaymentPurpose
    account: str | None
    recipient: str
    purse: Purse
    amount_msat: int
    fee_msat: int
    quote: str = field(repr=False)
    payment_hash: str
    expires_at: int
    ys: tuple[str, ...]
    keyset: str
    epoch: int
    outputs: int


@dataclass(frozen=True, slots=True)
class LightningPayment:
    """A payment's row. `counters`: of its blank outputs."""

    id: str
    purpose: PaymentPurpose
    state: PaymentState
    account: str | None
    recipient: str
    purse: Purse
    amount_msat: int
    fee_msat: int
    quote: str = field(repr=False)
    payment_hash: str
    expires_at: int
    keyset: str
    epoch: int
    counters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Due:
    """What an expired account still has at one mint, and where it goes. `room_msat`: more than was ever sent."""

    account: str
    purse: Purse
    room_msat: int
    recipient: str


class Payments:
    """The Lightning payments of one ledger file."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._execute = store.db.execute
        self._clock = clock
        self._proofs = Proofs(store)
        self._counters = Counters(store)

    def begin(self, new: NewPayment) -> LightningPayment:
        """Writes the intent, in one transaction: money taken, coins set aside, counters lent.

        Raises with nothing done: InvoiceTaken, CoinsMoved; RequestsRunning for an account that has not so much
        free; ProfitMoved for a payout of what is not free any more.
        """
        with self._store.transaction():
            self._check_once(new)
            if new.account is None:
                self._check_profit(new)
            else:
                self._debit(new, new.account)
            self._proofs.reserve(new.ys, taker=new.id)
            counters = self._counters.lend(new.purse, new.epoch, new.keyset, new.outputs)
            self._insert(new, counters)
        found = self.find(new.id)
        assert found is not None
        return found

    def pending(self, payment: LightningPayment) -> bool:
        """The mint is at it. False: this was noted before, or somebody closed it."""
        with self._store.transaction():
            return payment.state == "sent" and self._advance(payment, "pending")

    def paid(self, payment: LightningPayment, change: Sequence[StoredProof]) -> bool:
        """The invoice is paid: coins gone, change stored, what it cost booked. False: somebody closed it before."""
        with self._store.transaction():
            inputs = sum(coin.amount for coin in self._proofs.taken_by(payment.id))
            brought = to_msat(inputs - sum(coin.amount for coin in change), payment.purse.unit)
            cost = max(0, brought - payment.amount_msat)
            if not self._advance(payment, "paid", fee_paid=cost):
                return False
            self._proofs.spend_reserved(payment.id)
            self._proofs.add(change, made_by=payment.id)
            if payment.account is None:
                self._enter("payout", payment, -payment.amount_msat)
                self._enter("melt_fee", payment, -cost)
            else:
                self._credit(payment, payment.fee_msat - cost)
        return True

    def unpaid(self, payment: LightningPayment, *, lost: Sequence[str] = (), reuse_counters: bool = True) -> bool:
        """It was not paid and never will be: money and coins are back. False: somebody closed it before.

        `lost`: own coins that the mint holds spent, though not for this. `reuse_counters`: the mint forgot the outputs.
        """
        with self._store.transaction():
            if not self._advance(payment, "unpaid"):
                return False
            self._proofs.free_reserved(payment.id, lost=lost)
            if reuse_counters:
                self._counters.give_back(payment.purse, payment.epoch, payment.keyset, payment.counters)
            if payment.account is not None:
                self._credit(payment, payment.amount_msat + payment.fee_msat)
        return True

    # --- reads --------------------------------------------------------------------------------------

    def find(self, payment_id: str) -> LightningPayment | None:
        """One payment's row."""
        rows = self._select("WHERE id = ?", (payment_id,))
        return rows[0] if rows else None

    def open_payments(self) -> list[LightningPayment]:
        """All whose outcome is not known, oldest first: what a start has to drive on."""
        return self._select(f"WHERE {_OPEN} ORDER BY created_at, id", ())

    def open_of(self, account: str) -> list[LightningPayment]:
        """An account's payments that are on their way."""
        return self._select(f"WHERE {_OPEN} AND account = ? ORDER BY created_at, id", (account,))

    def using(self, purse: Purse) -> list[LightningPayment]:
        """The open payments that have coins of a purse."""
        return self._select(f"WHERE {_OPEN} AND mint = ? AND unit = ?", (purse.mint, purse.unit))

    def told_last(self, account: str) -> LightningPayment | None:
        """The last refund of an account since its last credit, if that was a payment: asked again, it is told again."""
        rows = self._select(
            "WHERE account = ?1 AND state <> 'returned' AND id = (SELECT e.ref FROM entries e WHERE e.account = ?1 "
            "AND e.kind = 'refund' AND e.id > COALESCE((SELECT MAX(c.id) FROM entries c WHERE c.account = ?1 "
            "AND c.kind = 'credit'), 0) AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.id = e.ref "
            "AND p.state = 'returned') ORDER BY e.id DESC LIMIT 1)",
            (account,),
        )
        return rows[0] if rows else None

    def due(self, *, least_msat: int) -> list[Due]:
        """What of expired accounts has to go to their addresses by itself: each of their purses once."""
        rows = self._execute(
            "SELECT a.id, e.mint, e.unit, MIN(SUM(e.amount), a.balance) AS room, a.refund_address "
            "FROM accounts a JOIN entries e ON e.account = a.id AND e.mint IS NOT NULL "
            "WHERE a.expires_at <= ?1 AND a.refund_address IS NOT NULL AND a.kind = 'key' AND a.held = 0 "
            "AND a.balance >= ?2 AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.account = a.id AND p.mint = e.mint "
            "AND p.unit = e.unit AND p.purpose = 'expiry' AND p.state <> 'returned') "
            "GROUP BY a.id, e.mint, e.unit HAVING room >= ?2 ORDER BY a.expires_at, a.id",
            (int(self._clock()), least_msat),
        )
        return [Due(account, Purse(mint, unit), room, address) for account, mint, unit, room, address in rows]

    def free_profit_msat(self, purse: Purse) -> int:
        """What could be paid out of a purse at this moment (msat)."""
        return free_profit_msat(self._store.db, purse)

    # --- within a transaction -----------------------------------------------------------------------

    def _check_once(self, new: NewPayment) -> None:
        taken = self._execute(
            "SELECT 1 FROM payments WHERE (payment_hash = ? AND state <> 'returned') OR (mint = ? AND quote = ?)",
            (new.payment_hash, new.purse.mint, new.quote),
        )
        if taken.fetchone() is not None:
            raise InvoiceTaken("this invoice or quote stands in another payment")

    def _check_profit(self, new: NewPayment) -> None:
        if free_profit_msat(self._store.db, new.purse) < new.amount_msat + new.fee_msat:
            raise ProfitMoved("this is not free any more")

    def _debit(self, new: NewPayment, account: str) -> None:
        taken = self._execute(
            "UPDATE accounts SET balance = balance - ?1 WHERE id = ?2 AND held = 0 AND balance >= ?1",
            (new.amount_msat + new.fee_msat, account),
        )
        if taken.rowcount != 1:
            raise RequestsRunning(REQUESTS_RUNNING)
        for kind, amount in (("refund", new.amount_msat), ("melt_fee", new.fee_msat)):
            if amount:
                self._enter(kind, new, -amount)

    def _insert(self, new: NewPayment, counters: tuple[int, ...]) -> None:
        self._execute(
            "INSERT INTO payments (id, purpose, state, account, recipient, mint, unit, amount, fee, quote, "
            "payment_hash, invoice_expires_at, keyset, epoch, counters, created_at) "
            "VALUES (?, ?, 'sent', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(new.id, new.purpose, new.account, new.recipient, new.purse.mint, new.purse.unit, new.amount_msat),
                *(new.fee_msat, new.quote, new.payment_hash, new.expires_at, new.keyset, new.epoch),
                *(json.dumps(counters), int(self._clock())),
            ),
        )

    def _advance(self, payment: LightningPayment, event: PaymentEvent, *, fee_paid: int | None = None) -> bool:
        """One guarded step of the table, from whichever state lists it: `pending` may have been noted meanwhile."""
        for state in (payment.state, "pending"):
            target = PAYMENT_STATES[state].get(event)
            closed_at = None if target == "pending" else int(self._clock())
            if target is not None and self._step(payment.id, state, target, closed_at, fee_paid):
                return True
        return False

    def _step(self, payment_id: str, state: str, target: str, closed_at: int | None, fee_paid: int | None) -> bool:
        done = self._execute(
            "UPDATE payments SET state = ?, closed_at = ?, fee_paid = ? WHERE id = ? AND state = ?",
            (target, closed_at, fee_paid, payment_id, state),
        )
        return done.rowcount == 1

    def _credit(self, payment: LightningPayment, amount_msat: int) -> None:
        """Puts back what was taken and not needed."""
        if amount_msat > 0:
            self._execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount_msat, payment.account))
            self._enter("adjustment", payment, amount_msat)

    def _enter(self, kind: str, payment: NewPayment | LightningPayment, amount_msat: int) -> None:
        if amount_msat:
            self._execute(
                "INSERT INTO entries (account, kind, ref, amount, mint, unit, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (payment.account, kind, payment.id, amount_msat, payment.purse.mint, payment.purse.unit,
                 int(self._clock())),
            )  # fmt: skip

    def _select(self, rest: str, parameters: tuple[object, ...]) -> list[LightningPayment]:
        return [_payment(row) for row in self._execute(f"SELECT {_COLUMNS} FROM payments {rest}", parameters)]


def _payment(row: tuple[Any, ...]) -> LightningPayment:
    place, counters = Purse(row[5], row[6]), tuple(json.loads(row[14]))
    fields: tuple[Any, ...] = (*row[:5], place, *row[7:14], counters)
    return LightningPayment(*fields)
