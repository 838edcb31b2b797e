"""Bounded work: so many swaps in flight at a mint, so many waiting behind them, then no more.

Eight rows of at most fifty outputs are also what the look for a fresh epoch counts on (`epochs.py`): no more
counters than that are lent in an epoch before the first of them is signed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Final

from addon.errors import Overloaded

IN_FLIGHT: Final = 8
WAITING: Final = 64


class Slots:
    """Places for swaps whose outcome is not booked. One is given back when its row is closed, or set aside."""

    def __init__(self, places: int = IN_FLIGHT, waiting: int = WAITING) -> None:
        self._free = places
        self._most_waiting = waiting
        self._queue: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Waits for a place. Raises Overloaded when too many wait already."""
        if self._free > 0:
            self._free -= 1
            return
        if len(self._queue) >= self._most_waiting:
            raise Overloaded("Too many payments wait for this mint at the moment; try again in a few seconds.")
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # the place came in the same moment: pass it on
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def occupy(self) -> None:
        """Takes a place at once, even one too many: for a row that an earlier life left open."""
        self._free -= 1

    def give(self) -> None:
        """Gives a place back, to the one who waits longest."""
        while self._queue and self._free >= 0:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class KeyedLocks:
    """One lock per key, for as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def __call__(self, key: Hashable) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            _, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, users - 1
