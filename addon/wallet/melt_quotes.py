"""Paying an invoice at a mint (NUT-05): what it would cost, the order, and where it stands.

A quote is taken only over the invoice's own amount, and with a fee reserve within bounds: what is reserved is
taken from whoever is paid, until it is known what was needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from addon.money import MSAT_PER_SAT, Unit, to_msat, whole_units
from addon.wallet.answers import MeltQuote, MeltState, read
from addon.wallet.mints import Mint
from addon.wallet.quotes import Payable
from addon.wallet.strangers import Unpayable
from addon.wallet.wire import Unknown

QUOTES: Final = "/v1/melt/quote/bolt11"
MELT: Final = "/v1/melt/bolt11"
LEAST_RESERVE_MSAT: Final = 2 * MSAT_PER_SAT
RESERVE_PERCENT: Final = 2
_PATH_SAFE: Final = re.compile(r"[A-Za-z0-9._~-]{1,256}")


@dataclass(frozen=True, slots=True)
class Quote:
    """A mint's offer to pay an invoice. Amounts in its unit; `name` must stay between us and the mint."""

    name: str = field(repr=False)
    amount: int
    reserve: int


def most_reserve_msat(amount_msat: int) -> int:
    """The largest fee reserve that is accepted for an amount."""
    return max(LEAST_RESERVE_MSAT, amount_msat * RESERVE_PERCENT // 100)


async def quote(mint: Mint, unit: Unit, invoice: Payable, amount_msat: int) -> Quote:
    """What this invoice costs there. Raises NoAnswer; Unpayable when it is too dear, or over something else."""
    told = read(MeltQuote, await mint.ask(QUOTES, {"request": invoice.text, "unit": unit}))
    if not _PATH_SAFE.fullmatch(told.quote):
        raise Unknown("a quote whose name cannot stand in a path")
    if told.state != "UNPAID" or told.amount != whole_units(amount_msat, unit):
        raise Unpayable("the mint does not offer to pay its invoice as it is")
    if to_msat(told.fee_reserve, unit) > most_reserve_msat(amount_msat):
        raise Unpayable("the mint asks too high a fee for the way there")
    return Quote(told.quote, told.amount, told.fee_reserve)


async def state(mint: Mint, name: str) -> MeltState:
    """Where the payment of a quote stands. Raises NoAnswer."""
    return read(MeltState, await mint.ask(f"{QUOTES}/{name}"))


async def melt(
    mint: Mint, name: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
) -> None:
    """Orders the payment; what came of it is read from the quote. Raises NoAnswer."""
    asked: dict[str, Any] = {"quote": name, "inputs": inputs}
    if outputs:
        asked |= {"outputs": outputs}
    await mint.ask(MELT, asked)
