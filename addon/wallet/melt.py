"""A Lightning payment with our own coins, run and resumed until the mint has told what became of it.

    written down (`Payments.begin`) ──> ordered (POST) ──> the mint's quote is asked, again and again:
        PAID      change found again at the mint (NUT-09), all booked                    paid
        PENDING   noted, asked again                                                     pending
        UNPAID    every order was answered, or the invoice has expired, and the coins
                  are unspent: given back                                                returned
                  else: ordered again, the same quote with the same coins
        UNPAID and coins spent, again and again: they were spent elsewhere; given back   returned

An order whose answer was lost may still be at work, and its invoice be paid later: nothing is given back before
that is impossible. Ordering again is harmless: a quote is paid once, with coins that are spent once. The
change has outputs without amounts; the mint signed them for this payment, since it takes none that it signed
before, and together they are no more than what it was given too much.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from addon.errors import Failure, place
from addon.ledger import LightningPayment, NewPayment, Payments, Proofs, Purse, StoredProof, patiently
from addon.money import to_msat
from addon.tokens import Proof
from addon.wallet import melt_quotes
from addon.wallet.booking import unblinded
from addon.wallet.coins import Coins
from addon.wallet.curve import blind
from addon.wallet.epochs import Epochs
from addon.wallet.mints import Mint, Mints
from addon.wallet.seeds import Output, Seeds
from addon.wallet.swap import FIRST_PAUSE_S, LEAST_SHARE, pauses
from addon.wallet.verdicts import SIGNED_CODE
from addon.wallet.wire import Coded, NoAnswer, RateLimited, Uncoded, Unknown, Unreachable

SIGNING_CODE: Final = 11004
"""The mint still keeps one of our outputs for something else."""
AGREED: Final = 5
"""Looks in a row: a mint may note that coins are spent a moment before it notes what for."""
EXPIRED_FOR_S: Final = 120
"""After it nobody's clock lets an invoice be paid any more."""

log = logging.getLogger("wallet.melt")


class Found(Enum):
    """What a look at the mint showed."""

    PAID = "paid"
    PENDING = "pending"
    UNPAID = "unpaid"
    ELSEWHERE = "coins spent elsewhere"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Work:
    """A payment's row with what driving it needs, secrets included."""

    row: LightningPayment
    mint: Mint
    coins: tuple[StoredProof, ...]
    inputs: tuple[Proof, ...] = field(repr=False)
    outputs: tuple[Output, ...] = field(repr=False)

    @property
    def face(self) -> int:
        return sum(coin.amount for coin in self.coins)


