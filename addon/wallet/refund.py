"""An account's money back, as a token: debited first, then paid from one mint, then told; told again as it was.

    refund open (debited, owed) ──> coins in hand sum to it exactly: paid, one transaction
                                ├─> else a swap of our own coins: paid in the transaction that books the swap
                                └─> neither, any more: back to the account, and opened anew

Nothing is handed out that the mint holds spent: it is asked before coins leave (another life of this
directory may have spent them). A swap's fee comes out of what the operator earned at that mint, and is looked
at again in the step that writes the swap down; what that cannot bear comes out of the account itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from addon.errors import (
    Failure,
    FeesExceedToken,
    MintUnreachable,
    NoBalance,
    OutcomeUnknown,
    RequestsRunning,
)
from addon.ledger import (
    REQUESTS_RUNNING,
    CoinsMoved,
    Journal,
    NewSwap,
    Proofs,
    Purse,
    Refund,
    Refunds,
    Reports,
    Solvency,
    StoredProof,
    Swap,
    patiently,
)
from addon.money import to_msat, whole_units
from addon.treasury import Refunded
from addon.wallet import ways
from addon.wallet.booking import Booking, Ended
from addon.wallet.coins import Coins
from addon.wallet.epochs import Epochs
from addon.wallet.mints import Facts, Mint, Mints
from addon.wallet.seeds import NONCE_BYTES
from addon.wallet.slots import KeyedLocks
from addon.wallet.split import split
from addon.wallet.swap import Swaps
from addon.wallet.ways import Way
from addon.wallet.wire import NoAnswer, RateLimited, Unreachable

LIMIT_S: Final = 10.0
TURN_S: Final = 3.0
"""For one mint, as long as another one may have to be asked as well."""
TRIES: Final = 5
NO_BALANCE: Final = "No balance to refund"
"""The exact text that clients match."""
OWED: Final = (
    "The refund is taken off the account and owed, but the mint did not answer in time; ask again in a moment."
)

log = logging.getLogger("wallet.refund")


class Refunder:
    """Pays accounts back."""

    def __init__(
        self, journal: Journal, proofs: Proofs, refunds: Refunds, reports: Reports, coins: Coins, mints: Mints,
        epochs: Epochs, swaps: Swaps, booking: Booking, solvency: Callable[[], Sequence[Solvency]],
        melting: Callable[[Purse], Sequence[asyncio.Task[None]]],
    ) -> None:  # fmt: skip
        self._journal = journal
        self._proofs = proofs
        self._refunds = refunds
        self._reports = reports
        self._coins = coins
        self._mints = mints
        self._epochs = epochs
        self._swaps = swaps
        self._booking = booking
        self._solvency = solvency
        self._melting = melting
        self._accounts = KeyedLocks()
        self._paying = KeyedLocks()
        self._choosing = KeyedLocks()

    async def refund(self, account: str) -> Refunded:
        """Pays what is free on an account from the mint where it has most, or tells again what was told last.

        Raises NoBalance, RequestsRunning, MintError; OutcomeUnknown while money of the account is on its way.
        """
        try:
            async with asyncio.timeout(LIMIT_S), self._accounts(account):
                paid, failure = await self._paid(account)
                waiting = await self._unclaimed(self._refunds.answered(account, before_top_up=True))
                if failure and not waiting and not await self._unclaimed(self._refunds.answered(account)):
                    raise failure
                return self._told(account, paid, waiting)
        except TimeoutError:
            raise (MintUnreachable(OWED) if self._refunds.open_refunds(account) else _on_its_way()) from None

    async def _paid(self, account: str) -> tuple[set[str], Failure | None]:
        """The refunds that were paid now; or why none was, although money is owed, or on its way."""
        settled = await self._settled(account)
        owed = self._refunds.open_refunds(account)
        failures = await asyncio.gather(*[self._tried(refund) for refund in owed])
        stuck = {r.purse: failure for r, failure in zip(owed, failures, strict=True) if failure is not None}
        try:
            paid = self._done(owed) or await self._afresh(account, stuck)
        except RequestsRunning:
            raise
        except Failure as failure:
            return set(), failure
        return paid, None if paid else next(iter(stuck.values()), None if settled else _on_its_way())

    async def pay(self, refund: Refund) -> None:
        """Drives one open refund to its end: paid, or given back. Raises Failure: still owed."""
        async with self._paying(refund.id):
            mint = self._mints.at(refund.purse.mint)
            for _ in range(TRIES):
                row = self._refunds.find(refund.id)
                if row is None or row.state != "open":
                    return
                tasks = self._resumed(self._journal.open_swaps_of(cause=refund.id))
                if tasks:
                    await asyncio.wait(tasks)
                else:
                    await self._pay_once(mint, row)
        raise MintUnreachable(OWED)

    # --- deciding -----------------------------------------------------------------------------------

    async def _settled(self, account: str) -> bool:
        """Whether nothing that brings this account money is open, after a while: else we might say it has none."""
        tasks = self._resumed(self._journal.open_swaps_of(account=account))
        if tasks:
            await asyncio.wait(tasks, timeout=TURN_S)
        return not self._journal.open_swaps_of(account=account)

    def _resumed(self, swaps: Sequence[Swap]) -> list[asyncio.Task[Ended]]:
        return [task for swap in swaps if (task := self._swaps.resume(swap.id)) is not None]

    async def _tried(self, refund: Refund) -> Failure | None:
        """Pays what is owed already; why not, if its mint does not let us: other mints may pay meanwhile."""
        try:
            async with asyncio.timeout(TURN_S):
                await self.pay(refund)
        except TimeoutError:
            return MintUnreachable(OWED)
        except Failure as failure:
            return failure
        return None

    async def _afresh(self, account: str, stuck: Mapping[Purse, Failure]) -> set[str]:
        """A new refund, opened and paid; opened again where coins moved in between. Empty: nothing is payable."""
        for _ in range(TRIES):
            fresh = await self._open(account, stuck)
            if fresh is None:
                break
            await self.pay(fresh)
            if paid := self._done([fresh]):
                return paid
        return set()

    def _done(self, refunds: Sequence[Refund]) -> set[str]:
        found = [self._refunds.find(refund.id) for refund in refunds]
        return {row.id for row in found if row is not None and row.state == "done"}

    async def _open(self, account: str, stuck: Mapping[Purse, Failure]) -> Refund | None:
        """Debits what can be paid now; None: nothing can. Raises Failure when a mint that owes is no help."""
        row, away = self._reports.account(account), None
        if row is not None and row.held_msat:
            raise RequestsRunning(REQUESTS_RUNNING)
        for purse, room_msat in self._refunds.rooms(account):
            wanted = 0 if purse in stuck else whole_units(room_msat, purse.unit)
            try:
                amount, fee = await self._payable(purse, wanted) if wanted else (0, 0)
            except Failure as failure:
                away = away or failure
                continue
            if amount:
                taken = to_msat(amount, purse.unit), to_msat(fee, purse.unit)
                return await patiently(partial(self._refunds.open, account, purse, *taken))
        if away is not None:
            raise away
        return None

    async def _payable(self, purse: Purse, wanted: int) -> tuple[int, int]:
        """How much of `wanted` can be paid now, and what of the swap's fee the account bears.

        Coins that are being changed are waited for: else we might say that there are none.
        """
        try:
            async with asyncio.timeout(TURN_S):
                facts = await self._mints.at(purse.mint).opened()
        except TimeoutError:
            raise MintUnreachable(f"The mint {purse.mint} takes too long to answer; try again later.") from None
        amount, fee = self._best(facts, purse, wanted)
        if amount < wanted and await self._changed(purse):
            amount, fee = self._best(facts, purse, wanted)
        if not amount and (self._journal.changing(purse) or self._melting(purse)):
            raise MintUnreachable("Coins of this node are being changed at that mint; ask again in a moment.")
        return amount, fee

    def _best(self, facts: Facts, purse: Purse, wanted: int) -> tuple[int, int]:
        coins = self._at_hand(purse)
        free = ways.as_they_are(facts, coins, wanted)
        if free.amount == wanted:
            return wanted, 0
        surplus = self._surplus(purse)
        shared = ways.shared_fee(facts, coins, wanted, surplus)
        if shared is None or shared.amount <= free.amount:
            return free.amount, 0
        return shared.amount, max(0, shared.fee - surplus)

    def _at_hand(self, purse: Purse) -> list[StoredProof]:
        return self._proofs.unspent(purse, most_each=ways.MOST_INPUTS)

    async def _changed(self, purse: Purse) -> bool:
        """Waits a while for the swaps and payments that have coins of a purse; whether there were any."""
        tasks: list[asyncio.Task[Any]] = [*self._resumed(self._journal.changing(purse)), *self._melting(purse)]
        if tasks:
            await asyncio.wait(tasks, timeout=TURN_S)
        return bool(tasks)

    def _surplus(self, purse: Purse) -> int:
        """Whole units at a mint that are owed to nobody."""
        surplus_msat = next((s.surplus_msat for s in self._solvency() if s.purse == purse), 0)
        return whole_units(max(0, surplus_msat), purse.unit)

    async def _unclaimed(self, refunds: Sequence[Refund]) -> list[Refund]:
        """Those whose coins nobody claimed, as far as their mints tell: their answer may have been lost."""
        coins = {refund.id: [coin.Y for coin in self._proofs.taken_by(refund.id)] for refund in refunds}
        unspent: set[str] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN_S):
                for mint in {refund.purse.mint for refund in refunds}:
                    ys = [y for refund in refunds if refund.purse.mint == mint for y in coins[refund.id]]
                    with contextlib.suppress(NoAnswer):
                        states = await self._mints.at(mint).states(ys)
                        unspent |= {y for y, state in states.items() if state == "UNSPENT"}
        return [refund for refund in refunds if unspent.issuperset(coins[refund.id])]

    def _told(self, account: str, paid: set[str], unclaimed: Sequence[Refund]) -> Refunded:
        """What was paid now, and since the last top-up (one may have come in meanwhile); and what waits unclaimed."""
        earlier = [refund for refund in self._refunds.answered(account) if refund.id not in paid]
        now = [found for refund_id in sorted(paid) if (found := self._refunds.find(refund_id)) is not None]
        waiting = [refund for refund in unclaimed if refund.id not in paid]
        answered = [*waiting, *earlier, *now]
        if not answered:
            if any(whole_units(room, purse.unit) for purse, room in self._refunds.rooms(account)):
                raise FeesExceedToken(
                    "What is left cannot be paid out now: the mint's fee would take it. It stays on the key."
                )
            raise NoBalance(NO_BALANCE)
        last, tokens = answered[-1], tuple(self._coins.open_token(refund) for refund in answered)
        return Refunded(
            token=tokens[-1], tokens=tokens, unit=last.purse.unit,
            amount=whole_units(last.amount_msat, last.purse.unit), amount_msat=last.amount_msat,
        )  # fmt: skip

    # --- paying -------------------------------------------------------------------------------------

    async def _pay_once(self, mint: Mint, refund: Refund) -> None:
        """One try: from coins in hand, by a swap, or given back. Returns also when it has to be tried again."""
        wanted = whole_units(refund.amount_msat, refund.purse.unit)
        try:
            facts = await mint.facts()
            if ways.as_they_are(facts, self._at_hand(refund.purse), wanted).amount == wanted:
                await self._pay_from_hand(mint, facts, refund)
            elif not await self._pay_by_swap(mint, facts, refund) and not await self._changed(refund.purse):
                log.info("refund %s goes back to its account: it cannot be paid as it was opened", refund.id)
                await patiently(lambda: self._refunds.give_back(refund))
        except NoAnswer as reason:
            log.info("refund %s waits: %s", refund.id, reason)
            raise MintUnreachable(OWED) from None
        except CoinsMoved:
            return

    async def _pay_from_hand(self, mint: Mint, facts: Facts, refund: Refund) -> None:
        """Coins that sum to it, none of them worthless. Refunds of one purse take turns, so that they differ."""
        wanted = whole_units(refund.amount_msat, refund.purse.unit)
        async with self._choosing(refund.purse):
            way = ways.as_they_are(facts, self._at_hand(refund.purse), wanted)
            if way.amount != wanted:
                return
            states = await mint.states([coin.Y for coin in way.coins])
            if set(states.values()) != {"UNSPENT"}:
                await self._lose(mint, [y for y, state in states.items() if state == "SPENT"])
                return
            coins = [self._coins.spendable(coin) for coin in way.coins]
            payment = self._booking.payment(refund, way.coins, coins)
            await patiently(lambda: self._refunds.pay(payment))

    async def _lose(self, mint: Mint, ys: Sequence[str]) -> None:
        """What another life of this node spent is lost; the audit shows it."""
        log.error("%d coins of %s were spent elsewhere: is a copy of this node running?", len(ys), mint.url)
        await patiently(lambda: self._journal.lose(ys))

    async def _pay_by_swap(self, mint: Mint, facts: Facts, refund: Refund) -> bool:
        """False: coins and surplus do not suffice for it now. The fee is judged in the step that spends it."""
        epoch, short = await self._epochs.current(mint, refund.purse), False
        wanted = whole_units(refund.amount_msat, refund.purse.unit)

        def plan() -> NewSwap | None:
            nonlocal short
            way = ways.changed(facts, self._at_hand(refund.purse), wanted)
            short = way is None or way.fee > self._surplus(refund.purse)
            return None if way is None or short else self._new_swap(facts, refund, way, epoch)

        task = await self._swaps.begin(mint, plan)
        ended = None if task is None else await asyncio.shield(task)
        if ended is not None and ended.reason is not None:
            log.warning("refund %s: our coins were not changed (%s)", refund.id, ended.reason)
            if isinstance(ended.reason, Unreachable | RateLimited):
                raise ended.reason
            await mint.facts(at_most_old_s=0)  # its keysets may be others now
        return not short

    def _new_swap(self, facts: Facts, refund: Refund, way: Way, epoch: int) -> NewSwap:
        """The refund's amount first, the tag in it (so that tags are spent soonest); then what is left for us."""
        keyset, purse, face = facts.active(refund.purse.unit), refund.purse, sum(coin.amount for coin in way.coins)
        paid = (1, *split(way.amount - 1, keyset.denominations))
        kept = split(face - way.fee - way.amount, keyset.denominations)
        swap_id = secrets.token_hex(32)
        return NewSwap(
            id=swap_id, purpose="refund", purse=purse, face=face, fee=way.fee, amounts=(*paid, *kept),
            keyset=keyset.id, epoch=epoch, tag=self._swaps.seal_tag(swap_id, secrets.token_bytes(NONCE_BYTES)),
            ys=tuple(coin.Y for coin in way.coins), cause=refund.id,
        )  # fmt: skip


def _on_its_way() -> Failure:
    return OutcomeUnknown("Money of this key is still on its way from a mint; ask again in a few seconds.")
