"""What a single payment left: paid out of the coins that it brought, at once, and told again to whoever has its token.

    request over ──> change chosen, sealed, account closed: one transaction, no mint ──> told
    answer lost  ──> found by the original token ──> the same

The coins were set aside when the token was redeemed, in sizes that make every amount. So nothing here waits
for the network, but for a redemption whose own outcome is not known yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from addon.errors import (
    Failure,
    InternalError,
    InvalidToken,
    OutcomeUnknown,
    PaymentNotFound,
    PaymentRunning,
    TokenAlreadySpent,
)
from addon.ledger import (
    Journal,
    Proofs,
    Purse,
    Refund,
    Refunds,
    Single,
    Singles,
    StoredProof,
    Swap,
    new_id,
    patiently,
)
from addon.money import is_unit, to_msat, whole_units
from addon.tokens import canonical, decode
from addon.treasury import Changed
from addon.wallet.booking import Booking
from addon.wallet.coins import Coins
from addon.wallet.mints import Mints
from addon.wallet.receive import SPENT, named
from addon.wallet.split import greatest_below
from addon.wallet.swap import Swaps

WAIT_S: Final = 3.0
"""For a redemption that is under way."""
BEGINS_S: Final = 3.0
"""A payment that was redeemed a moment ago is about to begin: asked for now, its money would be gone before."""
RUNNING: Final = "This payment is still running; ask again in a moment."
UNKNOWN: Final = "The mint was asked and its answer is not known yet: what this token brought is being recovered."
NOT_HERE: Final = "No single payment was made here with this token. If it was refused, it is still yours to spend."
FOR_A_KEY: Final = "This token opened a key here, or topped one up: ask for the refund with that key."

log = logging.getLogger("wallet.change")


class Changer:
    """Ends single payments."""

    def __init__(
        self, journal: Journal, proofs: Proofs, refunds: Refunds, singles: Singles, coins: Coins, mints: Mints,
        swaps: Swaps, booking: Booking, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._proofs = proofs
        self._refunds = refunds
        self._singles = singles
        self._coins = coins
        self._mints = mints
        self._swaps = swaps
        self._booking = booking
        self._clock = clock

    async def change(self, account: str) -> Changed:
        """The change of a payment whose request is over, now or before. Raises PaymentRunning, PaymentNotFound."""
        return await patiently(lambda: self._changed(account))

    async def recall(self, text: str) -> Changed:
        """The change of the payment that was made with this token, however it is written.

        Raises PaymentRunning, PaymentNotFound; OutcomeUnknown while its redemption is, TokenAlreadySpent when it
        was spent elsewhere before; InvalidToken.
        """
        row = await self._row(text)
        if row is None or row.state == "refused":
            raise PaymentNotFound(NOT_HERE)
        if row.state == "failed":
            raise TokenAlreadySpent(SPENT)
        if row.purpose != "single" or row.account is None:
            raise PaymentNotFound(FOR_A_KEY)
        if row.state == "sent":
            raise OutcomeUnknown(UNKNOWN)
        single = self._singles.find(row.account)
        if single is not None and self._begins(single):
            raise PaymentRunning(RUNNING)
        return await self.change(row.account)

    async def end_charged(self) -> None:
        """The change of payments whose proxy died after it had charged them: it waits for its payer's call."""
        for account in self._singles.charged():
            try:
                await self.change(account)
            except Failure as failure:
                log.error("the change of %s is not paid: %s", account, failure.code)

    async def _row(self, text: str) -> Swap | None:
        """The token's row; one whose outcome is not known is hurried, and waited for a while."""
        token = decode(text)
        mint = canonical(token.mint)
        if mint is None or not is_unit(token.unit):
            raise InvalidToken("No mint that this node deals with can have issued this token.")
        found, _ = named(Purse(mint, token.unit), token.proofs)
        row = self._journal.find(found)
        if row is not None and row.state == "sent" and (task := self._swaps.resume(found)) is not None:
            await asyncio.wait([task], timeout=WAIT_S)
            row = self._journal.find(found)
        return row

    def _begins(self, single: Single) -> bool:
        age_s = self._clock() - single.created_at
        unused = single.state == "open" and not single.held_msat and not single.spent_msat
        return unused and 0 <= age_s < BEGINS_S

    def _changed(self, account: str) -> Changed:
        single = self._singles.find(account)
        if single is None:
            raise PaymentNotFound("There is no single payment with this account.")
        if single.held_msat or (single.state == "open" and not self._close(single)):
            raise PaymentRunning(RUNNING)
        return self._told(single)

    def _close(self, single: Single) -> bool:
        """Pays and closes. False: a request began in this moment."""
        chosen = self._chosen(single)
        if not chosen:
            return self._singles.close(single, None, None)
        amount_msat = to_msat(_sum(chosen), single.purse.unit)
        refund = Refund(new_id(), single.account, single.purse, amount_msat, "open", None)
        payment = self._booking.payment(refund, chosen, [self._coins.spendable(coin) for coin in chosen])
        return self._singles.close(single, refund, payment)

    def _chosen(self, single: Single) -> list[StoredProof]:
        """The coins of the change; none when it would not be worth its own fee."""
        own = self._proofs.taken_by(single.account)
        own.sort(key=lambda coin: coin.counter is not None)  # recovery from the NSEC does not find tags: away first
        wanted = whole_units(single.balance_msat, single.purse.unit)
        chosen = greatest_below(own, wanted, lambda coin: coin.amount)
        if _sum(chosen) != wanted:
            raise InternalError("The coins set aside for this payment do not make its change.")
        return chosen if wanted > self._fee(single.purse, chosen) else []

    def _fee(self, purse: Purse, coins: Sequence[StoredProof]) -> int:
        """What the mint takes from whoever claims these coins, as far as it is known without asking."""
        facts = self._mints.at(purse.mint).known
        return 0 if facts is None else facts.fee(coin.keyset for coin in coins if coin.keyset in facts.keysets)

    def _told(self, single: Single) -> Changed:
        paid = self._refunds.answered(single.account)
        token = self._coins.open_token(paid[-1]) if paid else ""
        amount_msat = sum(refund.amount_msat for refund in paid)
        unit = single.purse.unit
        return Changed(token=token, unit=unit, amount=whole_units(amount_msat, unit), amount_msat=amount_msat)


def _sum(coins: Sequence[StoredProof]) -> int:
    return sum(coin.amount for coin in coins)
