"""When the mints are asked whether invoices were paid: by ourselves, and sooner when somebody wants to know.

Each mint has a line of its own: one question at a time, at a bounded pace, so that no number of unpaid invoices
keeps a mint from its other work; a mint that is away delays its own line only. An invoice is asked about ever more
seldom, after its expiry too: a payment may be seen late. A day after that the mint has the last word, and the
invoice is left: looked at again only for who asks about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from addon.errors import Failure, MintError, place
from addon.ledger import Invoice, Invoices, patiently
from addon.treasury import Invoiced, OrderInvoice
from addon.wallet.booking import Ended
from addon.wallet.minting import Minting, told
from addon.wallet.pace import Pace
from addon.wallet.rounds import rounds
from addon.wallet.swap import LEAST_SHARE, pauses
from addon.wallet.wire import Coded, NoAnswer, Uncoded

BURST: Final = 20
EACH_S: Final = 2.0
"""Between two questions to a mint about invoices, once a burst is used up."""
LEAST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
LONGEST_OLD_PAUSE_S: Final = 600.0
OLD_S: Final = 3600
LATE_PAUSE_S: Final = 60.0
LONGEST_LATE_PAUSE_S: Final = 6 * 3600.0
LATE_S: Final = 86_400
"""After an invoice has expired: so long its mint is asked by ourselves."""
LOOK_S: Final = 2.0
"""How long somebody who asks waits for the mint's answer, and for the credit."""
MOST_LOOKING: Final = 64
"""So many wait at one time; whoever else asks is heard, and told at once."""
FAIR_TURN: Final = 4
"""Each fourth question is about the invoice that is due longest, whoever's it is."""
MOST_WATCHED: Final = 20_000
"""Of one mint; beyond it, what was left before is not looked at again."""
KEEP_LEFT_S: Final = 30 * 86_400
MOST_LEFT: Final = 20_000
TIDY_EVERY_S: Final = 3600.0

log = logging.getLogger("wallet.watch")


@dataclass(slots=True)
class Watched:
    """An invoice in its mint's line. `due`, `asked_at`: on the monotonic clock. `over`: the round under way is."""

    invoice: Invoice
    due: float
    asked_at: float = -math.inf
    hurried: bool = False
    minting: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Line:
    """One mint's invoices. While the mint is in trouble, nothing is asked before `quiet_until`."""

    waiting: dict[str, Watched]
    pace: Pace
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    pauses: Iterator[float] = field(default_factory=pauses)
    turns: int = 0
    quiet_from: float = -math.inf
    quiet_until: float = -math.inf

    def calm(self) -> None:
        """The mint answered."""
        self.pauses = pauses()
        self.quiet_until = -math.inf

    def trouble(self, now: float) -> None:
        """It did not: the whole line waits, longer each time."""
        self.quiet_from, self.quiet_until = now, now + max(LEAST_PAUSE_S, next(self.pauses))

    def hurry(self) -> None:
        """Somebody asks: the wait is shorter, but never none."""
        least_s = max(LEAST_PAUSE_S, (self.quiet_until - self.quiet_from) * LEAST_SHARE)
        self.quiet_until = min(self.quiet_until, self.quiet_from + least_s)


