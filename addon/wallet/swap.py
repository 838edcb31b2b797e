"""A swap, or the minting of a paid quote, run and resumed: siblings, driven by the table in `verdicts.py`.

    written down (`Journal.open`) ──> asked (POST) ──> booked (`Journal.executed`, with coins and credit)
                                          │       └──> closed (`Journal.not_executed`)
                                          └── no usable answer: looked into until it is one of the two

The row is written before the mint is asked and closed after it answered; whatever dies in between, the
same steps go on from the row alone. A row is driven by one task, which belongs to the wallet: a client
that leaves does not stop it.

While its outcome is unknown a row keeps its place among the mint's eight: a mint that answers nothing gets
no more of anybody's coins. But a row that the mint leaves undecided while it answers others (its coins stay
pending, or it is refused without a code again and again) is set aside: it goes on by itself, ever more
seldom, and takes nobody's place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from addon.errors import place
from addon.ledger import Journal, NewSwap, Proofs, Swap
from addon.tokens import Proof
from addon.wallet import quotes
from addon.wallet.booking import Booking, Ended, Look, Work
from addon.wallet.coins import INPUTS, TAG, Coins
from addon.wallet.curve import point_of
from addon.wallet.mints import Mint, Mints
from addon.wallet.quotes import Claim
from addon.wallet.seeds import Seeds
from addon.wallet.verdicts import Verdict, of_first_post, of_look, was_refused
from addon.wallet.wire import Coded, NoAnswer, Uncoded

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 300.0
LEAST_SHARE: Final = 1 / 32
"""Of a pause, which nobody shortens: strangers may ask about a row as often as they like."""
ASIDE_AFTER_S: Final = 1.0
"""A row whose pauses have grown beyond it may be set aside."""
MOST_ASIDE: Final = 256

log = logging.getLogger("wallet.swap")


@dataclass(slots=True)
class _Run:
    """A row's task in this life. `answered`: how often its mint had answered anybody, when last looked."""

    swap: Swap
    mint: Mint
    answered: int
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    aside: bool = False


