"""Which life of the seed this node makes its coins in, per mint and unit.

Counters used twice are deadly: the mint answers with the signatures of an earlier life. A node without a
record of a mint and unit (an empty directory), or one that meets signatures it did not ask for (a restored
backup, a copy), begins the first *fresh* epoch: one of which the mint has signed nothing among the first
`GAP` counters of any keyset. An error is never fresh.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from addon.ledger import Journal, Purse, patiently
from addon.wallet.curve import blind
from addon.wallet.mints import Facts, Mint
from addon.wallet.seeds import Seeds
from addon.wallet.slots import KeyedLocks

GAP: Final = 400
"""More than all counters that can be lent and unsigned before the first is signed: 8 rows × 49 derived outputs.

Once one of them is signed, the epoch shows that it is used, whatever else is lent (`Swaps` sets no row aside before).
"""
_BATCH: Final = 50

log = logging.getLogger("wallet.epochs")


class Epochs:
    """The epochs of one ledger file."""

    def __init__(self, journal: Journal, seeds: Seeds) -> None:
        self._journal = journal
        self._seeds = seeds
        self._searching = KeyedLocks()

    async def current(self, mint: Mint, purse: Purse) -> int:
        """The epoch to derive in; the first time it is looked for at the mint. Raises NoAnswer."""
        known = self._journal.epoch(purse)
        if known is not None:
            return known
        async with self._searching(purse):
            known = self._journal.epoch(purse)
            return await self._enter(mint, purse, 0) if known is None else known

    async def leave(self, mint: Mint, purse: Purse, epoch: int) -> int:
        """After signatures of another life were met in `epoch`: the next fresh one. Raises NoAnswer."""
        async with self._searching(purse):
            known = self._journal.epoch(purse)
            return await self._enter(mint, purse, epoch + 1) if known is None or known <= epoch else known

    async def _enter(self, mint: Mint, purse: Purse, start: int) -> int:
        facts, epoch = await mint.facts(), start
        while await self._was_used(mint, facts, purse, epoch):
            epoch += 1
        await patiently(lambda: self._journal.enter_epoch(purse, epoch))
        log.info("epoch %d begins at %s (%s)", epoch, purse.mint, purse.unit)
        return epoch

    async def _was_used(self, mint: Mint, facts: Facts, purse: Purse, epoch: int) -> bool:
        for keyset in facts.of(purse.unit):
            if await mint.signed(keyset.id, await self._first_outputs(purse, epoch, keyset.id)):
                return True
        return False

    async def _first_outputs(self, purse: Purse, epoch: int, keyset: str) -> list[str]:
        recipe, made = self._seeds.recipe(purse, epoch, keyset), []
        for counter in range(GAP):
            made.append(blind(*recipe(counter)))
            if counter % _BATCH == 0:
                await asyncio.sleep(0)  # 10 ms of arithmetic are enough at a time
        return made
