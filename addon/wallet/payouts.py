"""The operator's profit goes to RECEIVE_LN_ADDRESS: per mint and unit, one payment at a time.

Only what is owed to nobody, judged again in the step that sets its coins aside. Where a mint takes a fee for
coins, what changing those in hand twice would cost stays there: refunds need it. What fails here hinders no sale.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from addon.errors import Failure, place
from addon.ledger import Payments, ProfitMoved, Purse, Solvency
from addon.money import MSAT_PER_SAT, to_msat, whole_units
from addon.wallet import ways
from addon.wallet.backoff import Backoff
from addon.wallet.lightning import LEAST_MSAT, Lightning, Wish, unpaid_words
from addon.wallet.rounds import rounds
from addon.wallet.strangers import Unpayable

CHANGES: Final = 2
"""How often coins may have to be changed before the last of them is paid back."""

MOST_OF_IT: Final = 0.75

log = logging.getLogger("wallet.payouts")


class Payouts:
    """Looks every `interval_s`. `least_sat`: less is not worth a payment."""

    def __init__(
        self, payments: Payments, lightning: Lightning, solvency: Callable[[], Sequence[Solvency]], recipient: str,
        *, least_sat: int, interval_s: float, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._payments = payments
        self._lightning = lightning
        self._solvency = solvency
        self._recipient = recipient
        self._least_msat = max(least_sat * MSAT_PER_SAT, LEAST_MSAT)
        self._interval_s = interval_s
        self._backoff = Backoff(interval_s, clock)

    async def run(self) -> None:
        """As long as the wallet lives."""
        await rounds(self.look, self._interval_s, log)

    async def look(self) -> None:
        """Begins a payout from each purse that has one to make; a purse that fails hinders no other."""
        purses = [found.purse for found in self._solvency() if found.surplus_msat >= self._least_msat]
        await asyncio.gather(*[self._pay_out(purse) for purse in purses if self._backoff.ready(purse)])

    async def _pay_out(self, purse: Purse) -> None:
        try:
            free_msat = await self._free_msat(purse)
            if free_msat >= self._least_msat:
                sending = await self._lightning.send(Wish("payout", None, purse, free_msat, self._recipient))
                sending.task.add_done_callback(lambda _: self._ended(purse, sending.id))
        except ProfitMoved:
            return
        except (Unpayable, Failure) as reason:
            log.warning("no payout from %s (%s): %s", purse.mint, purse.unit, unpaid_words(reason))
            self._backoff.failed(purse)
        except Exception as error:
            log.error("no payout from %s (%s): %s", purse.mint, purse.unit, place(error))
            self._backoff.failed(purse)

    async def _free_msat(self, purse: Purse) -> int:
        """What may go out; a part of it where coins make most of it without a change: a large one stays at hand."""
        if (free_msat := self._payments.free_profit_msat(purse)) < self._least_msat:
            return 0
        facts, coins = await self._lightning.facts(purse), self._lightning.at_hand(purse)
        known = [coin.keyset for coin in coins if coin.keyset in facts.keysets]
        free = max(0, whole_units(free_msat, purse.unit) - CHANGES * facts.fee(known))
        just = ways.as_they_are(facts, coins, free).amount
        enough = just >= MOST_OF_IT * free and to_msat(just, purse.unit) >= self._least_msat
        return to_msat(just if enough else free, purse.unit)

    def _ended(self, purse: Purse, payment: str) -> None:
        row = self._payments.find(payment)
        if row is None or row.state == "returned":
            self._backoff.failed(purse)
        else:
            self._backoff.forget(purse)
