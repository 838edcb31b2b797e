"""The price of bitcoin as it was last known, so that a restart need not wait for the exchanges.

Two rows at most: the rate in use, and the last one that two exchanges agreed on (see `addon.rates`).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from addon.ledger.store import Store

Kind = Literal["latest", "agreed"]

_SAVE: Final = """
INSERT INTO rates (kind, usd_per_btc, taken_at, sources) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (kind) DO UPDATE SET usd_per_btc = ?2, taken_at = ?3, sources = ?4
"""
_FIND: Final = "SELECT usd_per_btc, taken_at, sources FROM rates WHERE kind = ?"


@dataclass(frozen=True, slots=True)
class Rate:
    """One price of bitcoin in USD. `taken_at`: unix seconds; `sources`: the exchanges that stand for it."""

    usd_per_btc: Decimal
    taken_at: float
    sources: tuple[str, ...]

    @property
    def agreed(self) -> bool:
        """Whether two exchanges or more said so."""
        return len(self.sources) > 1


class KeptRates:
    """The rates of one ledger file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, rate: Rate) -> None:
        """Puts `rate` in the place of the one before. Raises LedgerBusy, with nothing done."""
        row = (f"{rate.usd_per_btc:f}", int(rate.taken_at), ",".join(rate.sources))
        kinds: tuple[Kind, ...] = ("latest", "agreed") if rate.agreed else ("latest",)
        with self._store.transaction():
            for kind in kinds:
                self._store.db.execute(_SAVE, (kind, *row))

    def find(self, kind: Kind) -> Rate | None:
        """The last rate that was saved, or the last one of several exchanges; None: there was none."""
        row = self._store.db.execute(_FIND, (kind,)).fetchone()
        return None if row is None else Rate(Decimal(row[0]), float(row[1]), tuple(row[2].split(",")))
