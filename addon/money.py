"""Amounts: integers in msat inside, a mint's own unit at its border, `Decimal` for prices.

1 sat = 1000 msat. Rounding happens once, upwards, where an exact price becomes an amount.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Final, Literal, TypeGuard

Unit = Literal["sat", "msat"]

MSAT_PER_SAT: Final = 1000
MSAT_PER_UNIT: Final[dict[Unit, int]] = {"sat": 1000, "msat": 1}
MAX_MSAT: Final = 21_000_000 * 100_000_000 * MSAT_PER_SAT
"""All bitcoin there can be: 2.1e18 msat, still below SQLite's 2**63."""


def is_unit(text: str) -> TypeGuard[Unit]:
    """Whether a mint's unit is one that this node counts in."""
    return text in MSAT_PER_UNIT


def to_msat(amount: int, unit: Unit) -> int:
    """`amount` of a mint's unit, in msat."""
    return amount * MSAT_PER_UNIT[unit]


def whole_units(amount_msat: int, unit: Unit) -> int:
    """How many whole units fit into an amount; the rest stays where it is."""
    return amount_msat // MSAT_PER_UNIT[unit]


def units_needed(amount_msat: int, unit: Unit) -> int:
    """The fewest whole units that cover an amount."""
    return -(-amount_msat // MSAT_PER_UNIT[unit])


def ceil_msat(exact: Fraction) -> int:
    """An exact price in msat, rounded up: the one rounding of a charge.

    Raises ValueError on a negative or absurd price.
    """
    if not 0 <= exact <= MAX_MSAT:
        raise ValueError("a price must be an amount that exists")
    return math.ceil(exact)


def sats_text(amount_msat: int) -> str:
    """An amount for people: sats with up to three decimals, never an exponent: '12.345', '7', '0.5'."""
    sign, amount = ("-", -amount_msat) if amount_msat < 0 else ("", amount_msat)
    whole, rest = divmod(amount, MSAT_PER_SAT)
    return f"{sign}{whole}.{rest:03d}".rstrip("0").rstrip(".") if rest else f"{sign}{whole}"
