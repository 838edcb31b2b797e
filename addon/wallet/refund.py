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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from addon.errors import Failure, MintUnreachable, NoBalance, OutcomeUnknown, RequestsRunning, WalletUnavailable
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
from addon.wallet.swap import Swaps
from addon.wallet.wire import NoAnswer, RateLimited, Unreachable

LIMIT_S: Final = 10.0
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
        opened = False
        try:
            async with asyncio.timeout(LIMIT_S), self._accounts(account):
                await self._settled(account)
                opened = bool(self._refunds.open_refunds(account)) or await self._open(account)
                paid = self._refunds.open_refunds(account)
                for refund in paid:
                    await self.pay(refund)
                return self._told(account, {refund.id for refund in paid})
        except TimeoutError:
            raise (MintUnreachable(OWED) if opened else _on_its_way()) from None

    async def pay(self, refund: Refund) -> None:
        """Drives one open refund to its end. Raises Failure: still owed."""
        async with self._paying(refund.id):
            mint = self._mints.at(refund.purse.mint)
            for _ in range(TRIES):
                row = self._refunds.find(refund.id)
                if row is None or row.state == "done":
                    return
                for swap in self._journal.open_swaps_of(cause=refund.id):
                    await asyncio.shield(self._swaps.resume(swap))
                    break
                else:
                    await self._pay_once(mint, row)
        raise MintUnreachable(OWED)

    # --- deciding -----------------------------------------------------------------------------------

    async def _settled(self, account: str) -> None:
        """Waits until nothing that brings this account money is open: else we might say that it has none."""
        for swap in self._journal.open_swaps_of(account=account):
            await asyncio.shield(self._swaps.resume(swap))

    async def _open(self, account: str) -> bool:
        """Debits what can be paid now; False: nothing can."""
        row = self._reports.account(account)
        if row is not None and row.held_msat:
            raise RequestsRunning(REQUESTS_RUNNING)
        for purse, room_msat in self._refunds.rooms(account):
            wanted = whole_units(room_msat, purse.unit)
            if wanted and (amount := await self._payable(purse, wanted)):
                debit = partial(self._refunds.open, account, purse, to_msat(amount, purse.unit))
                await patiently(debit)
                return True
        return False

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
        earlier = self._refunds.answered(account)
        now = [self._refunds.find(refund_id) for refund_id in paid - {refund.id for refund in earlier}]
        answered = sorted((r for r in (*now, *earlier) if r is not None), key=lambda refund: refund.id)
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
