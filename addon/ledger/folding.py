"""Requests older than KEEP_DAYS, folded into one sum per account and day (UTC), so that the books still prove.

Of such a request its row, its hold and its charge go; its day's row and its day's charge grow by as much, in
the same transaction. No balance and no other sum changes. A few hundred requests a time: whoever else writes
waits for milliseconds, and a death between two times loses nothing. What does not prove is left as it is,
for the audit to find.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from addon.errors import InternalError
from addon.ledger.store import WALLET_WAIT_MS, Store

DAY_S: Final = 86_400
AT_ONCE: Final = 250
"""Requests in one transaction."""
PAUSE_S: Final = 0.02
"""Between two of them: a proxy that found the file locked looks again every 2 ms, and gets its turn."""

_OLD: Final = """
SELECT r.id, r.account, date(r.ended_ms / 1000, 'unixepoch'), r.cost, r.shortfall,
    COALESCE(e.id, 0), COALESCE(e.created_at, 0)
FROM requests r INDEXED BY requests_ended JOIN holds h ON h.id = r.id
    LEFT JOIN entries e ON e.kind = 'charge' AND e.ref = r.id
WHERE r.ended_ms < ? AND h.state <> 'open'
    AND r.cost = COALESCE(-e.amount, 0) AND r.account = COALESCE(e.account, r.account)
ORDER BY r.ended_ms LIMIT ?
"""
_FORGET: Final = (
    "DELETE FROM requests WHERE id IN (SELECT value FROM json_each(?))",
    "DELETE FROM holds WHERE id IN (SELECT value FROM json_each(?))",
    "DELETE FROM entries WHERE kind = 'charge' AND ref IN (SELECT value FROM json_each(?))",
)
_ADD_TO_DAY: Final = """
INSERT INTO days (id, account, day, requests, charged, cost, shortfall) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET requests = requests + excluded.requests, charged = charged + excluded.charged,
    cost = cost + excluded.cost, shortfall = shortfall + excluded.shortfall
"""
_ADD_TO_CHARGE: Final = """
INSERT INTO entries (id, account, kind, ref, amount, created_at) VALUES (?, ?, 'charge', ?, ?, ?)
ON CONFLICT (kind, ref) DO UPDATE SET id = MAX(id, excluded.id), amount = amount + excluded.amount,
    created_at = MAX(created_at, excluded.created_at)
"""


class _Old(NamedTuple):
    """One request that is to go. `entry` is its charge's number; a request without cost has no charge."""

    id: str
    account: str
    day: str
    cost_msat: int
    shortfall_msat: int
    entry: int
    charged_at: int


async def fold(path: Path, *, keep_days: int, clock: Callable[[], float] = time.time) -> int:
    """Folds all that ended more than `keep_days` whole days ago; returns how many requests those were.

    The work is done in a thread, on a connection of its own to the ledger at `path`. Cancelled, it ends
    after the transaction it is in. Several processes may do it at once. Raises LedgerBusy or InternalError
    when the file cannot be written now: the next call goes on where this one ended.
    """
    today = int(clock()) // DAY_S
    stop = threading.Event()
    try:
        return await asyncio.to_thread(_fold_all, path, (today - keep_days) * DAY_S * 1000, stop)
    finally:
        stop.set()


def fold_some(store: Store, *, before_ms: int, most: int = AT_ONCE) -> int:
    """Folds the oldest `most` requests that ended before `before_ms`; returns how many there were.

    One transaction. Raises LedgerBusy with nothing done.
    """
    with store.transaction():
        old = [_Old(*row) for row in store.db.execute(_OLD, (before_ms, most))]
        ids = json.dumps([request.id for request in old])
        for statement in _FORGET:
            store.db.execute(statement, (ids,))
        for requests in _by_day(old):
            _add(store, requests)
    return len(old)


def _fold_all(path: Path, before_ms: int, stop: threading.Event) -> int:
    store = Store.open(path, wait_ms=WALLET_WAIT_MS, durable=False)
    folded = 0
    try:
        while done := fold_some(store, before_ms=before_ms):
            folded += done
            if stop.wait(PAUSE_S):
                break
    except sqlite3.Error as error:
        raise InternalError(f"The ledger {path} cannot be written ({error}).") from None
    finally:
        store.close()
    return folded


def _by_day(old: Sequence[_Old]) -> list[list[_Old]]:
    days: defaultdict[tuple[str, str], list[_Old]] = defaultdict(list)
    for request in old:
        days[request.account, request.day].append(request)
    return list(days.values())


def _add(store: Store, requests: Sequence[_Old]) -> None:
    """To the sums of one account and day. The day's charge takes the place of its last one in the history:
    so no balance that is reckoned from the history is ever lower than it was."""
    account, day = requests[0].account, requests[0].day
    day_id = f"{account}.{day}"
    charged = [request for request in requests if request.cost_msat]
    cost, shortfall = sum(r.cost_msat for r in charged), sum(r.shortfall_msat for r in requests)
    store.db.execute(_ADD_TO_DAY, (day_id, account, day, len(requests), len(charged), cost, shortfall))
    if charged:
        last, at = max(r.entry for r in charged), max(r.charged_at for r in charged)
        store.db.execute(_ADD_TO_CHARGE, (last, account, day_id, -cost, at))