class Swaps:
    """Drives the journal's rows, each by one task."""

    def __init__(
        self, journal: Journal, proofs: Proofs, seeds: Seeds, coins: Coins, mints: Mints, booking: Booking
    ) -> None:
        self._journal = journal
        self._proofs = proofs
        self._seeds = seeds
        self._coins = coins
        self._mints = mints
        self._booking = booking
        self._running: dict[str, tuple[_Run, asyncio.Task[Ended]]] = {}

    async def begin(self, mint: Mint, plan: Callable[[], NewSwap | None]) -> asyncio.Task[Ended] | None:
        """Writes a swap down and starts it, once the mint has a place free; None when `plan` wants none.

        `plan` is called after the wait, and the row inserted with no await in between: what it chose is
        still there. Raises Overloaded, or what `Journal.open` raises, with nothing done.
        """
        await mint.slots.take()
        try:
            new = plan()
            swap = None if new is None else self._journal.open(new)
        except BaseException:
            mint.slots.give()
            raise
        if swap is None:
            mint.slots.give()
            return None
        return self._run(swap, mint, first=True)

    def resume(self, swap_id: str) -> asyncio.Task[Ended] | None:
        """The task that drives an open row, hurried on, or a new one for what an earlier life left; None: closed."""
        if swap_id in self._running:
            run, task = self._running[swap_id]
            run.hurry.set()
            return task
        swap = self._journal.find(swap_id)
        if swap is None or swap.state != "sent":
            return None
        mint = self._mints.at(swap.purse.mint)
        mint.slots.occupy()
        return self._run(swap, mint, first=False)

    def seal_inputs(self, swap_id: str, inputs: Sequence[Proof]) -> bytes:
        """A client's coins as their row keeps them while it is open."""
        plain = json.dumps([_as_input(proof) for proof in inputs]).encode()
        return self._seeds.seal(INPUTS, swap_id, plain)

    def seal_tag(self, swap_id: str, nonce: bytes) -> bytes:
        """A tag's nonce as the row keeps it."""
        return self._seeds.seal(TAG, swap_id, nonce)

    # --- driving ------------------------------------------------------------------------------------

    def _run(self, swap: Swap, mint: Mint, *, first: bool) -> asyncio.Task[Ended]:
        run = _Run(swap, mint, mint.answered)
        task = asyncio.create_task(self._drive(run, first=first))
        self._running[swap.id] = run, task

        def over(_: asyncio.Task[Ended]) -> None:
            del self._running[swap.id]
            if not run.aside:
                mint.slots.give()

        task.add_done_callback(over)
        return task

    async def _drive(self, run: _Run, *, first: bool) -> Ended:
        """Until the row is closed. A fault of ours (a full disk) leaves the row open, and is tried again."""
        swap = run.swap
        for pause_s in pauses():
            try:
                work = self._prepare(swap, run.mint)
                ended = await (self._start(run, work) if first else self._recover(run, work, refused=False))
                told = logging.DEBUG if ended.verdict in (Verdict.SPENT, Verdict.REFUSED) else logging.INFO
                log.log(told, "swap %s (%s): %s", swap.id[:16], swap.purpose, ended.verdict.value)
                return ended
            except Exception as error:
                log.error("swap %s goes on later: %s", swap.id[:16], place(error))
            first = False
            await self._pause(run, pause_s)
        raise AssertionError("pauses end never")

    def _prepare(self, swap: Swap, mint: Mint) -> Work:
        nonce = self._seeds.unseal(TAG, swap.id, swap.tag)
        inputs, claim = self._inputs(swap)
        outputs = self._seeds.outputs(swap.purse, swap.epoch, swap.keyset, swap.amounts, swap.counters, nonce)
        return Work(swap, mint, nonce, tuple(inputs), tuple(outputs), claim)

    def _inputs(self, swap: Swap) -> tuple[list[Proof], Claim | None]:
        """The coins that are swapped, or the quote whose coins are minted."""
        if swap.inputs is None:
            return [self._coins.spendable(coin) for coin in self._proofs.taken_by(swap.id)], None
        sealed = json.loads(self._seeds.unseal(INPUTS, swap.id, swap.inputs))
        if isinstance(sealed, dict):
            return [], Claim(sealed["quote"], self._seeds.quote_key(swap.id) if sealed["locked"] else None)
        return [_as_proof(row) for row in sealed], None

    async def _start(self, run: _Run, work: Work) -> Ended:
        """The first POST of a row that nobody asked about before."""
        answer = await self._post(work)
        if answer is None:
            return Ended(Verdict.EXECUTED)
        verdict = of_first_post(answer, minting=work.claim is not None)
        if verdict is not Verdict.LOOK:
            return await self._booking.close(work, Look(verdict), answer)
        return await self._recover(run, work, refused=_ended(answer), certain=_ended(answer), reason=answer)

    async def _recover(
        self, run: _Run, work: Work, *, refused: bool, certain: bool = False, reason: NoAnswer | None = None
    ) -> Ended:
        """Looks, and asks again with the same outputs, until the outcome is known.

        `refused`: the last POST did nothing. `certain`: no POST of this row can still be at work.
        """
        seen: Verdict | None = None
        for pause_s in pauses():
            look = await self._look(work, refused=refused)
            if look.verdict is Verdict.EXECUTED:
                if await self._book_restored(work, look):
                    return Ended(Verdict.EXECUTED)
            elif look.verdict is Verdict.REPEAT:
                reason = await self._post(work)
                if reason is None:
                    return Ended(Verdict.EXECUTED)
                certain = certain and _ended(reason)
                refused = was_refused(reason, certain=certain)
            elif look.verdict is not Verdict.LOOK and (certain or seen is look.verdict):
                return await self._booking.close(work, look, reason)
            seen = look.verdict
            await self._pause(run, pause_s)
        raise AssertionError("pauses end never")

    async def _pause(self, run: _Run, pause_s: float) -> None:
        """Until the next try; somebody who asks about the row shortens it."""
        if pause_s > ASIDE_AFTER_S and not run.aside and run.mint.answered != run.answered:
            self._set_aside(run)
        run.answered = run.mint.answered
        least_s = max(min(FIRST_PAUSE_S, pause_s), pause_s * LEAST_SHARE)
        await asyncio.sleep(least_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s - least_s):
                await run.hurry.wait()
        run.hurry.clear()

    def _set_aside(self, run: _Run) -> None:
        """Gives the row's place to others: not before its epoch shows at the mint that it is used (`epochs.py`)."""
        swap, others = run.swap, sum(r.aside for r, _ in self._running.values() if r.mint is run.mint)
        if others < MOST_ASIDE and self._proofs.any_of(swap.purse, swap.epoch, swap.keyset):
            log.warning("swap %s is undecided at %s: set aside", swap.id[:16], run.mint.url)
            run.aside = True
            run.mint.slots.give()

    async def _post(self, work: Work) -> NoAnswer | None:
        """Asks for the swap and books it; None: done. Smallest outputs first, so that the order tells little."""
        outputs = sorted(work.outputs, key=lambda output: output.amount)
        asked = [{"amount": o.amount, "id": work.swap.keyset, "B_": o.blinded} for o in outputs]
        try:
            if work.claim is not None:
                signatures = await quotes.issue(work.mint, work.claim, asked)
            else:
                signatures = await work.mint.swap([_as_input(proof) for proof in work.inputs], asked)
            signed = {o.blinded: s for o, s in zip(outputs, signatures, strict=True)}
            await self._booking.book(work, signed)
        except NoAnswer as answer:
            return answer
        return None

    async def _look(self, work: Work, *, refused: bool) -> Look:
        try:
            if work.claim is not None:
                states = await quotes.as_inputs(work.mint, work.claim)
            else:
                states = await work.mint.states([point_of(proof.secret) for proof in work.inputs])
            signed = await work.mint.signed(work.swap.keyset, [output.blinded for output in work.outputs])
        except NoAnswer as answer:
            log.info("swap %s: not known yet (%s)", work.swap.id[:16], answer)
            return Look(Verdict.LOOK)
        verdict = of_look(states.values(), signed, tag=work.outputs[0].blinded, refused=refused)
        return Look(verdict, states, signed)

    async def _book_restored(self, work: Work, look: Look) -> bool:
        try:
            await self._booking.book(work, look.signed)
        except NoAnswer as answer:
            log.error("swap %s: executed, but the mint's answer is wrong (%s)", work.swap.id[:16], answer)
            return False
        return True


def pauses() -> Iterator[float]:
    """How long to wait before the next try, without end: 0.2 s, doubled up to five minutes."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _ended(answer: NoAnswer) -> bool:
    """Whether the mint has told that this POST is over, and did nothing that it knows of."""
    return isinstance(answer, Coded | Uncoded)


def _as_input(proof: Proof) -> dict[str, Any]:
    row = {"id": proof.keyset, "amount": proof.amount, "secret": proof.secret, "C": proof.C}
    return row if proof.witness is None else row | {"witness": proof.witness}


def _as_proof(row: Mapping[str, Any]) -> Proof:
    return Proof(row["id"], row["amount"], row["secret"], row["C"], row.get("witness"))
