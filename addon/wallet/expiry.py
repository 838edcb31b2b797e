"""What expired keys still have goes to their addresses by itself: each purse once, retried until it arrives.

What a mint gives back of the fee stays on the key until somebody asks for it. Keys without an address keep
their balance, and so do those whose address cannot be paid: the refund call pays it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from addon.errors import Failure, place
from addon.ledger import Due, Payments
from addon.wallet.backoff import Backoff
from addon.wallet.lightning import LEAST_MSAT, Lightning, Wish, unpaid_words
from addon.wallet.rounds import rounds
from addon.wallet.strangers import Unpayable

AT_ONCE: Final = 8
"""Addresses asked at one time: a slow host delays few others."""

log = logging.getLogger("wallet.expiry")


class Expiry:
    """Looks every `interval_s`."""

    def __init__(
        self, payments: Payments, lightning: Lightning, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._payments = payments
        self._lightning = lightning
        self._interval_s = interval_s
        self._backoff = Backoff(interval_s, clock)

    async def run(self) -> None:
        """As long as the wallet lives."""
        await rounds(self.look, self._interval_s, log)

    async def look(self) -> None:
        """Sends what is due now, and waits until each is on its way or has failed."""
        due = self._payments.due(least_msat=LEAST_MSAT)
        self._backoff.keep({_key(one) for one in due})
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*[self._send(one, gate) for one in due if self._backoff.ready(_key(one))])

    async def _send(self, due: Due, gate: asyncio.Semaphore) -> None:
        try:
            async with gate:
                wish = Wish("expiry", due.account, due.purse, due.room_msat, due.recipient)
                sending = await self._lightning.send(wish)
        except (Unpayable, Failure) as reason:
            log.info("the rest of an expired key waits: %s", unpaid_words(reason))
            self._backoff.failed(_key(due))
        except Exception as error:
            log.error("the rest of an expired key waits: %s", place(error))
            self._backoff.failed(_key(due))
        else:
            sending.task.add_done_callback(lambda _: self._ended(due, sending.id))

    def _ended(self, due: Due, payment: str) -> None:
        row = self._payments.find(payment)
        if row is not None and row.state == "returned":
            self._backoff.failed(_key(due))


def _key(due: Due) -> tuple[str, str, str]:
    return due.account, due.purse.mint, due.purse.unit
