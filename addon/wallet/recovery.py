"""What a start has to drive on: every open swap and refund, each on its own, so that one mint stops no other.

It also asks each accepted mint for its keysets and finds the epoch to begin in, so that the first token
need not wait for that. None of it delays the wallet's end: all of it goes on at the next start. And it keeps
what strangers can add to the ledger for nothing, rows of worthless tokens, from growing, and ends single
payments that were charged and that nobody ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from addon.errors import Failure, place
from addon.ledger import Journal, Purse, Refund, Refunds
from addon.money import MSAT_PER_UNIT
from addon.wallet.change import Changer
from addon.wallet.epochs import Epochs
from addon.wallet.mints import Mints
from addon.wallet.refund import Refunder
from addon.wallet.rounds import rounds
from addon.wallet.swap import Swaps, pauses
from addon.wallet.wire import NoAnswer

KEEP_CLOSED_S: Final = 86_400
MOST_CLOSED: Final = 2000
"""Strangers can make rows of tokens that are spent or refused: the newest are kept a day, to be looked at."""
TIDY_EVERY_S: Final = 60.0

log = logging.getLogger("wallet.recovery")


class Recovery:
    """Started once, after the ledger is open and before anybody is answered."""

    def __init__(
        self, accepted: Sequence[str], journal: Journal, refunds: Refunds, mints: Mints, epochs: Epochs,
        swaps: Swaps, refunder: Refunder, changer: Changer, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._accepted = accepted
        self._journal = journal
        self._refunds = refunds
        self._mints = mints
        self._epochs = epochs
        self._swaps = swaps
        self._refunder = refunder
        self._changer = changer
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> int:
        """Takes up every open row at once; returns how many there are."""
        swaps, refunds = self._journal.open_swaps(), self._refunds.open_refunds()
        for swap in swaps:
            self._swaps.resume(swap.id)
        for refund in refunds:
            self._spawn(self._pay(refund))
        for url in self._accepted:
            self._spawn(self._meet(url))
        self._spawn(rounds(self._tidy, TIDY_EVERY_S, log))
        return len(swaps) + len(refunds)

    async def _pay(self, refund: Refund) -> None:
        for pause_s in pauses():
            try:
                await self._refunder.pay(refund)
                return
            except Exception as error:  # a full disk, say: tried again like a mint that is down
                reason = error.code if isinstance(error, Failure) else place(error)
                log.info("refund %s is still owed: %s", refund.id, reason)
            await asyncio.sleep(pause_s)

    async def _meet(self, url: str) -> None:
        mint = self._mints.at(url)
        try:
            facts = await mint.facts()
            for unit in MSAT_PER_UNIT:
                if facts.of(unit):
                    await self._epochs.current(mint, Purse(url, unit))
        except (Failure, NoAnswer) as reason:
            log.warning("the mint %s is not usable yet: %s", url, reason)

    async def _tidy(self) -> None:
        await self._changer.end_charged()
        before = int(self._clock()) - KEEP_CLOSED_S
        while self._journal.forget_closed(before=before, most=MOST_CLOSED):
            await asyncio.sleep(0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work ended: %s", place(error))