class Watch:
    """Follows every open invoice to its end."""

    def __init__(
        self, invoices: Invoices, minting: Minting, clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._invoices = invoices
        self._minting = minting
        self._clock = clock
        self._monotonic = monotonic
        self._lines: dict[str, _Line] = {}
        self._looking = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Takes up what an earlier life left open. Needs the running loop."""
        for invoice in self._invoices.open_invoices():
            self._follow(invoice, self._monotonic())
        self._spawn(rounds(self._tidy, TIDY_EVERY_S, log))

    async def order(self, ask: OrderInvoice) -> Invoiced:
        """An invoice, followed from now on. Raises Failure."""
        invoice = await self._minting.order(ask)
        if invoice.state == "open":
            self._follow(invoice, self._monotonic() + LEAST_PAUSE_S)
        return told(invoice)

    async def look(self, invoice_id: str) -> None:
        """Asks about one invoice now, if it was not asked about a moment ago; returns when that is over, or soon."""
        invoice, now = self._invoices.find(invoice_id), self._monotonic()
        if invoice is None or invoice.closed:
            return
        line = self._line(invoice.purse.mint)
        if invoice_id not in line.waiting and len(line.waiting) >= MOST_WATCHED:
            return
        watched = self._follow(invoice, now)
        if not watched.minting:
            if now < watched.asked_at + LEAST_PAUSE_S:
                return
            watched.due, watched.hurried = min(watched.due, now), True
            line.hurry()
            line.wake.set()
        if self._looking < MOST_LOOKING:
            self._looking += 1
            try:
                async with asyncio.timeout(LOOK_S):
                    await watched.over.wait()
            except TimeoutError:
                return
            finally:
                self._looking -= 1

    # --- a mint's line ------------------------------------------------------------------------------

    def _line(self, mint: str) -> _Line:
        if mint not in self._lines:
            self._lines[mint] = _Line({}, Pace(BURST, EACH_S, self._monotonic))
            self._spawn(self._run(self._lines[mint]))
        return self._lines[mint]

    def _follow(self, invoice: Invoice, due: float) -> Watched:
        line = self._line(invoice.purse.mint)
        watched = line.waiting.setdefault(invoice.id, Watched(invoice, due))
        line.wake.set()
        return watched

    async def _run(self, line: _Line) -> None:
        while True:
            watched = await self._next(line)
            watched.asked_at = self._monotonic()
            try:
                task = await self._minting.collect(watched.invoice)
                line.calm()
                if task is None:
                    await self._unpaid(line, watched)
                else:
                    watched.minting = True
                    self._spawn(self._minted(line, watched, task))
            except Exception as reason:
                await self._put_off(line, watched, reason)

    async def _next(self, line: _Line) -> Watched:
        """The next invoice to ask about, once one is due and the mint may be asked."""
        while True:
            line.wake.clear()
            now = self._monotonic()
            ready = [watched for watched in line.waiting.values() if not watched.minting]
            wait_s: float | None = None
            if ready:
                first_due = min(watched.due for watched in ready)
                wait_s = max(max(first_due, line.quiet_until) - now, line.pace.wait_s())
                if wait_s <= 0 and line.pace.take():
                    line.turns += 1
                    return first([watched for watched in ready if watched.due <= now], line.turns, self._clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await line.wake.wait()

    async def _minted(self, line: _Line, watched: Watched, task: asyncio.Task[Ended]) -> None:
        over = False
        try:
            over = await self._minting.after(watched.invoice, await asyncio.shield(task))
        except Exception as reason:
            log.info("invoice %s goes on later: %s", watched.invoice.id[:16], _told(reason))
        watched.minting = False
        self._again(line, watched, over=over)

    async def _unpaid(self, line: _Line, watched: Watched) -> None:
        """Not paid yet; left, when it will hardly be any more."""
        row = self._invoices.find(watched.invoice.id)
        over = row is None or row.state != "open"
        if not over and self._clock() > watched.invoice.expires_at + LATE_S:
            await patiently(lambda: self._invoices.leave(watched.invoice.id))
            over = True
        self._again(line, watched, over=over)

    async def _put_off(self, line: _Line, watched: Watched, reason: Exception) -> None:
        """Not known now. A mint that refuses to tell of one invoice does not delay the others."""
        log.info("invoice %s: not known (%s)", watched.invoice.id[:16], _told(reason))
        if isinstance(reason, Coded | Uncoded):
            try:
                await self._unpaid(line, watched)
                return
            except Exception as fault:  # busy, or a full disk: its line goes on, and so does it, later
                log.error("invoice %s goes on later: %s", watched.invoice.id[:16], place(fault))
        elif isinstance(reason, NoAnswer | MintError):
            line.trouble(self._monotonic())
        self._again(line, watched, over=False)

    def _again(self, line: _Line, watched: Watched, *, over: bool) -> None:
        """The end of a round: the next one is later, or there is none."""
        if over:
            line.waiting.pop(watched.invoice.id, None)
        watched.due, watched.hurried = self._monotonic() + pause_s(watched.invoice, self._clock()), False
        done, watched.over = watched.over, asyncio.Event()
        done.set()
        line.wake.set()

    # --- housekeeping -------------------------------------------------------------------------------

    async def _tidy(self) -> None:
        before = int(self._clock()) - KEEP_LEFT_S
        while self._invoices.forget_unpaid(before=before, most=MOST_LEFT):
            await asyncio.sleep(0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("watching ended: %s", place(error))


def first(due: Sequence[Watched], turn: int, now: float) -> Watched:
    """Top-ups before strangers, what can be paid now before what has expired, who asks before who does not."""
    if turn % FAIR_TURN == 0:
        return min(due, key=lambda watched: watched.due)

    def rank(watched: Watched) -> tuple[bool, bool, bool, float]:
        row = watched.invoice
        return row.expires_at < now, row.purpose == "key", not watched.hurried, watched.due

    return min(due, key=rank)


def _told(reason: Exception) -> str:
    """For the log: our own words, or the place of a fault."""
    return str(reason) if isinstance(reason, Failure | NoAnswer) else place(reason)


def pause_s(invoice: Invoice, now: float) -> float:
    """Seconds until an invoice is asked about again: an eighth of its age, or half of the time since its expiry.

    Before the expiry a quarter of what is left: some mints mint for no invoice that has expired, paid or not.
    """
    age_s, left_s = now - invoice.created_at, invoice.expires_at - now
    if left_s < 0:
        return min(max(-left_s / 2, LATE_PAUSE_S), LONGEST_LATE_PAUSE_S)
    longest_s = LONGEST_PAUSE_S if age_s < OLD_S else LONGEST_OLD_PAUSE_S
    return max(min(age_s / 8, left_s / 4, longest_s), LEAST_PAUSE_S)
