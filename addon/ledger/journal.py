"""What was asked of a mint, before it was asked: every swap, its states, and the counters it was lent.

The tables below are the truth. The guarded UPDATEs, the property tests and the diagram in `docs/` read
them; an event that a state does not list is an error, not a surprise.

A swap's row is written before the mint is asked and closed after it answered, in the transaction that
also stores the coins and books the credit. Whatever died in between is driven on from the row alone.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from addon.ledger.counters import Counters
from addon.ledger.invoices import Invoices
from addon.ledger.proofs import Proofs, Purse, StoredProof
from addon.ledger.refunds import Payment, Refunds
from addon.ledger.store import Store
from addon.money import to_msat

Purpose = Literal["key", "topup", "single", "refund", "consolidate"]
"""`key`, `topup`, `single`: a client's coins come in, or those of a paid invoice (`cause`) are minted.

`refund`, `consolidate`: our own are changed.
"""
State = Literal["sent", "done", "refused", "failed"]
Event = Literal["retried", "executed", "refused", "spent"]

FORGET_AT_ONCE: Final = 20
"""Rows, each with up to a hundred inputs: the proxy waits for the write lock meanwhile."""
MOST_SPELLINGS: Final = 16
"""Of one token, each a credential: the same coins can be written in endless ways."""

SWAP_STATES: Final[Mapping[State, Mapping[Event, State]]] = {
    "sent": {"executed": "done", "refused": "refused", "spent": "failed"},
    "refused": {"retried": "sent"},  # the coins are still the client's: the same token may try again
    "done": {},
    "failed": {},  # spent elsewhere: final
}


@dataclass(frozen=True, slots=True)
class NewSwap:
    """A swap to be written down. Amounts are in the purse's unit; `amounts[0]` is the tag's output.

    `id` names its inputs (a client's) or is random (our own). `inputs` are a client's proofs, sealed;
    our own are `reserve`d by their Y instead. `tag` is the sealed nonce of the tag's secret.
    """

    id: str
    purpose: Purpose
    purse: Purse
    face: int
    fee: int
    amounts: tuple[int, ...]
    keyset: str
    epoch: int
    tag: bytes = field(repr=False)
    ys: tuple[str, ...]
    inputs: bytes | None = field(default=None, repr=False)
    account: str | None = None
    cause: str | None = None
    token_hash: str | None = None
    expires_at: int | None = None
    refund_address: str | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """A swap's row. `counters` belong to `amounts[1:]`, in order."""

    id: str
    purpose: Purpose
    state: State
    purse: Purse
    face: int
    fee: int
    amounts: tuple[int, ...]
    keyset: str
    epoch: int
    counters: tuple[int, ...]
    tag: bytes | None = field(repr=False)
    inputs: bytes | None = field(repr=False)
    account: str | None
    cause: str | None
    token_hash: str | None
    expires_at: int | None
    refund_address: str | None

    @property
    def credited_msat(self) -> int:
        """What an executed swap brought: what came back from the mint, never the token's face."""
        return to_msat(sum(self.amounts), self.purse.unit)


class InputsTaken(Exception):
    """An input stands in another row. `open`: that row's outcome is not known yet."""

    def __init__(self, *, open: bool) -> None:
        super().__init__("an input of this swap stands in another swap")
        self.open = open


class Journal:
    """The swaps of one ledger file."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._execute = store.db.execute
        self._clock = clock
        self._proofs = Proofs(store)
        self._counters = Counters(store)
        self._refunds = Refunds(store, clock)
        self._invoices = Invoices(store, clock)

    def find(self, swap_id: str) -> Swap | None:
        rows = self._select("id = ?", (swap_id,))
        return rows[0] if rows else None

    def open_swaps(self) -> list[Swap]:
        """Every swap whose outcome is not booked, oldest first: what a start has to drive on."""
        return self._select("state = 'sent' ORDER BY created_at", ())

    def open_swaps_of(self, *, account: str | None = None, cause: str | None = None) -> list[Swap]:
        """The open swaps that bring an account its money, or that pay one refund."""
        return self._select("state = 'sent' AND (account = ? OR cause = ?)", (account, cause))

    def changing(self, purse: Purse) -> list[Swap]:
        """The open swaps that have our own coins of a purse as inputs."""
        return self._select("state = 'sent' AND inputs IS NULL AND mint = ? AND unit = ?", (purse.mint, purse.unit))

    def open(self, new: NewSwap) -> Swap:
        """Writes the intent: counters lent, inputs claimed, row `sent`, in one transaction.

        A refused row of the same inputs is opened again. Raises InputsTaken with nothing done.
        """
        with self._store.transaction():
            counters = self._counters.lend(new.purse, new.epoch, new.keyset, len(new.amounts) - 1)
            self._insert(new, counters)
            self._claim(new)
        swap = self.find(new.id)
        assert swap is not None
        return swap

    def executed(self, swap: Swap, proofs: Sequence[StoredProof], *, key_hash: str | None = None,
                 payment: Payment | None = None) -> bool:  # fmt: skip
        """The mint signed: coins stored, credit booked (or refund paid), inputs forgotten, row `done`.

        `key_hash`: of the key of the account that a `key` swap opens. False: somebody closed it before.
        """
        with self._store.transaction():
            if not self._advance(swap, "executed"):
                return False
            self._proofs.add(proofs, made_by=swap.id)
            self._proofs.spend_reserved(swap.id)
            if swap.purpose in ("key", "topup", "single"):
                self._credit(swap, key_hash)
            if swap.purpose == "single" and swap.account is not None:
                self._proofs.reserve([proof.Y for proof in proofs], taker=swap.account)
            if payment is not None:
                self._refunds.pay_within(payment)
        return True

    def not_executed(self, swap: Swap, event: Literal["refused", "spent"], *, reuse_counters: bool = True,
                     lost: Sequence[str] = ()) -> bool:  # fmt: skip
        """The mint did not execute it: inputs given back, row closed. False: somebody closed it before.

        `reuse_counters`: the mint signed none of the outputs, so the next swap takes their counters and
        strangers cannot burn them. `lost`: own inputs that the mint holds spent.
        """
        with self._store.transaction():
            if not self._advance(swap, event):
                return False
            if event == "spent" and swap.cause is not None:
                self._invoices.close_within(swap.cause, "taken")
            if event == "refused":
                self._execute("DELETE FROM swap_inputs WHERE swap = ?", (swap.id,))
            self._proofs.free_reserved(swap.id, lost=lost)
            if reuse_counters:
                self._counters.give_back(swap.purse, swap.epoch, swap.keyset, swap.counters)
        return True

    def forget_closed(self, *, before: int, most: int) -> bool:
        """Drops rows that were refused or failed before this time (unix seconds), or are not the `most` newest.

        Nothing depends on them: a mint says of a spent token again what it said before. A bounded number at
        once; True: there may be more.
        """
        closed = "FROM swaps WHERE state IN ('refused', 'failed')"
        row = self._execute(f"SELECT closed_at {closed} ORDER BY closed_at DESC LIMIT 1 OFFSET ?", (most,)).fetchone()
        before = before if row is None else max(before, row[0] + 1)
        with self._store.transaction():
            oldest = f"SELECT id {closed} AND closed_at < ? ORDER BY closed_at LIMIT ?"
            ids = self._execute(oldest, (before, FORGET_AT_ONCE)).fetchall()
            for row in ids:
                self._execute("DELETE FROM swap_inputs WHERE swap = ?", row)
                self._execute("DELETE FROM swaps WHERE id = ?", row)
        return len(ids) == FORGET_AT_ONCE

    def lose(self, ys: Sequence[str]) -> None:
        """Own coins that the mint holds spent, though no swap or refund here spent them."""
        with self._store.transaction():
            self._proofs.lose(ys)

    def keyset_mints(self) -> dict[str, str]:
        """Which mint each keyset was first dealt with at."""
        rows = self._execute("SELECT keyset, mint, MIN(created_at) FROM swaps WHERE state = 'done' GROUP BY keyset")
        return {keyset: mint for keyset, mint, _ in rows}

    def still_opened_by_token(self, account: str, token_hash: str) -> bool:
        """Whether a token still is a credential of its account; if so, this spelling of it is one, too.

        Unless it was spelt in too many ways already.
        """
        with self._store.transaction():
            self._execute(
                "INSERT INTO credentials (hash, account, kind) SELECT ?1, ?2, 'token' WHERE (SELECT COUNT(*) "
                "FROM credentials WHERE account = ?2 AND kind = 'token' AND retired_at IS NULL) BETWEEN 1 AND ?3 - 1 "
                "ON CONFLICT (hash) DO NOTHING",
                (token_hash, account, MOST_SPELLINGS),
            )
        row = self._execute(
            "SELECT 1 FROM credentials WHERE hash = ? AND account = ? AND retired_at IS NULL",
            (token_hash, account),
        ).fetchone()
        return row is not None

    # --- epochs -------------------------------------------------------------------------------------

    def epoch(self, purse: Purse) -> int | None:
        """The epoch that this ledger derives from at a mint and unit; None: no record of any."""
        row = self._execute("SELECT epoch FROM epochs WHERE mint = ? AND unit = ?", (purse.mint, purse.unit)).fetchone()
        return None if row is None else int(row[0])

    def enter_epoch(self, purse: Purse, epoch: int) -> None:
        """From now on outputs are derived in `epoch`. Never goes back to an earlier one."""
        with self._store.transaction():
            self._execute(
                "INSERT INTO epochs (mint, unit, epoch) VALUES (?, ?, ?) ON CONFLICT (mint, unit) "
                "DO UPDATE SET epoch = excluded.epoch WHERE excluded.epoch > epoch",
                (purse.mint, purse.unit, epoch),
            )

    # --- within a transaction -----------------------------------------------------------------------

    def _insert(self, new: NewSwap, counters: tuple[int, ...]) -> None:
        self._execute("DELETE FROM swaps WHERE id = ? AND state = 'refused'", (new.id,))
        try:
            self._execute(
                "INSERT INTO swaps (id, purpose, state, mint, unit, face, fee, inputs, amounts, keyset, epoch, "
                "counters, tag, account, cause, token_hash, expires_at, refund_address, created_at) "
                "VALUES (?, ?, 'sent', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(new.id, new.purpose, new.purse.mint, new.purse.unit, new.face, new.fee, new.inputs),
                    *(json.dumps(new.amounts), new.keyset, new.epoch, json.dumps(counters), new.tag),
                    *(new.account, new.cause, new.token_hash, new.expires_at, new.refund_address),
                    int(self._clock()),
                ),
            )
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise
            raise InputsTaken(open=self._is_open(new.id)) from None

    def _claim(self, new: NewSwap) -> None:
        if new.inputs is None:
            self._proofs.reserve(new.ys, taker=new.id)
            return
        for y in new.ys:
            taken = self._execute("SELECT swap FROM swap_inputs WHERE Y = ?", (y,)).fetchone()
            if taken is not None:
                raise InputsTaken(open=self._is_open(taken[0]))
            self._execute("INSERT INTO swap_inputs (Y, swap) VALUES (?, ?)", (y, new.id))

    def _is_open(self, swap_id: str) -> bool:
        row = self._execute("SELECT 1 FROM swaps WHERE id = ? AND state = 'sent'", (swap_id,)).fetchone()
        return row is not None

    def _advance(self, swap: Swap, event: Event) -> bool:
        """One guarded step of the table. The tag's nonce lives on with its coin, not here."""
        target = SWAP_STATES[swap.state][event]
        done = self._execute(
            "UPDATE swaps SET state = ?, inputs = NULL, tag = NULL, closed_at = ? WHERE id = ? AND state = ?",
            (target, int(self._clock()), swap.id, swap.state),
        )
        return done.rowcount == 1

    def _credit(self, swap: Swap, key_hash: str | None) -> None:
        now, amount = int(self._clock()), swap.credited_msat
        if swap.purpose == "topup":
            self._execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, swap.account))
        else:
            self._open_account(swap, key_hash, now)
        self._execute(
            "INSERT INTO entries (account, kind, ref, amount, mint, unit, created_at) "
            "VALUES (?, 'credit', ?, ?, ?, ?, ?)",
            (swap.account, swap.id, amount, swap.purse.mint, swap.purse.unit, now),
        )
        if swap.cause is not None:
            self._invoices.close_within(swap.cause, "issued")

    def _open_account(self, swap: Swap, key_hash: str | None, now: int) -> None:
        kind = "single" if swap.purpose == "single" else "key"
        self._execute(
            "INSERT INTO accounts (id, kind, balance, created_at, expires_at, refund_address) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (swap.account, kind, swap.credited_msat, now, swap.expires_at, swap.refund_address),
        )
        for secret_hash, credential in ((key_hash, "key"), (swap.token_hash, "token")):
            if secret_hash is not None:
                self._execute(
                    "INSERT INTO credentials (hash, account, kind) VALUES (?, ?, ?)",
                    (secret_hash, swap.account, credential),
                )

    def _select(self, where: str, parameters: tuple[object, ...]) -> list[Swap]:
        rows = self._execute(
            "SELECT id, purpose, state, mint, unit, face, fee, amounts, keyset, epoch, counters, tag, inputs, "
            f"account, cause, token_hash, expires_at, refund_address FROM swaps WHERE {where}",
            parameters,
        )
        return [_swap(row) for row in rows]


def _swap(row: tuple[Any, ...]) -> Swap:
    place, amounts, counters = Purse(row[3], row[4]), tuple(json.loads(row[7])), tuple(json.loads(row[10]))
    head = (*row[:3], place, row[5], row[6], amounts, row[8], row[9], counters)
    return Swap(*head, *row[11:])
