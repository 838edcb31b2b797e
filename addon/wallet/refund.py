"""An account's money back, as a token: debited first, then paid from one mint, then told; told again as it was.

    refund open (debited, owed) ──> coins in hand sum to it exactly: paid, one transaction
                                └─> else a swap of our own coins: paid in the transaction that books the swap

Nothing is handed out that the mint holds spent: it is asked before coins leave (another life of this
directory may have spent them). A swap's fee comes out of what the operator earned; where that is too
little, less is paid now and the rest stays on the account.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from addon.errors import (
    Failure,
    MintError,
    MintUnreachable,
    NoBalance,
    OutcomeUnknown,
    RequestsRunning,
    WalletUnavailable,
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
from addon.wallet.coins import Coins
from addon.wallet.epochs import Epochs
from addon.wallet.mints import Facts, Mint, Mints
from addon.wallet.seeds import NONCE_BYTES
from addon.wallet.slots import KeyedLocks
from addon.wallet.split import enough, greatest_below, split
from addon.wallet.swap import Ended, Swaps
from addon.wallet.wire import NoAnswer, RateLimited, Unreachable

LIMIT_S: Final = 10.0
SETTLE_S: Final = 5.0
MOST_COINS: Final = 60
"""In one token: it has to fit into headers, and into the decoders of others."""
MOST_INPUTS: Final = 200
TRIES: Final = 5
NO_BALANCE: Final = "No balance to refund"
"""The exact text that clients match."""
OWED: Final = (
    "The refund is taken off the account and owed, but the mint did not answer in time; ask again in a moment."
)

log = logging.getLogger("wallet.refund")


@dataclass(frozen=True, slots=True)
class _Way:
    """How an amount (in the purse's unit) can be paid: these coins as they are, or swapped first."""

    amount: int
    coins: tuple[StoredProof, ...]
    swapped: bool


class Refunder:
    """Pays accounts back."""

    def __init__(
        self, journal: Journal, proofs: Proofs, refunds: Refunds, reports: Reports, coins: Coins, mints: Mints,
        epochs: Epochs, swaps: Swaps, solvency: Callable[[], Sequence[Solvency]],
    ) -> None:  # fmt: skip
        self._journal = journal
        self._proofs = proofs
        self._refunds = refunds
        self._reports = reports
        self._coins = coins
        self._mints = mints
        self._epochs = epochs
        self._swaps = swaps
        self._solvency = solvency
        self._accounts = KeyedLocks()
        self._paying = KeyedLocks()
        self._choosing = KeyedLocks()

    async def refund(self, account: str) -> Refunded:
        """Pays what is free on an account from the mint where it has most, or tells again what was told last.

        Raises NoBalance, RequestsRunning, MintError; OutcomeUnknown while money of the account is on its way.
        """
        owing = False
        try:
            async with asyncio.timeout(LIMIT_S), self._accounts(account):
                settled = await self._settled(account)
                owed = self._refunds.open_refunds(account)
                owing = bool(owed)
                failures = [await self._tried(refund) for refund in owed]
                paid = {refund.id for refund, failure in zip(owed, failures, strict=True) if failure is None}
                if not paid:
                    fresh = await self._open(account, {refund.purse for refund in owed})
                    if fresh is not None:
                        owing = True
                        await self.pay(fresh)
                        paid = {fresh.id}
                    elif owed:
                        raise failures[0] or MintUnreachable(OWED)
                    elif not settled:
                        raise _on_its_way()
                return self._told(account, paid)
        except TimeoutError:
            raise (MintUnreachable(OWED) if owing else _on_its_way()) from None

    async def pay(self, refund: Refund) -> None:
        """Drives one open refund to its end. Raises Failure: still owed."""
        async with self._paying(refund.id):
            mint = self._mints.at(refund.purse.mint)
            for _ in range(TRIES):
                row = self._refunds.find(refund.id)
                if row is None or row.state == "done":
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
            await asyncio.wait(tasks, timeout=SETTLE_S)
        return not self._journal.open_swaps_of(account=account)

    def _resumed(self, swaps: Sequence[Swap]) -> list[asyncio.Task[Ended]]:
        return [task for swap in swaps if (task := self._swaps.resume(swap.id)) is not None]

    async def _tried(self, refund: Refund) -> Failure | None:
        """Pays what is owed already; why not, if its mint does not let us: other mints may pay meanwhile."""
        try:
            await self.pay(refund)
        except Failure as failure:
            return failure
        return None

    async def _open(self, account: str, but: Collection[Purse]) -> Refund | None:
        """Debits what can be paid now; None: nothing can. Raises MintError when a mint that owes is out of reach."""
        row, away = self._reports.account(account), None
        if row is not None and row.held_msat:
            raise RequestsRunning(REQUESTS_RUNNING)
        for purse, room_msat in self._refunds.rooms(account):
            wanted = 0 if purse in but else whole_units(room_msat, purse.unit)
            try:
                amount = await self._payable(purse, wanted) if wanted else 0
            except MintError as failure:
                away = away or failure
                continue
            if amount:
                debit = partial(self._refunds.open, account, purse, to_msat(amount, purse.unit))
                return await patiently(debit)
        if away is not None:
            raise away
        return None

    async def _payable(self, purse: Purse, wanted: int) -> int:
        """How much of `wanted` can be paid now, if need be with a swap whose fee the operator's surplus covers."""
        facts = await self._mints.at(purse.mint).opened()
        free = self._way(facts, purse, wanted, fee_limit=0)
        if free.amount == wanted:
            return wanted
        surplus_msat = next((s.surplus_msat for s in self._solvency() if s.purse == purse), 0)
        return self._way(facts, purse, wanted, whole_units(max(0, surplus_msat), purse.unit)).amount

    def _way(self, facts: Facts, purse: Purse, wanted: int, fee_limit: int | None) -> _Way:
        """The best way to pay up to `wanted`; exactly that, or the swap's fee is above `fee_limit` (None: any)."""
        coins = _tags_first(self._proofs.unspent(purse))
        exact = greatest_below(coins, wanted, _amount)[:MOST_COINS]
        paid = sum(map(_amount, exact))
        if paid < wanted:
            inputs = enough(coins, wanted, _amount, lambda chosen: _fee(facts, chosen))
            if inputs and len(inputs) <= MOST_INPUTS and (fee_limit is None or _fee(facts, inputs) <= fee_limit):
                return _Way(wanted, tuple(inputs), swapped=True)
        return _Way(paid, tuple(exact), swapped=False)

    def _told(self, account: str, paid: set[str]) -> Refunded:
        """What was paid now, and since the last top-up: one may have come in while this was paid."""
        earlier = [refund for refund in self._refunds.answered(account) if refund.id not in paid]
        now = [found for refund_id in sorted(paid) if (found := self._refunds.find(refund_id)) is not None]
        answered = [*earlier, *now]
        if not answered:
            raise NoBalance(NO_BALANCE)
        last, tokens = answered[-1], tuple(self._coins.open_token(refund) for refund in answered)
        return Refunded(
            token=tokens[-1], tokens=tokens, unit=last.purse.unit,
            amount=whole_units(last.amount_msat, last.purse.unit), amount_msat=last.amount_msat,
        )  # fmt: skip

    # --- paying -------------------------------------------------------------------------------------

    async def _pay_once(self, mint: Mint, refund: Refund) -> None:
        """One try: from coins in hand, or by a swap. Returns also when it has to be tried again."""
        try:
            facts, wanted = await mint.facts(), whole_units(refund.amount_msat, refund.purse.unit)
            way = self._way(facts, refund.purse, wanted, None)
            if way.amount != wanted:
                raise WalletUnavailable("This node is short of coins at that mint: the refund is noted, and owed.")
            if way.swapped:
                await self._pay_by_swap(mint, facts, refund)
            else:
                await self._pay_from_hand(mint, facts, refund)
        except NoAnswer as reason:
            log.info("refund %s waits: %s", refund.id, reason)
            raise MintUnreachable(OWED) from None
        except CoinsMoved:
            return

    async def _pay_from_hand(self, mint: Mint, facts: Facts, refund: Refund) -> None:
        """Coins that sum to it, none of them worthless. Refunds of one purse take turns, so that they differ."""
        async with self._choosing(refund.purse):
            way = self._way(facts, refund.purse, whole_units(refund.amount_msat, refund.purse.unit), 0)
            if way.swapped or to_msat(way.amount, refund.purse.unit) != refund.amount_msat:
                return
            states = await mint.states([coin.Y for coin in way.coins])
            if set(states.values()) != {"UNSPENT"}:
                await self._lose(mint, [y for y, state in states.items() if state == "SPENT"])
                return
            coins = [self._coins.spendable(coin) for coin in way.coins]
            payment = self._swaps.payment(refund, way.coins, coins)
            await patiently(lambda: self._refunds.pay(payment))

    async def _lose(self, mint: Mint, ys: Sequence[str]) -> None:
        """What another life of this node spent is lost; the audit shows it."""
        log.error("%d coins of %s were spent elsewhere: is a copy of this node running?", len(ys), mint.url)
        await patiently(lambda: self._journal.lose(ys))

    async def _pay_by_swap(self, mint: Mint, facts: Facts, refund: Refund) -> None:
        epoch, wanted = (
            await self._epochs.current(mint, refund.purse),
            whole_units(refund.amount_msat, refund.purse.unit),
        )

        def plan() -> NewSwap | None:
            way = self._way(facts, refund.purse, wanted, None)
            return self._new_swap(facts, refund, way, epoch) if way.swapped else None

        task = await self._swaps.begin(mint, plan)
        ended = None if task is None else await asyncio.shield(task)
        if ended is None or ended.reason is None:
            return
        log.warning("refund %s: our coins were not changed (%s)", refund.id, ended.reason)
        if isinstance(ended.reason, Unreachable | RateLimited):
            raise ended.reason
        await mint.facts(at_most_old_s=0)  # its keysets may be others now

    def _new_swap(self, facts: Facts, refund: Refund, way: _Way, epoch: int) -> NewSwap:
        """The refund's amount first, the tag in it (so that tags are spent soonest); then what is left for us."""
        keyset, purse = facts.active(refund.purse.unit), refund.purse
        face, fee = sum(map(_amount, way.coins)), _fee(facts, way.coins)
        paid = (1, *split(way.amount - 1, keyset.denominations))
        kept = split(face - fee - way.amount, keyset.denominations)
        swap_id = secrets.token_hex(32)
        return NewSwap(
            id=swap_id, purpose="refund", purse=purse, face=face, fee=fee, amounts=(*paid, *kept), keyset=keyset.id,
            epoch=epoch, tag=self._swaps.seal_tag(swap_id, secrets.token_bytes(NONCE_BYTES)),
            ys=tuple(coin.Y for coin in way.coins), cause=refund.id,
        )  # fmt: skip


def _on_its_way() -> Failure:
    return OutcomeUnknown("Money of this key is still on its way from a mint; ask again in a few seconds.")


def _tags_first(coins: Sequence[StoredProof]) -> list[StoredProof]:
    """Recovery from the NSEC does not find tags: among equal coins they are spent first."""
    return sorted(coins, key=lambda coin: coin.counter is not None)


def _amount(coin: StoredProof) -> int:
    return coin.amount


def _fee(facts: Facts, coins: Sequence[StoredProof]) -> int:
    return facts.fee(coin.keyset for coin in coins)
