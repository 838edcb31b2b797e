"""The coins in hand, one row each, without their secrets.

A secret is derived again from the seed when a coin is spent (or opened from its sealed tag), so that a
copy of the file spends nothing. A coin is in one place at a time:

    unspent ──> reserved (an open swap has it as an input) ──> spent
       │            └──> unspent (the swap was refused)  └──> lost (the mint says: spent, not by us)
       ├──> reserved (for the change of the single payment that brought it) ──> unspent
       ├──> sent (inside a refund's token)
       └──> lost (the same, seen before it was sent)

Methods that write expect the caller's transaction: coins never move alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from addon.ledger.store import Store
from addon.money import Unit

_COLUMNS: Final = "Y, mint, unit, keyset, amount, C, epoch, counter, tag"
_BY_AMOUNT: Final = "ORDER BY amount, Y"
_OF_PURSE: Final = "mint = ? AND unit = ?"
_IN_HAND: Final = f"{_OF_PURSE} AND state IN ('unspent', 'reserved') AND state = 'unspent'"
"""In the words of the index `proofs_in_hand`, or it is not used."""
_NEXT_AMOUNT: Final = f"SELECT MIN(amount) FROM proofs WHERE {_IN_HAND} AND amount > ?"
_ADD: Final = f"""
INSERT INTO proofs ({_COLUMNS}, state, made_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'unspent', ?)
ON CONFLICT (Y) DO NOTHING
"""
_RESERVE: Final = "UPDATE proofs SET state = 'reserved', taken_by = ? WHERE Y = ? AND state = 'unspent'"
_SEND: Final = "UPDATE proofs SET state = 'sent', taken_by = ? WHERE Y = ? AND state = 'unspent'"
_SPENT: Final = "UPDATE proofs SET state = 'spent' WHERE taken_by = ? AND state = 'reserved'"
_LOST: Final = "UPDATE proofs SET state = 'lost' WHERE Y = ? AND taken_by = ? AND state = 'reserved'"
_LOST_OUTSIDE: Final = "UPDATE proofs SET state = 'lost', taken_by = 'elsewhere' WHERE Y = ? AND state = 'unspent'"
_FREE: Final = "UPDATE proofs SET state = 'unspent', taken_by = NULL WHERE taken_by = ? AND state = 'reserved'"


@dataclass(frozen=True, slots=True)
class Purse:
    """One mint and one unit: coins are kept apart by both, and never mixed."""

    mint: str
    unit: Unit


@dataclass(frozen=True, slots=True)
class StoredProof:
    """A coin as the ledger keeps it. `amount` is in the purse's unit; either `counter` or `tag` is set.

    `Y` is hash_to_curve(secret) (NUT-00), hex: what the mint calls the coin by. `tag` is sealed.
    """

    Y: str
    purse: Purse
    keyset: str
    amount: int
    C: str
    epoch: int
    counter: int | None = None
    tag: bytes | None = None


class CoinsMoved(RuntimeError):
    """A coin was not where the caller had seen it: the whole transaction is undone."""


class Proofs:
    """The coins of one ledger file."""

    def __init__(self, store: Store) -> None:
        self._execute = store.db.execute

    def unspent(self, purse: Purse, *, most_each: int = -1) -> list[StoredProof]:
        """What can be spent now: tags first, then smallest first.

        `most_each`: of each amount no more than so many, where a payment needs no look at all coins.
        """
        place = (purse.mint, purse.unit)
        found = self._select(f"{_OF_PURSE} AND state = 'unspent' AND tag IS NOT NULL LIMIT ?", (*place, most_each), "")
        amount = 0
        while (amount := self._execute(_NEXT_AMOUNT, (*place, amount)).fetchone()[0] or 0) > 0:
            found += self._select(f"{_IN_HAND} AND amount = ? AND tag IS NULL LIMIT ?", (*place, amount, most_each), "")
        return found

    def taken_by(self, taker: str) -> list[StoredProof]:
        """The coins that a swap or a single payment reserved, or that a refund sent."""
        return self._select("taken_by = ?", (taker,))

    def known(self, ys: Sequence[str]) -> set[str]:
        """Which of these coins are, or ever were, in this file."""
        return {y for y in ys if self._execute("SELECT 1 FROM proofs WHERE Y = ?", (y,)).fetchone()}

    def any_derived(self) -> StoredProof | None:
        """One coin that was derived from the seed, if there is any: shows whose file this is."""
        found = self._select("Y = (SELECT Y FROM proofs WHERE counter IS NOT NULL LIMIT 1)", ())
        return found[0] if found else None

    def any_of(self, purse: Purse, epoch: int, keyset: str) -> bool:
        """Whether a coin of this keyset was ever derived in this epoch, and signed."""
        where = "mint = ? AND unit = ? AND epoch = ? AND keyset = ? AND counter IS NOT NULL"
        found = self._execute(f"SELECT 1 FROM proofs WHERE {where} LIMIT 1", (purse.mint, purse.unit, epoch, keyset))
        return found.fetchone() is not None

    def add(self, proofs: Sequence[StoredProof], *, made_by: str) -> None:
        """New coins of an executed swap. A coin that is there already stays as it is (a repeated recovery)."""
        for p in proofs:
            row = (p.Y, p.purse.mint, p.purse.unit, p.keyset, p.amount, p.C, p.epoch, p.counter, p.tag, made_by)
            self._execute(_ADD, row)

    def reserve(self, ys: Sequence[str], *, taker: str) -> None:
        """Sets coins aside as the inputs of a swap, or for the change of a single payment (its account).

        Raises CoinsMoved unless all were unspent.
        """
        self._move(_RESERVE, ys, taker)

    def send(self, ys: Sequence[str], *, refund: str) -> None:
        """Puts coins into a refund's token. Raises CoinsMoved unless all were unspent."""
        self._move(_SEND, ys, refund)

    def spend_reserved(self, swap: str) -> None:
        """The swap was executed: its inputs are gone."""
        self._execute(_SPENT, (swap,))

    def free_reserved(self, taker: str, *, lost: Sequence[str] = ()) -> None:
        """The swap was not executed, or the single payment is over: the coins are ours again.

        But for those that the mint says were spent.
        """
        for y in lost:
            self._execute(_LOST, (y, taker))
        self._execute(_FREE, (taker,))

    def lose(self, ys: Sequence[str]) -> None:
        """The mint says that these were spent, and nothing here spent them: another life of the seed did."""
        for y in ys:
            self._execute(_LOST_OUTSIDE, (y,))

    def _move(self, statement: str, ys: Sequence[str], taker: str) -> None:
        moved = sum(self._execute(statement, (taker, y)).rowcount for y in ys)
        if moved != len(ys):
            raise CoinsMoved("a coin was taken by somebody else in between")

    def _select(self, where: str, parameters: tuple[object, ...], order: str = _BY_AMOUNT) -> list[StoredProof]:
        rows = self._execute(f"SELECT {_COLUMNS} FROM proofs WHERE {where} {order}", parameters)
        return [StoredProof(r[0], Purse(r[1], r[2]), r[3], r[4], r[5], r[6], r[7], r[8]) for r in rows]
