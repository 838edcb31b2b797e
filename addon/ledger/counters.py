"""The counters that coins are derived from: each is lent once, or again where no mint ever signed for it.

Methods expect the caller's transaction: a counter is lent together with the row that says what for.
"""

from __future__ import annotations

from collections.abc import Iterable

from addon.ledger.proofs import Purse
from addon.ledger.store import Store


class Counters:
    """The counters of one ledger file, per purse, epoch and keyset."""

    def __init__(self, store: Store) -> None:
        self._execute = store.db.execute

    def lend(self, purse: Purse, epoch: int, keyset: str, count: int) -> tuple[int, ...]:
        """So many counters: first those that were given back, then new ones."""
        place = (purse.mint, purse.unit, epoch, keyset)
        where = "mint = ? AND unit = ? AND epoch = ? AND keyset = ?"
        returned = [
            int(c)
            for (c,) in self._execute(
                f"DELETE FROM returned_counters WHERE {where} AND counter IN (SELECT counter FROM "
                f"returned_counters WHERE {where} ORDER BY counter LIMIT ?) RETURNING counter",
                (*place, *place, count),
            ).fetchall()
        ]
        fresh = count - len(returned)
        (after,) = self._execute(
            "INSERT INTO counters (mint, unit, epoch, keyset, next) VALUES (?, ?, ?, ?, ?) ON CONFLICT "
            "(mint, unit, epoch, keyset) DO UPDATE SET next = next + excluded.next RETURNING next",
            (*place, fresh),
        ).fetchone()
        return (*sorted(returned), *range(after - fresh, after))

    def give_back(self, purse: Purse, epoch: int, keyset: str, counters: Iterable[int]) -> None:
        """The mint signed nothing for these: the next row takes them, and strangers cannot burn them."""
        for counter in counters:
            self._execute(
                "INSERT OR IGNORE INTO returned_counters (mint, unit, epoch, keyset, counter) VALUES (?, ?, ?, ?, ?)",
                (purse.mint, purse.unit, epoch, keyset, counter),
            )
