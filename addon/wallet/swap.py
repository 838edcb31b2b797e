"""A swap, run and resumed: siblings, driven by the table in `verdicts.py`.

    written down (`Journal.open`) ──> asked (POST) ──> booked (`Journal.executed`, with coins and credit)
                                          │       └──> closed (`Journal.not_executed`)
                                          └── no usable answer: looked into until it is one of the two

The row is written before the mint is asked and closed after it answered; whatever dies in between, the
same steps go on from the row alone. A row is driven by one task, which belongs to the wallet: a client
that leaves does not stop it. While its outcome is unknown it keeps its place among the mint's eight.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from addon.credentials import derive_key, fingerprint
from addon.errors import Failure, place
from addon.ledger import Journal, NewSwap, Payment, Proofs, Refund, Refunds, StoredProof, Swap, patiently
from addon.money import whole_units
from addon.tokens import Proof
from addon.wallet.answers import ProofState, Signature
from addon.wallet.coins import INPUTS, TAG, Coins
from addon.wallet.curve import is_signed_by, point_of, unblind
from addon.wallet.epochs import Epochs
from addon.wallet.mints import Mint, Mints
from addon.wallet.seeds import Output, Seeds
from addon.wallet.verdicts import Verdict, of_first_post, of_look, was_refused
from addon.wallet.wire import NoAnswer, Unknown

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 30.0

log = logging.getLogger("wallet.swap")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a row was closed. `verdict` is EXECUTED, SPENT, REFUSED or STALE; `reason`: the mint's answer."""

    verdict: Verdict
    reason: NoAnswer | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """A row with everything that driving it needs, secrets included."""

    swap: Swap
    mint: Mint
    nonce: bytes = field(repr=False)
    inputs: tuple[Proof, ...] = field(repr=False)
    outputs: tuple[Output, ...] = field(repr=False)

    @property
    def own(self) -> bool:
        return self.swap.inputs is None


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen at the mint. `states` by Y, `signed` by `B_`."""

    verdict: Verdict
    states: Mapping[str, ProofState] = field(default_factory=dict)
    signed: Mapping[str, Signature] = field(default_factory=dict)


class Swaps:
    """Drives the journal's rows, each by one task."""

    def __init__(
        self, journal: Journal, proofs: Proofs, refunds: Refunds, seeds: Seeds, mints: Mints, epochs: Epochs
    ) -> None:
        self._journal = journal
        self._proofs = proofs
        self._refunds = refunds
        self._seeds = seeds
        self._mints = mints
        self._epochs = epochs
        self._coins = Coins(seeds)
        self._running: dict[str, asyncio.Task[Ended]] = {}
        self._hurry: dict[str, asyncio.Event] = {}

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
            self._hurry[swap_id].set()
            return self._running[swap_id]
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
        self._hurry[swap.id] = asyncio.Event()
        task = self._running[swap.id] = asyncio.create_task(self._drive(swap, mint, first=first))

        def over(_: asyncio.Task[Ended]) -> None:
            del self._running[swap.id], self._hurry[swap.id]
            mint.slots.give()

        task.add_done_callback(over)
        return task

    async def _drive(self, swap: Swap, mint: Mint, *, first: bool) -> Ended:
        """Until the row is closed. A fault of ours (a full disk) leaves the row open, and is tried again."""
        for pause_s in pauses():
            try:
                work = self._prepare(swap, mint)
                ended = await (self._start(work) if first else self._recover(work, refused=False, certain=False))
                log.info("swap %s (%s): %s", swap.id[:16], swap.purpose, ended.verdict.value)
                return ended
            except Exception as error:
                log.error("swap %s goes on later: %s", swap.id[:16], place(error))
            first = False
            await self._pause(swap.id, pause_s)
        raise AssertionError("pauses end never")

    def _prepare(self, swap: Swap, mint: Mint) -> _Work:
        nonce = self._seeds.unseal(TAG, swap.id, swap.tag)
        if swap.inputs is None:
            inputs = [self._coins.spendable(coin) for coin in self._proofs.taken_by(swap.id)]
        else:
            inputs = [_as_proof(row) for row in json.loads(self._seeds.unseal(INPUTS, swap.id, swap.inputs))]
        outputs = self._seeds.outputs(swap.purse, swap.epoch, swap.keyset, swap.amounts, swap.counters, nonce)
        return _Work(swap, mint, nonce, tuple(inputs), tuple(outputs))

    async def _start(self, work: _Work) -> Ended:
        """The first POST of a row that nobody asked about before."""
        answer = await self._post(work)
        if answer is None:
            return Ended(Verdict.EXECUTED)
        verdict = of_first_post(answer, own=work.own)
        if verdict is not Verdict.LOOK:
            return await self._close(work, _Look(verdict), answer)
        refused = was_refused(answer, first=True)
        return await self._recover(work, refused=refused, certain=refused, reason=answer)

    async def _recover(self, work: _Work, *, refused: bool, certain: bool, reason: NoAnswer | None = None) -> Ended:
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
                refused, certain = was_refused(reason, first=False), False
            elif look.verdict is not Verdict.LOOK and (certain or seen is look.verdict):
                return await self._close(work, look, reason)
            seen = look.verdict
            await self._pause(work.swap.id, pause_s)
        raise AssertionError("pauses end never")

    async def _pause(self, swap_id: str, pause_s: float) -> None:
        """Until the next try; somebody who asks about the row shortens it."""
        hurry = self._hurry[swap_id]
        await asyncio.sleep(min(FIRST_PAUSE_S, pause_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s - FIRST_PAUSE_S):
                await hurry.wait()
        hurry.clear()

    async def _post(self, work: _Work) -> NoAnswer | None:
        """Asks for the swap and books it; None: done. Smallest outputs first, so that the order tells little."""
        outputs = sorted(work.outputs, key=lambda output: output.amount)
        asked = [{"amount": o.amount, "id": work.swap.keyset, "B_": o.blinded} for o in outputs]
        try:
            signatures = await work.mint.swap([_as_input(proof) for proof in work.inputs], asked)
            signed = {o.blinded: s for o, s in zip(outputs, signatures, strict=True)}
            await self._book(work, signed)
        except NoAnswer as answer:
            return answer
        return None

    async def _look(self, work: _Work, *, refused: bool) -> _Look:
        try:
            states = await work.mint.states([point_of(proof.secret) for proof in work.inputs])
            signed = await work.mint.signed(work.swap.keyset, [output.blinded for output in work.outputs])
        except NoAnswer as answer:
            log.info("swap %s: not known yet (%s)", work.swap.id[:16], answer)
            return _Look(Verdict.LOOK)
        verdict = of_look(states.values(), signed, tag=work.outputs[0].blinded, refused=refused)
        return _Look(verdict, states, signed)

    # --- booking ------------------------------------------------------------------------------------

    async def _book_restored(self, work: _Work, look: _Look) -> bool:
        try:
            await self._book(work, look.signed)
        except NoAnswer as answer:
            log.error("swap %s: executed, but the mint's answer is wrong (%s)", work.swap.id[:16], answer)
            return False
        return True

    async def _book(self, work: _Work, signed: Mapping[str, Signature]) -> None:
        """Verifies what came back, then stores and credits it, at once. Raises NoAnswer when it is not right."""
        try:
            facts = await work.mint.facts()
        except Failure:
            raise Unknown("the mint's keys cannot be had") from None
        keyset, swap = facts.keysets.get(work.swap.keyset), work.swap
        if keyset is None:
            raise Unknown("the mint's keyset is gone")
        coins = [
            (o, _unblinded(o, signed.get(o.blinded), keyset.keys, swap.keyset, facts.proves)) for o in work.outputs
        ]
        stored = [self._coins.stored(swap.purse, swap.epoch, swap.keyset, o, C, work.nonce) for o, C in coins]
        payment = self._payment(swap, stored, [Proof(swap.keyset, o.amount, o.secret, C) for o, C in coins])
        key_hash = self._key_hash(swap)
        await patiently(lambda: self._journal.executed(swap, stored, key_hash=key_hash, payment=payment))

    def _key_hash(self, swap: Swap) -> str | None:
        if swap.purpose != "key" or swap.account is None:
            return None
        return fingerprint(derive_key(self._seeds.key_secret, swap.account, 0))

    def _payment(self, swap: Swap, stored: Sequence[StoredProof], coins: Sequence[Proof]) -> Payment | None:
        """What pays the refund that a swap of our own was made for: its first outputs, the tag among them."""
        refund = self._refunds.find(swap.cause) if swap.purpose == "refund" and swap.cause else None
        if refund is None or refund.state != "open":
            return None
        count = _leading(swap.amounts, whole_units(refund.amount_msat, refund.purse.unit))
        return self.payment(refund, stored[:count], coins[:count])

    def payment(self, refund: Refund, stored: Sequence[StoredProof], coins: Sequence[Proof]) -> Payment:
        """These coins as a refund's token, sealed before anybody is told."""
        token = self._coins.token(refund.purse, coins)
        return Payment(refund.id, tuple(coin.Y for coin in stored), self._coins.seal_token(refund, token))

    async def _close(self, work: _Work, look: _Look, reason: NoAnswer | None) -> Ended:
        """The mint did not execute it. Our own coins that it holds spent are lost; a client's row is final."""
        swap, verdict = work.swap, look.verdict
        foreign = bool(look.signed)
        if verdict is Verdict.SPENT and not work.own:
            await patiently(lambda: self._journal.not_executed(swap, "spent", reuse_counters=not foreign))
        else:
            lost = [y for y, state in look.states.items() if state == "SPENT"]
            await patiently(lambda: self._journal.not_executed(swap, "refused", reuse_counters=not foreign, lost=lost))
        if foreign:
            return await self._leave_epoch(work, verdict)
        return Ended(verdict, reason)

    async def _leave_epoch(self, work: _Work, verdict: Verdict) -> Ended:
        try:
            await self._epochs.leave(work.mint, work.swap.purse, work.swap.epoch)
        except (NoAnswer, Failure) as error:
            return Ended(Verdict.REFUSED, error if isinstance(error, NoAnswer) else None)
        return Ended(verdict)


def pauses() -> Iterator[float]:
    """How long to wait before the next try, without end: 0.2 s, doubled up to half a minute."""
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _leading(amounts: Sequence[int], target: int) -> int:
    """How many of the first amounts sum to `target`."""
    total = 0
    for count, amount in enumerate(amounts, 1):
        total += amount
        if total == target:
            return count
    raise Unknown("the outputs do not begin with the refund's amount")


def _unblinded(output: Output, signature: Signature | None, keys: Mapping[int, str], keyset: str, proves: bool) -> str:
    """The `C` of a signed output. Raises Unknown for a signature on anything but what was asked for."""
    if signature is None or signature.amount != output.amount or signature.id != keyset:
        raise Unknown("a signature is missing, or for another amount or keyset")
    key = keys.get(output.amount)
    if key is None:
        raise Unknown("the keyset has no key for an amount that it signed")
    if signature.dleq is None:
        if proves:
            raise Unknown("a signature without its proof")
    elif not is_signed_by(output.blinded, signature.C_, signature.dleq.e, signature.dleq.s, key):
        raise Unknown("a signature that is not the mint's")
    try:
        return unblind(signature.C_, output.factor, key)
    except ValueError:
        raise Unknown("a signature that is no point") from None


def _as_input(proof: Proof) -> dict[str, Any]:
    row = {"id": proof.keyset, "amount": proof.amount, "secret": proof.secret, "C": proof.C}
    return row if proof.witness is None else row | {"witness": proof.witness}


def _as_proof(row: Mapping[str, Any]) -> Proof:
    return Proof(row["id"], row["amount"], row["secret"], row["C"], row.get("witness"))
