"""From a purse to a Lightning address: an invoice, a quote, and the coins that pay it, all within what may be taken.

Amount, the mint's fee reserve and its fee for the coins together are never more than that. The amount is asked
for before the reserve is known, so it leaves room for the highest one that is accepted; what is not needed is
not taken, or comes back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from addon.errors import Failure, MintUnreachable
from addon.ledger import (
    CoinsMoved,
    InvoiceTaken,
    NewPayment,
    PaymentPurpose,
    Payments,
    Proofs,
    Purse,
    StoredProof,
    new_id,
)
from addon.money import MSAT_PER_SAT, to_msat, whole_units
from addon.wallet import melt_quotes, ways
from addon.wallet.epochs import Epochs
from addon.wallet.melt import Melts
from addon.wallet.melt_quotes import Quote, most_reserve_msat
from addon.wallet.mints import Facts, Mints, out_of_reach
from addon.wallet.payee import Payees
from addon.wallet.quotes import Payable
from addon.wallet.strangers import Unpayable
from addon.wallet.wire import Coded, NoAnswer, Uncoded

LEAST_MSAT: Final = 10 * MSAT_PER_SAT
"""Below it nothing is sent: the way would cost too large a part of it."""
MOVED: Final = "Coins of this node are being changed at that mint; nothing was taken. Ask again in a moment."


@dataclass(frozen=True, slots=True)
class Wish:
    """Who is to be paid, from where, and what that may take at most (msat)."""

    purpose: PaymentPurpose
    account: str | None
    purse: Purse
    most_msat: int
    recipient: str


@dataclass(frozen=True, slots=True)
class Sending:
    """A payment that is on its way: its row's id, and the task that ends with it."""

    id: str
    task: asyncio.Task[None]


class Lightning:
    """Sends. Decides neither who is paid nor when."""

    def __init__(
        self, payments: Payments, proofs: Proofs, mints: Mints, epochs: Epochs, melts: Melts, payees: Payees
    ) -> None:
        self._payments = payments
        self._proofs = proofs
        self._mints = mints
        self._epochs = epochs
        self._melts = melts
        self._payees = payees

    async def send(self, wish: Wish) -> Sending:
        """Begins a payment; from then on it goes on by itself.

        Raises with nothing taken: Unpayable; MintError; RequestsRunning; ProfitMoved.
        """
        mint, unit = self._mints.at(wish.purse.mint), wish.purse.unit
        facts = await mint.opened()
        amount_msat = self._amount_msat(facts, wish)
        invoice, amount_msat = await self._payees.invoice(wish.recipient, amount_msat, own=wish.purpose == "payout")
        try:
            quote = await melt_quotes.quote(mint, unit, invoice, amount_msat)
            epoch = await self._epochs.current(mint, wish.purse)
        except (Coded, Uncoded):
            raise Unpayable("the mint refuses to pay its invoice") from None
        except NoAnswer as reason:
            raise out_of_reach(mint.url, reason) from None
        return self._begin(facts, wish, invoice, quote, epoch)

    def at_hand(self, purse: Purse) -> list[StoredProof]:
        """As many coins of a purse as a payment can need."""
        return self._proofs.unspent(purse, most_each=ways.MOST_INPUTS)

    async def facts(self, purse: Purse) -> Facts:
        """What the mint of a purse says of itself. Raises MintError."""
        return await self._mints.at(purse.mint).opened()

    def _amount_msat(self, facts: Facts, wish: Wish) -> int:
        """What can be sent at once, in whole sats, so that reserve and fee still fit.

        Coins that another payment has are waited for; where they are too small for all of it, a part is sent.
        """
        unit, coins = wish.purse.unit, self.at_hand(wish.purse)
        wanted = whole_units(wish.most_msat, unit)
        if ways.total(facts, coins) < wanted and self._payments.using(wish.purse):
            raise MintUnreachable(MOVED)
        wanted = min(wanted, ways.most_after_fees(facts, coins))
        left_msat = to_msat(wanted - ways.likely_fee(facts, coins, wanted), unit)
        amount_msat = (left_msat - most_reserve_msat(left_msat)) // MSAT_PER_SAT * MSAT_PER_SAT
        if amount_msat < MSAT_PER_SAT:
            raise Unpayable("fees would take all that could be sent there")
        return amount_msat

    def _begin(self, facts: Facts, wish: Wish, invoice: Payable, quote: Quote, epoch: int) -> Sending:
        """Chooses the coins and writes the payment down; no await in between."""
        new = self._planned(facts, wish, invoice, quote, epoch)
        try:
            return Sending(new.id, self._melts.begin(new))
        except InvoiceTaken:
            raise Unpayable("its host made an invoice that was paid before, or is being paid") from None
        except CoinsMoved:
            raise MintUnreachable(MOVED) from None

    def _planned(self, facts: Facts, wish: Wish, invoice: Payable, quote: Quote, epoch: int) -> NewPayment:
        purse, keyset = wish.purse, facts.active(wish.purse.unit)
        way = ways.covering(facts, self.at_hand(purse), quote.amount + quote.reserve)
        if way is None or to_msat(way.amount + way.fee, purse.unit) > wish.most_msat:
            raise MintUnreachable(MOVED)
        spare = sum(coin.amount for coin in way.coins) - quote.amount - way.fee
        outputs = spare.bit_length() if facts.gives_change else 0
        if spare > quote.reserve and not outputs:
            raise Unpayable("the mint gives no change, and there are no coins of just this amount")
        if outputs and not self._proofs.any_of(purse, epoch, keyset.id):
            raise Unpayable("the mint has new keys, of which this node has no coin yet")
        return NewPayment(
            id=new_id(), purpose=wish.purpose, account=wish.account, recipient=wish.recipient, purse=purse,
            amount_msat=to_msat(quote.amount, purse.unit), fee_msat=to_msat(quote.reserve + way.fee, purse.unit),
            quote=quote.name, payment_hash=invoice.payment_hash, expires_at=invoice.expires_at,
            ys=tuple(coin.Y for coin in way.coins), keyset=keyset.id, epoch=epoch, outputs=outputs,
        )  # fmt: skip


def unpaid_words(reason: Exception) -> str:
    """Why a payment did not begin, for the log: no address, no amount."""
    return reason.code if isinstance(reason, Failure) else str(reason) if isinstance(reason, Unpayable) else ""
