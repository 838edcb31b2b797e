"""What an answered swap means for the ledger: signatures verified, coins stored, credit or refund booked; or closed.

Each end is one transaction of the journal. Nothing here asks a mint for a swap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from addon.credentials import derive_key, fingerprint
from addon.errors import Failure
from addon.ledger import Journal, Payment, Refund, Refunds, StoredProof, Swap, patiently
from addon.money import whole_units
from addon.tokens import Proof
from addon.wallet.answers import ProofState, Signature
from addon.wallet.coins import Coins
from addon.wallet.curve import is_signed_by, unblind
from addon.wallet.epochs import Epochs
from addon.wallet.mints import Mint
from addon.wallet.quotes import Claim
from addon.wallet.seeds import Output, Seeds
from addon.wallet.verdicts import Verdict
from addon.wallet.wire import NoAnswer, Unknown


@dataclass(frozen=True, slots=True)
class Ended:
    """How a row was closed. `verdict` is EXECUTED, SPENT, REFUSED or STALE; `reason`: the mint's answer."""

    verdict: Verdict
    reason: NoAnswer | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """A row with everything that driving it needs, secrets included."""

    swap: Swap
    mint: Mint
    nonce: bytes = field(repr=False)
    inputs: tuple[Proof, ...] = field(repr=False)
    outputs: tuple[Output, ...] = field(repr=False)
    claim: Claim | None = field(default=None, repr=False)
    """In place of the inputs: the paid quote whose coins are minted."""

    @property
    def own(self) -> bool:
        return self.swap.inputs is None


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at the mint. `states` by Y, `signed` by `B_`."""

    verdict: Verdict
    states: Mapping[str, ProofState] = field(default_factory=dict)
    signed: Mapping[str, Signature] = field(default_factory=dict)


class Booking:
    """Writes down how swaps ended."""

    def __init__(self, journal: Journal, refunds: Refunds, seeds: Seeds, coins: Coins, epochs: Epochs) -> None:
        self._journal = journal
        self._refunds = refunds
        self._seeds = seeds
        self._coins = coins
        self._epochs = epochs

    async def book(self, work: Work, signed: Mapping[str, Signature]) -> None:
        """Verifies what came back, then stores and credits it, at once. Raises NoAnswer when it is not right."""
        try:
            facts = await work.mint.facts()
        except Failure:
            raise Unknown("the mint's keys cannot be had") from None
        keyset, swap = facts.keysets.get(work.swap.keyset), work.swap
        if keyset is None:
            raise Unknown("the mint's keyset is gone")
        coins = [(o, unblinded(o, signed.get(o.blinded), keyset.keys, swap.keyset, facts.proves)) for o in work.outputs]
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

    async def close(self, work: Work, look: Look, reason: NoAnswer | None) -> Ended:
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

    async def _leave_epoch(self, work: Work, verdict: Verdict) -> Ended:
        try:
            await self._epochs.leave(work.mint, work.swap.purse, work.swap.epoch)
        except (NoAnswer, Failure) as error:
            return Ended(Verdict.REFUSED, error if isinstance(error, NoAnswer) else None)
        return Ended(verdict)


def _leading(amounts: Sequence[int], target: int) -> int:
    """How many of the first amounts sum to `target`."""
    total = 0
    for count, amount in enumerate(amounts, 1):
        total += amount
        if total == target:
            return count
    raise Unknown("the outputs do not begin with the refund's amount")


def unblinded(output: Output, signature: Signature | None, keys: Mapping[int, str], keyset: str, proves: bool) -> str:
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