@dataclass(slots=True)
class _Run:
    """A row's task in this life; `hurry` shortens its pause."""

    row: LightningPayment
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Melts:
    """Drives the Lightning payments of one ledger, each by one task, which nobody's leaving stops."""

    def __init__(
        self, payments: Payments, proofs: Proofs, seeds: Seeds, coins: Coins, mints: Mints, epochs: Epochs,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._payments = payments
        self._proofs = proofs
        self._seeds = seeds
        self._coins = coins
        self._mints = mints
        self._epochs = epochs
        self._clock = clock
        self._running: dict[str, tuple[_Run, asyncio.Task[None]]] = {}

    def begin(self, new: NewPayment) -> asyncio.Task[None]:
        """Writes a payment down and starts it, with no await in between. Raises what `Payments.begin` raises."""
        return self._run(self._payments.begin(new), first=True)

    def resume(self, payment_id: str) -> asyncio.Task[None] | None:
        """The task that drives an open row, hurried on, or a new one for what an earlier life left; None: closed."""
        if payment_id in self._running:
            run, task = self._running[payment_id]
            run.hurry.set()
            return task
        row = self._payments.find(payment_id)
        if row is None or row.state not in ("sent", "pending"):
            return None
        return self._run(row, first=False)

    def using(self, purse: Purse) -> list[asyncio.Task[None]]:
        """The payments that have coins of a purse: once they end, there may be more to spend."""
        return [task for row in self._payments.using(purse) if (task := self.resume(row.id)) is not None]

    # --- driving ------------------------------------------------------------------------------------

    def _run(self, row: LightningPayment, *, first: bool) -> asyncio.Task[None]:
        run = _Run(row)
        task = asyncio.create_task(self._drive(run, first=first))
        self._running[row.id] = run, task
        task.add_done_callback(lambda _: self._running.pop(row.id))
        return task

    async def _drive(self, run: _Run, *, first: bool) -> None:
        """Until the row is closed. A fault of ours (a full disk) leaves it open, and is tried again."""
        for pause_s in pauses():
            try:
                await self._settle(run, self._prepare(run.row), first=first)
                return
            except Exception as error:
                log.error("payment %s goes on later: %s", run.row.id, place(error))
            first = False
            await _pause(run, pause_s)

    def _prepare(self, row: LightningPayment) -> _Work:
        coins = tuple(self._proofs.taken_by(row.id))
        recipe = self._seeds.recipe(row.purse, row.epoch, row.keyset)
        made = [(counter, *recipe(counter)) for counter in row.counters]
        outputs = tuple(Output(0, counter, secret, factor, blind(secret, factor)) for counter, secret, factor in made)
        inputs = tuple(self._coins.spendable(coin) for coin in coins)
        return _Work(row, self._mints.at(row.purse.mint), coins, inputs, outputs)

    async def _settle(self, run: _Run, work: _Work, *, first: bool) -> None:
        """`certain`: no order of this payment can still be at work without the mint's knowing."""
        reason = await self._order(work) if first else None
        certain, elsewhere = first and (reason is None or _is_the_mints(reason)), 0
        if isinstance(reason, Unreachable | RateLimited):
            await self._close(work, reason)
            return
        for pause_s in pauses():
            found, spent = await self._look(work)
            if found is Found.PAID and await self._book(work):
                return
            if found is Found.PENDING:
                await patiently(lambda: self._payments.pending(work.row))
            elsewhere = elsewhere + 1 if found is Found.ELSEWHERE else 0
            if elsewhere == AGREED:
                await self._close(work, reason, lost=spent)
                return
            if found is Found.UNPAID:
                if certain or self._clock() > work.row.expires_at + EXPIRED_FOR_S:
                    await self._close(work, reason)
                    return
                reason = await self._order(work)
            await _pause(run, pause_s)

    async def _order(self, work: _Work) -> NoAnswer | None:
        """Asks the mint to pay; None: it answered, and its quote tells the rest."""
        row = work.row
        inputs = [{"id": p.keyset, "amount": p.amount, "secret": p.secret, "C": p.C} for p in work.inputs]
        outputs = [{"amount": 0, "id": row.keyset, "B_": output.blinded} for output in work.outputs]
        try:
            await melt_quotes.melt(work.mint, row.quote, inputs, outputs)
        except NoAnswer as answer:
            log.info("payment %s: ordered, %s", row.id, answer)
            return answer
        return None

    async def _look(self, work: _Work) -> tuple[Found, Sequence[str]]:
        """What the quote says, and where it says that nothing was paid, what became of the coins."""
        try:
            told = await melt_quotes.state(work.mint, work.row.quote)
            if told.state != "UNPAID":
                return Found[told.state], ()
            states = await work.mint.states([coin.Y for coin in work.coins])
        except NoAnswer as answer:
            log.info("payment %s: not known yet (%s)", work.row.id, answer)
            return Found.UNKNOWN, ()
        spent = [y for y, state in states.items() if state == "SPENT"]
        if spent:
            return Found.ELSEWHERE, spent
        return (Found.UNPAID if set(states.values()) == {"UNSPENT"} else Found.UNKNOWN), ()

    async def _book(self, work: _Work) -> bool:
        """Finds the change and books all. False: the mint does not tell it, or not rightly; asked again."""
        try:
            change = await self._change(work) if work.outputs else []
        except (NoAnswer, Failure) as answer:
            log.warning("payment %s is paid; its change is not known yet (%s)", work.row.id, type(answer).__name__)
            return False
        await patiently(lambda: self._payments.paid(work.row, change))
        log.info("payment %s (%s): paid", work.row.id, work.row.purpose)
        return True

    async def _change(self, work: _Work) -> list[StoredProof]:
        row = work.row
        signed = await work.mint.signed(row.keyset, [output.blinded for output in work.outputs])
        facts = await work.mint.facts()
        keyset = facts.keysets.get(row.keyset)
        if keyset is None:
            raise Unknown("the mint's keyset is gone")
        made = [(replace(o, amount=signed[o.blinded].amount), signed[o.blinded]) for o in work.outputs
                if o.blinded in signed]  # fmt: skip
        if to_msat(work.face - sum(output.amount for output, _ in made), row.purse.unit) < row.amount_msat:
            raise Unknown("more change than was given too much")
        return [
            self._coins.stored(row.purse, row.epoch, row.keyset, output,
                               unblinded(output, signature, keyset.keys, row.keyset, facts.proves), b"")
            for output, signature in made
        ]  # fmt: skip

    async def _close(self, work: _Work, reason: NoAnswer | None, *, lost: Sequence[str] = ()) -> None:
        """Nothing was paid, and nothing will be."""
        code = reason.code if isinstance(reason, Coded) else None
        reuse = code not in (SIGNED_CODE, SIGNING_CODE)
        if lost:
            log.error("%d coins of %s were spent elsewhere: is a copy of this node running?", len(lost), work.mint.url)
        await patiently(lambda: self._payments.unpaid(work.row, lost=lost, reuse_counters=reuse))
        log.warning("payment %s (%s): not paid (%s)", work.row.id, work.row.purpose, reason or "the mint found no way")
        if code == SIGNED_CODE:
            with contextlib.suppress(NoAnswer, Failure):
                await self._epochs.leave(work.mint, work.row.purse, work.row.epoch)


def _is_the_mints(reason: NoAnswer) -> bool:
    """Whether the mint itself has refused: a gateway that gave up may have passed the order on."""
    return isinstance(reason, Coded) or (isinstance(reason, Uncoded) and reason.by_mint)


async def _pause(run: _Run, pause_s: float) -> None:
    """Until the next look; somebody who asks shortens it, but for a part of it."""
    least_s = max(min(FIRST_PAUSE_S, pause_s), pause_s * LEAST_SHARE)
    await asyncio.sleep(least_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause_s - least_s):
            await run.hurry.wait()
    run.hurry.clear()
