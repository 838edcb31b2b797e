"""The payments in flight: from the admission of a request to the booking of its end.

Each is taken out once, and whoever takes it closes it. A booking that the ledger cannot take is never
dropped: it is tried again until it can, or until the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from mitmproxy import http
from mitmproxy.connection import Client

from addon.background import Background
from addon.billing import PaidRequest, bill
from addon.errors import Failure, place
from addon.gate import Gate
from addon.ledger import Books, End, Settlement, patiently
from addon.payment import Payment

BOOK_AGAIN_S: Final = 0.05
BOOK_TRIES: Final = 250
LOOK_AGAIN_S: Final = 0.02
FLOWS_END_S: Final = 1.0
"""A client's end may still bring its flows' own `error`; what that left open is closed after this long."""
logger = logging.getLogger("routstr")


class InFlight:
    """All payments of this process that are not booked yet."""

    def __init__(self, gate: Gate, background: Background) -> None:
        self._gate = gate
        self._background = background
        self._payments: dict[str, Payment] = {}
        self._unbooked: dict[str, Settlement] = {}
        self._books: Books | None = None

    def open(self, books: Books) -> None:
        """Where the ends are booked, from now on."""
        self._books = books

    @property
    def all(self) -> list[Payment]:
        return list(self._payments.values())

    @property
    def count(self) -> int:
        return len(self._payments)

    @property
    def waiting(self) -> int:
        """Bookings that the ledger did not take yet."""
        return len(self._unbooked)

    def get(self, flow: http.HTTPFlow) -> Payment | None:
        return self._payments.get(flow.id)

    def admit(self, payment: Payment) -> None:
        """From here on the hold will be closed, whatever happens; the gate lets the flow pass once."""
        self._payments[payment.flow.id] = payment
        self._gate.admit(payment.flow)

    def take(self, flow: http.HTTPFlow) -> Payment | None:
        """The payment of a flow, once: whoever takes it closes it."""
        self._gate.withdraw(flow)
        return self._payments.pop(flow.id, None)

    @contextlib.asynccontextmanager
    async def ending(self, flow: http.HTTPFlow) -> AsyncIterator[Payment | None]:
        """Takes a flow's payment for as long as its end is worked on; a bug meanwhile gives the hold back."""
        payment = self.take(flow)
        try:
            yield payment
        except BaseException:
            if payment is not None:
                payment.forget()
                await self.close(payment, "upstream_failed")
            raise

    async def close(self, payment: Payment, end: End) -> Settlement:
        """Settles a payment that was taken, and books it, or keeps on trying to."""
        settlement = payment.settle(end)
        await self._book(settlement)
        return settlement

    def give_back(self, paid: PaidRequest) -> None:
        """The hold of a request that was never admitted: given back in the background."""
        now_ms = time.time_ns() // 1_000_000
        end = bill(paid, None, end="upstream_failed", status=0, first_byte_ms=None, ended_ms=now_ms)
        self._unbooked[end.id] = end  # before the task begins: the process may end first
        self._background.keep(self._book(end))

    async def read_on(self, client: Client) -> None:
        """Until every answer has ended that is read on though this client left, or until it is given up."""
        while any(p.is_read_on and p.flow.client_conn.id == client.id for p in self._payments.values()):
            await asyncio.sleep(LOOK_AGAIN_S)

    def close_left(self, client: Client) -> None:
        """Some ends fire no hook of the flow: the client's end closes what is still open."""
        left = [flow_id for flow_id, p in self._payments.items() if p.flow.client_conn.id == client.id]
        if left:
            self._background.keep(self._close_left(left))

    async def drained(self, deadline: float) -> None:
        """Until every payment is booked, or until `deadline` (monotonic)."""
        while (self._payments or self._unbooked) and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_AGAIN_S)

    async def end(self) -> None:
        """The end of the process: what still runs is settled as metered. Never raises: others end after it."""
        while self._payments:
            _, payment = self._payments.popitem()
            try:
                await self.close(payment, "drained")
            except Exception as error:
                logger.error("%s while an answer was settled; the next start gives its hold back", place(error))
        for settlement in list(self._unbooked.values()):
            try:
                await self._try_to_book(settlement)
            except Exception as error:
                logger.error("a booking was lost to %s; the next start gives the hold back", type(error).__name__)

    async def _close_left(self, flow_ids: list[str]) -> None:
        await asyncio.sleep(FLOWS_END_S)
        for flow_id in flow_ids:
            payment = self._payments.pop(flow_id, None)
            if payment is not None:
                await self.close(payment, "client_left")

    async def _book(self, settlement: Settlement) -> None:
        """Whoever is cancelled on the way leaves it to the end of the process."""
        self._unbooked[settlement.id] = settlement
        try:
            await self._try_to_book(settlement)
            self._unbooked.pop(settlement.id, None)
        except Exception as error:
            logger.error("a booking has to wait: %s", type(error).__name__)
            self._background.keep(self._book_later(settlement))

    async def _book_later(self, settlement: Settlement) -> None:
        while settlement.id in self._unbooked:
            await asyncio.sleep(BOOK_AGAIN_S)
            with contextlib.suppress(Exception):  # whatever it is (a full disk, say), it is tried until the end
                self._settle(settlement)
                self._unbooked.pop(settlement.id, None)

    async def _try_to_book(self, settlement: Settlement) -> None:
        await patiently(lambda: self._settle(settlement), tries=BOOK_TRIES)

    def _settle(self, settlement: Settlement) -> None:
        if self._books is None:
            raise Failure("the ledger is not open")
        self._books.settle(settlement)
