"""An account's money back, to the Lightning address that it was opened with: one payment, then told how it stands.

What is below ten sat, or what the account's owner wants so, is paid as a token instead (`refund.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from addon.errors import Failure, InvalidParameter, MintUnreachable, RequestsRunning
from addon.ledger import REQUESTS_RUNNING, Journal, LightningPayment, Payments, Refunds, Reports
from addon.money import whole_units
from addon.treasury import Sent
from addon.wallet.lightning import LEAST_MSAT, Lightning, Wish
from addon.wallet.melt import Melts
from addon.wallet.slots import KeyedLocks
from addon.wallet.strangers import Unpayable
from addon.wallet.swap import Swaps

LIMIT_S: Final = 16.0
"""After it the asker is told how things stand; the payment goes on."""
ARRIVING_S: Final = 2.0
HEADER: Final = "Refund-LNURL"
NOT_PAID: Final = (
    "The mint found no way to the refund address at the moment; the money is on the key as before. Ask again later, or "
    'with {"to": "token"} for a Cashu token.'
)
SLOW: Final = "The refund could not be sent in time; nothing was taken. Ask again in a moment."


class AddressRefunds:
    """Refunds to the addresses of accounts."""

    def __init__(
        self, journal: Journal, refunds: Refunds, reports: Reports, payments: Payments, swaps: Swaps, melts: Melts,
        lightning: Lightning, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._refunds = refunds
        self._reports = reports
        self._payments = payments
        self._swaps = swaps
        self._melts = melts
        self._lightning = lightning
        self._clock = clock
        self._accounts = KeyedLocks()

    async def refund(self, account: str) -> Sent | None:
        """Sends what is free from the mint where the account has most, or tells again what was sent last.

        None: there is nothing to send over Lightning. Raises RequestsRunning, MintError, InvalidParameter.
        """
        row, until = self._reports.account(account), self._clock() + LIMIT_S
        if row is None or row.refund_address is None:
            return None
        try:
            async with asyncio.timeout(LIMIT_S), self._accounts(account):
                await self._arrived(account)
                return await self._told_open(account, until) or await self._sent(account, row.refund_address, until)
        except TimeoutError:
            if (sent := self.on_its_way(account)) is not None:
                return sent
            raise MintUnreachable(SLOW) from None

    def on_its_way(self, account: str) -> Sent | None:
        """What is being sent to an account's address and may still come back: the account is not empty yet."""
        rows = self._payments.open_of(account)
        return _told(rows[-1]) if rows else None

    async def _arrived(self, account: str) -> None:
        """Waits a while for money that is on its way to the account."""
        swaps = self._journal.open_swaps_of(account=account)
        tasks = [task for swap in swaps if (task := self._swaps.resume(swap.id)) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=ARRIVING_S)

    async def _told_open(self, account: str, until: float) -> Sent | None:
        """What is on its way already, once it has arrived, or as it stands; None: nothing, or it came back."""
        rows = self._payments.open_of(account)
        tasks = [task for row in rows if (task := self._melts.resume(row.id)) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self._left_s(until))
        now = [self._payments.find(row.id) for row in rows]
        went = [row for row in now if row is not None and row.state != "returned"]
        return _told(went[-1]) if went else None

    async def _sent(self, account: str, address: str, until: float) -> Sent | None:
        failure: Failure | None = None
        row = self._reports.account(account)
        if row is not None and row.held_msat:
            raise RequestsRunning(REQUESTS_RUNNING)
        rooms = self._refunds.rooms(account)
        for purse, room_msat in rooms:
            if room_msat < LEAST_MSAT:
                continue
            try:
                sending = await self._lightning.send(Wish("refund", account, purse, room_msat, address))
            except RequestsRunning:
                raise
            except Failure as reason:
                failure = failure or reason
                continue
            except Unpayable as reason:
                failure = failure or _unpayable(reason)
                continue
            await asyncio.wait([sending.task], timeout=self._left_s(until))
            found = self._payments.find(sending.id)
            if found is not None and found.state != "returned":
                return _told(found)
            raise MintUnreachable(NOT_PAID)
        if failure is not None:
            raise failure
        if any(whole_units(room_msat, purse.unit) for purse, room_msat in rooms):
            return None
        last = self._payments.told_last(account)
        return None if last is None else _told(last)

    def _left_s(self, until: float) -> float:
        """A little less than is left, so that what was seen is told."""
        return max(0.0, until - self._clock() - 0.5)


def _told(payment: LightningPayment) -> Sent:
    state = "paid" if payment.state == "paid" else "pending"
    return Sent.model_validate({"recipient": payment.recipient, "amount_msat": payment.amount_msat, "state": state})


def _unpayable(reason: Unpayable) -> Failure:
    return InvalidParameter(
        f"The refund address of this key cannot be paid at the moment: {reason}. Nothing was taken; ask again later, "
        'or with {"to": "token"} for a Cashu token.',
        param=HEADER,
    )
