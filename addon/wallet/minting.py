"""Lightning invoices: asked of a mint for who wants one, and minted once they are paid.

An unpaid invoice costs nobody anything but a row here and a row at the mint. So there are only so many of them
that can be paid at one time: for each account, and for all strangers together, who wait apart from accounts.
Which mint: the first accepted one that answers; one that did not is asked last for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from addon.errors import (
    Failure,
    InvalidApiKey,
    InvalidParameter,
    LightningUnavailable,
    MintNotAccepted,
    MintUnreachable,
    Overloaded,
    TooManyInvoices,
)
from addon.ledger import InputsTaken, Invoice, Invoices, Journal, NewSwap, Purse, Reports, patiently
from addon.money import MSAT_PER_UNIT, Unit, to_msat, whole_units
from addon.treasury import Invoiced, OrderInvoice
from addon.wallet import quotes
from addon.wallet.booking import Ended
from addon.wallet.coins import INPUTS
from addon.wallet.epochs import Epochs
from addon.wallet.mints import Facts, Mint, Mints, out_of_reach
from addon.wallet.pace import Pace
from addon.wallet.quotes import Claim
from addon.wallet.receive import MOST_OUTPUTS
from addon.wallet.seeds import NONCE_BYTES, Seeds
from addon.wallet.slots import KeyedLocks, Slots
from addon.wallet.split import tagged
from addon.wallet.swap import Swaps
from addon.wallet.verdicts import Verdict
from addon.wallet.wire import Coded, NoAnswer, Uncoded, Unknown

LIMIT_S: Final = 10.0
TURN_S: Final = 4.0
"""For one mint, as long as another one may have to be asked as well."""
LONGEST_LIFE_S: Final = 7 * 86_400
SHORTEST_LIFE_S: Final = 60
MOST_OF_STRANGERS: Final = 300
MOST_OF_ACCOUNT: Final = 5
AWAY_S: Final = 60.0
BURST: Final = 20
EACH_S: Final = 3.0
"""Between two invoices asked of one mint, once a burst is used up: mints count what they are asked."""
TOO_MUCH_CODE: Final = 11006
QUOTE: Final = "quote"

log = logging.getLogger("wallet.minting")


class Minting:
    """Orders invoices and mints for those that were paid. When to look is `watch.py`'s to know."""

    def __init__(
        self, accepted: Sequence[str], invoices: Invoices, journal: Journal, reports: Reports, seeds: Seeds,
        mints: Mints, epochs: Epochs, swaps: Swaps, clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._accepted = accepted
        self._invoices = invoices
        self._journal = journal
        self._reports = reports
        self._seeds = seeds
        self._mints = mints
        self._epochs = epochs
        self._swaps = swaps
        self._clock = clock
        self._away_until: dict[str, float] = {}
        self._ordering = KeyedLocks()
        self._turns = {"key": Slots(places=4, waiting=32), "topup": Slots(places=4, waiting=32)}
        self._paces: dict[tuple[str, str], Pace] = {}

    async def order(self, ask: OrderInvoice) -> Invoice:
        """An invoice that brings `ask.amount_msat`; asked again with the same id, the same one.

        Raises InvalidApiKey, InvalidParameter, TooManyInvoices, Overloaded, MintError, LightningUnavailable: there
        is no invoice then, and nobody owes anything.
        """
        async with self._ordering(ask.id):
            known = self._invoices.find(ask.id)
            if known is not None:
                return known
            if ask.purpose == "topup" and self._reports.account(ask.account) is None:
                raise InvalidApiKey("There is no such account to top up.")
            async with self._ordering((ask.purpose, ask.account)):
                turns = self._turns[ask.purpose]
                await turns.take()
                try:
                    self._check_room(ask)
                    return await self._from_a_mint(ask)
                finally:
                    turns.give()

    def claim(self, invoice: Invoice) -> Claim:
        """What mints an open invoice."""
        key = self._seeds.quote_key(invoice.id) if invoice.locked else None
        return Claim(self._seeds.unseal(QUOTE, invoice.id, invoice.quote).decode(), key)

    async def collect(self, invoice: Invoice) -> asyncio.Task[Ended] | None:
        """Asks the mint once. Paid: the task that mints and credits it. None: unpaid, or closed meanwhile.

        Raises NoAnswer or Failure: not known now.
        """
        row = self._journal.find(invoice.id)
        if row is not None and row.state == "sent":
            return self._swaps.resume(row.id)
        mint, claim = self._mints.at(invoice.purse.mint), self.claim(invoice)
        quote = await quotes.state(mint, claim)
        if quote.state == "UNPAID":
            return None
        facts = await mint.facts()
        epoch = await self._epochs.current(mint, invoice.purse)
        new = self._new_swap(invoice, claim, facts, epoch)
        try:
            return await self._swaps.begin(mint, lambda: new)
        except InputsTaken:  # somebody was faster
            return self._swaps.resume(invoice.id)

    async def after(self, invoice: Invoice, ended: Ended) -> bool:
        """Whether that was the end of it. Where the mint refused, its keysets may be others now."""
        if ended.verdict is Verdict.SPENT:
            log.error("invoice %s was minted elsewhere: is a copy of this node running?", invoice.id[:16])
        if ended.verdict in (Verdict.EXECUTED, Verdict.SPENT):
            return True
        log.warning("invoice %s is paid and not minted yet (%s)", invoice.id[:16], ended.reason)
        if isinstance(ended.reason, Coded | Uncoded):
            await self._mints.at(invoice.purse.mint).facts(at_most_old_s=0)
        return False

    # --- ordering -----------------------------------------------------------------------------------

    def _check_room(self, ask: OrderInvoice) -> None:
        if ask.purpose == "topup" and self._invoices.waiting(ask.account) >= MOST_OF_ACCOUNT:
            raise TooManyInvoices(
                f"This key has {MOST_OF_ACCOUNT} invoices that are not paid yet: pay one of them, or wait until "
                "one has expired."
            )
        if ask.purpose == "key" and self._invoices.waiting() >= MOST_OF_STRANGERS:
            raise Overloaded("Too many invoices of this node are unpaid at the moment; try later, or pay with ecash.")

    async def _from_a_mint(self, ask: OrderInvoice) -> Invoice:
        """The first that gives one. The last of them has all the time that is left."""
        failure: Failure | None = None
        places = sorted(self._accepted, key=lambda url: self._away_until.get(url, 0) > self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                for url in places:
                    ordered = await self._tried(url, ask, limit_s=None if url == places[-1] else TURN_S)
                    if isinstance(ordered, Invoice):
                        return ordered
                    failure = failure or ordered
        raise failure or MintUnreachable("No mint answered in time; nothing is owed. Try again later.")

    async def _tried(self, url: str, ask: OrderInvoice, *, limit_s: float | None) -> Invoice | Failure:
        """A mint's invoice, or why it gave none."""
        failure: Failure
        try:
            async with asyncio.timeout(limit_s):
                return await self._order(self._mints.at(url), ask)
        except TimeoutError:
            failure = MintUnreachable(f"The mint {url} takes too long to answer; nothing is owed. Try again later.")
        except NoAnswer as reason:
            failure = self._no_invoice(url, reason, ask)
        except Failure as reason:
            failure = reason
        if not isinstance(failure, InvalidParameter | Overloaded):
            self._away_until[url] = self._clock() + AWAY_S
        return failure

    def _no_invoice(self, url: str, reason: NoAnswer, ask: OrderInvoice) -> Failure:
        log.warning("no invoice from %s: %s", url, reason)
        if isinstance(reason, Coded) and reason.code == TOO_MUCH_CODE:
            return InvalidParameter(
                f"The mint {url} takes no payment of {ask.amount_msat // 1000} sat.", param="amount_sats"
            )
        if isinstance(reason, Coded | Uncoded | Unknown):
            return LightningUnavailable(f"The mint {url} issues no usable invoice at the moment; pay with ecash.")
        return out_of_reach(url, reason)

    async def _order(self, mint: Mint, ask: OrderInvoice) -> Invoice:
        """Raises NoAnswer, Failure. What the mint needs for minting is asked for before anybody pays."""
        pace = self._paces.setdefault((mint.url, ask.purpose), Pace(BURST, EACH_S))
        facts = await mint.facts()
        unit = _unit(facts)
        purse, amount = Purse(mint.url, unit), whole_units(ask.amount_msat, unit)
        _amounts(facts, unit, amount)
        await self._epochs.current(mint, purse)
        if not pace.take():
            raise Overloaded(f"Too many invoices are asked of the mint {mint.url} at the moment; try again in a while.")
        claim, quote = await quotes.order(mint, unit, amount, self._seeds.quote_key(ask.id))
        now = int(self._clock())
        found = quotes.payable(quote.request, ask.amount_msat)
        expires_at = min(found.expires_at, quote.expiry or found.expires_at, now + LONGEST_LIFE_S)
        if expires_at < now + SHORTEST_LIFE_S:
            raise Unknown("an invoice that has expired, or will at once")
        row = Invoice(
            id=ask.id, purpose=ask.purpose, account=ask.account, purse=purse, amount_msat=ask.amount_msat,
            bolt11=found.text, payment_hash=found.payment_hash, created_at=now, expires_at=expires_at,
            quote=self._seeds.seal(QUOTE, ask.id, claim.quote.encode()), locked=claim.key is not None,
            key_expires_at=ask.expires_at, refund_address=ask.refund_address,
        )  # fmt: skip
        if not await patiently(lambda: self._invoices.add(row)):
            raise Unknown("an invoice that it gave to somebody else before")
        return row

    # --- minting ------------------------------------------------------------------------------------

    def _new_swap(self, invoice: Invoice, claim: Claim, facts: Facts, epoch: int) -> NewSwap:
        unit, nonce = invoice.purse.unit, secrets.token_bytes(NONCE_BYTES)
        amount = whole_units(invoice.amount_msat, unit)
        return NewSwap(
            id=invoice.id, purpose=invoice.purpose, purse=invoice.purse, face=amount, fee=0,
            amounts=_amounts(facts, unit, amount), keyset=facts.active(unit).id, epoch=epoch,
            tag=self._swaps.seal_tag(invoice.id, nonce), ys=(),
            inputs=self._seeds.seal(INPUTS, invoice.id, claim.sealable()), account=invoice.account, cause=invoice.id,
            token_hash=invoice.id if invoice.purpose == "key" else None, expires_at=invoice.key_expires_at,
            refund_address=invoice.refund_address,
        )  # fmt: skip


def told(invoice: Invoice) -> Invoiced:
    """An invoice, as the wallet tells of it."""
    return Invoiced(
        bolt11=invoice.bolt11, amount_msat=invoice.amount_msat, expires_at=invoice.expires_at,
        payment_hash=invoice.payment_hash,
    )  # fmt: skip


def _unit(facts: Facts) -> Unit:
    """The unit that invoices are minted in: sat, where the mint has it. Raises MintNotAccepted."""
    for unit in MSAT_PER_UNIT:
        if any(keyset.active and 1 in keyset.keys for keyset in facts.of(unit)):
            return unit
    raise MintNotAccepted(f"The mint {facts.url} has no usable keyset.")


def _amounts(facts: Facts, unit: Unit, amount: int) -> tuple[int, ...]:
    """The coins of a paid invoice. Raises InvalidParameter: this mint could not make them."""
    try:
        amounts = tagged(amount, facts.active(unit).denominations)
    except ValueError:
        amounts = ()
    if not 0 < len(amounts) <= MOST_OUTPUTS:
        sats = to_msat(amount, unit) // 1000
        raise InvalidParameter(f"The mint {facts.url} cannot make coins of {sats} sat.", param="amount_sats")
    return amounts
