"""Money that goes out over Lightning, put together: refunds to addresses, expired keys, payouts; and what is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from addon.ledger import Journal, Payments, Proofs, Purse, Refunds, Reports, Solvency, Store
from addon.settings import Settings
from addon.treasury import Sent
from addon.wallet.address_refund import AddressRefunds
from addon.wallet.coins import Coins
from addon.wallet.epochs import Epochs
from addon.wallet.expiry import Expiry
from addon.wallet.lightning import Lightning
from addon.wallet.melt import Melts
from addon.wallet.mints import Mints
from addon.wallet.payee import Payees
from addon.wallet.payouts import Payouts
from addon.wallet.seeds import Seeds
from addon.wallet.strangers import Strangers
from addon.wallet.swap import Swaps


class Outgoing:
    """Everything of one wallet that pays invoices."""

    def __init__(
        self, settings: Settings, store: Store, journal: Journal, seeds: Seeds, coins: Coins, mints: Mints,
        epochs: Epochs, swaps: Swaps, solvency: Callable[[], Sequence[Solvency]],
    ) -> None:  # fmt: skip
        self._payments, proofs = Payments(store), Proofs(store)
        self._melts = Melts(self._payments, proofs, seeds, coins, mints, epochs)
        payees = Payees(Strangers(settings.tor_proxy_url), allow_private=settings.lnurl_allow_private)
        lightning = Lightning(self._payments, proofs, mints, epochs, self._melts, payees)
        self._refunds = AddressRefunds(
            journal, Refunds(store), Reports(store), self._payments, swaps, self._melts, lightning
        )
        self._loops: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if settings.refund_processing_interval:
            self._loops.append(Expiry(self._payments, lightning, settings.refund_processing_interval).run)
        if settings.receive_ln_address and settings.payout_interval:
            payouts = Payouts(
                self._payments, lightning, solvency, settings.receive_ln_address,
                least_sat=settings.minimum_payout, interval_s=settings.payout_interval,
            )  # fmt: skip
            self._loops.append(payouts.run)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> int:
        """Takes up every open payment, and begins to look for what is due; returns how many were open."""
        rows = self._payments.open_payments()
        for row in rows:
            self._melts.resume(row.id)
        self._tasks = [asyncio.create_task(loop()) for loop in self._loops]
        return len(rows)

    async def refund(self, account: str) -> Sent | None:
        """To the account's address; None: it has none, or nothing that is worth a payment."""
        return await self._refunds.refund(account)

    def on_its_way(self, account: str) -> Sent | None:
        """What is being sent to an account's address at this moment."""
        return self._refunds.on_its_way(account)

    def using(self, purse: Purse) -> list[asyncio.Task[None]]:
        """The payments that have coins of a purse."""
        return self._melts.using(purse)
