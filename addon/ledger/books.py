"""The books: who may spend what, what is held, what was charged. All statements of the hot path.

A hold is a two-phase transfer: pending, then settled or released, once. It has an identity (the request's
id), so one request's end can never free another's money. Nothing here reads and then writes: each step is
one guarded statement whose row count tells whether it happened.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Final, Literal

from addon.errors import InsufficientBalance, InternalError
from addon.ledger.store import Store

End = Literal["complete", "cut", "client_left", "upstream_failed", "drained", "lost"]
"""How a paid request ended. `lost`: its proxy died; nothing was charged."""

_FIND: Final = """
SELECT c.account, c.kind, c.retired_at IS NOT NULL, a.kind, a.balance, a.held, a.expires_at, EXISTS (
    SELECT 1 FROM credentials t WHERE t.account = c.account AND t.kind = 'token' AND t.retired_at IS NULL)
FROM credentials c JOIN accounts a ON a.id = c.account WHERE c.hash = ?
"""
_RETIRE_TOKENS: Final = (
    "UPDATE credentials SET retired_at = ? WHERE account = ? AND kind = 'token' AND retired_at IS NULL"
)
_TURN: Final = "UPDATE accounts SET rotation = rotation + 1 WHERE id = ? AND rotation = ?"
_REPLACE_KEY: Final = "UPDATE credentials SET hash = ? WHERE hash = ? AND account = ? AND kind = 'key'"
_RESERVE: Final = "UPDATE accounts SET held = held + ?1 WHERE id = ?2 AND balance - held >= ?1 RETURNING balance - held"
_OPEN_HOLD: Final = "INSERT INTO holds (id, account, amount, worker, opened_at) VALUES (?, ?, ?, ?, ?)"
_CLOSE_HOLD: Final = (
    "UPDATE holds SET state = ?1 WHERE id = ?2 AND state = 'open' AND amount >= ?3 RETURNING account, amount"
)
_TAKE: Final = """
UPDATE accounts SET balance = balance - ?1, held = held - ?2, spent = spent + ?1, requests = requests + 1
WHERE id = ?3 RETURNING balance - held
"""
_GIVE_BACK: Final = "UPDATE accounts SET held = held - ?1 WHERE id = ?2 RETURNING balance - held"
_CHARGE: Final = "INSERT INTO entries (account, kind, ref, amount, created_at) VALUES (?, 'charge', ?, ?, ?)"
_RECORD: Final = """
INSERT INTO requests (id, account, model, path, stream, status, end, hold, cost, input_cost, output_cost,
    shortfall, usage_source, input_tokens, output_tokens, usage, usd_per_btc, started_ms, first_byte_ms,
    ended_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_OPEN_OF_WORKER: Final = "SELECT id, account, amount, opened_at FROM holds WHERE state = 'open' AND worker = ?"


@dataclass(frozen=True, slots=True)
class Credential:
    """What the books know of a presented secret, and of the account behind it. Amounts in msat."""

    account: str
    kind: Literal["key", "token"]
    retired: bool
    account_kind: Literal["key", "single"]
    balance_msat: int
    held_msat: int
    expires_at: int | None
    tokens_live: bool
    """Whether a token still opens this account; the first use of a key ends that."""

    @property
    def available_msat(self) -> int:
        return self.balance_msat - self.held_msat


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a paid request ended, as it is booked. `cost_msat` is at most `hold_msat`; zero releases the hold.

    `shortfall_msat`: what the upstream's figures cost beyond the hold; the operator's, never the client's.
    `usd_per_btc`: the rate that the price was made at; None: none was known.
    """

    id: str
    account: str
    model: str
    path: str
    stream: bool
    status: int
    end: End
    hold_msat: int
    input_msat: int
    output_msat: int
    usage_source: str
    started_ms: int
    ended_ms: int
    shortfall_msat: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    usage: Mapping[str, object] | None = None
    first_byte_ms: int | None = None
    usd_per_btc: Decimal | None = None

    @property
    def cost_msat(self) -> int:
        return self.input_msat + self.output_msat


class Settled(Enum):
    """What closing a hold did. Either way the hold is closed, and nobody need try again."""

    SETTLED = "settled"
    RELEASED = "released"
    ALREADY_CLOSED = "already closed"
    """Somebody closed it before: nothing was booked now."""


class Books:
    """Accounts, holds and charges in one ledger file."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._execute = store.db.execute
        self._clock = clock

    def find(self, secret_hash: str) -> Credential | None:
        """The account that a secret opens, by the secret's SHA-256 (hex), or None."""
        row = self._execute(_FIND, (secret_hash,)).fetchone()
        if row is None:
            return None
        return Credential(row[0], row[1], bool(row[2]), row[3], row[4], row[5], row[6], bool(row[7]))

    def retire_tokens(self, account: str) -> None:
        """A key of the account was used: the token that opened it, which others know, is no key any more."""
        with self._store.transaction():
            self._execute(_RETIRE_TOKENS, (int(self._clock()), account))

    def rotate(self, account: str, rotation: int, *, old: str, new: str) -> bool:
        """Puts the key of hash `new` in place of the one of hash `old`, and retires the tokens, at once.

        `rotation`: how often the key was changed before. False, with nothing done: it was changed meanwhile.
        """
        with self._store.transaction():
            if self._execute(_TURN, (account, rotation)).rowcount != 1:
                return False
            if self._execute(_REPLACE_KEY, (new, old, account)).rowcount != 1:
                raise InternalError("The books hold another key for this account than this node makes.")
            self._execute(_RETIRE_TOKENS, (int(self._clock()), account))
        return True

    def hold(self, request_id: str, account: str, amount_msat: int, *, worker: str) -> int:
        """Sets `amount_msat` of an account aside for one request; returns what stays available (msat).

        Raises InsufficientBalance with nothing done, or LedgerBusy (try again).
        """
        with self._store.transaction():
            row = self._execute(_RESERVE, (amount_msat, account)).fetchone()
            if row is None:
                raise InsufficientBalance(amount_msat, self._available(account))
            self._execute(_OPEN_HOLD, (request_id, account, amount_msat, worker, int(self._clock())))
        return int(row[0])

    def settle(self, end: Settlement) -> Settled:
        """Closes a hold: takes the cost, frees the rest, writes the request's row. Safe to repeat."""
        if not 0 <= end.cost_msat <= end.hold_msat:
            raise ValueError("a request cannot cost more than was held for it")
        with self._store.transaction():
            return self._close(end)

    def release_worker(self, worker: str) -> int:
        """Frees every hold of a worker that is proven dead; returns how many there were."""
        with self._store.transaction():
            orphans = self._execute(_OPEN_OF_WORKER, (worker,)).fetchall()
            return sum(self._close(_lost(*row)) is Settled.RELEASED for row in orphans)

    def workers_with_holds(self) -> list[str]:
        """The workers, living or dead, that have holds open."""
        rows = self._execute("SELECT DISTINCT worker FROM holds WHERE state = 'open'")
        return [str(worker) for (worker,) in rows]

    def _close(self, end: Settlement) -> Settled:
        cost = end.cost_msat
        state = "settled" if cost else "released"
        row = self._execute(_CLOSE_HOLD, (state, end.id, cost)).fetchone()
        if row is None:
            return Settled.ALREADY_CLOSED
        account, amount = row
        if cost:
            self._execute(_TAKE, (cost, amount, account))
            self._execute(_CHARGE, (account, end.id, -cost, end.ended_ms // 1000))
        else:
            self._execute(_GIVE_BACK, (amount, account))
        self._execute(_RECORD, _record(end, account, amount))
        return Settled.SETTLED if cost else Settled.RELEASED

    def _available(self, account: str) -> int:
        row = self._execute("SELECT balance - held FROM accounts WHERE id = ?", (account,)).fetchone()
        return 0 if row is None else int(row[0])


def _record(end: Settlement, account: str, amount_msat: int) -> tuple[object, ...]:
    usage = None if end.usage is None else json.dumps(end.usage, separators=(",", ":"))
    return (
        *(end.id, account, end.model, end.path, int(end.stream), end.status, end.end, amount_msat),
        *(end.cost_msat, end.input_msat, end.output_msat, end.shortfall_msat, end.usage_source),
        *(end.input_tokens, end.output_tokens, usage, None if end.usd_per_btc is None else f"{end.usd_per_btc:f}"),
        *(end.started_ms, end.first_byte_ms, end.ended_ms),
    )


def _lost(hold_id: str, account: str, amount_msat: int, opened_at: int) -> Settlement:
    at_ms = opened_at * 1000
    return Settlement(
        id=hold_id, account=account, model="", path="", stream=False, status=0, end="lost",
        hold_msat=amount_msat, input_msat=0, output_msat=0, usage_source="none",
        started_ms=at_ms, ended_ms=at_ms,
    )  # fmt: skip
