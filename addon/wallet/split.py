"""Which coins make an amount. Pure: amounts in, amounts out; all in a mint's own unit.

Mints sign powers of two, each of which divides every larger one. So taking the greatest first is exact:
it finds a subset of a given sum whenever there is one, and the greatest sum below it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

Coin = TypeVar("Coin")


MOST: Final = 10_000


def split(total: int, denominations: Iterable[int]) -> tuple[int, ...]:
    """`total` in the fewest coins, smallest first. Raises ValueError when they cannot make it, or only very many."""
    made: list[int] = []
    for amount in sorted(denominations, reverse=True):
        count, total = divmod(total, amount)
        if count > MOST:
            raise ValueError("it takes too many of these coins")
        made += [amount] * count
    if total:
        raise ValueError("these denominations do not make this amount")
    return tuple(reversed(made))


def tagged(total: int, denominations: Iterable[int]) -> tuple[int, ...]:
    """The outputs of a swap of `total`: first the tag, a 1; then the rest in the fewest coins."""
    return (1, *split(total - 1, denominations))


def reaching(total: int, denominations: Iterable[int]) -> tuple[int, ...]:
    """The fewest coins of `total` whose subsets reach every amount up to it: a 1 (the tag) first, smallest first.

    Each coin is at most one more than all before it, so it leaves no gap. Raises ValueError as `split` does, or
    without a 1.
    """
    sizes = sorted(denominations, reverse=True)
    made: list[int] = []
    reached = 0
    while reached < total:
        usable = [size for size in sizes if size <= min(reached + 1, total - reached)]
        if not usable or len(made) >= MOST:
            raise ValueError("these denominations do not reach every amount, or only with very many coins")
        made.append(usable[0])
        reached += usable[0]
    return tuple(made)


def greatest_below(coins: Sequence[Coin], target: int, amount_of: Callable[[Coin], int]) -> list[Coin]:
    """The coins whose sum is the greatest that is not above `target`; among equal coins the first given."""
    chosen: list[Coin] = []
    for coin in sorted(coins, key=amount_of, reverse=True):  # stable: equal ones keep their order
        if amount_of(coin) <= target:
            chosen.append(coin)
            target -= amount_of(coin)
    return chosen


def enough(
    coins: Sequence[Coin], target: int, amount_of: Callable[[Coin], int], fee_of: Callable[[Sequence[Coin]], int]
) -> list[Coin] | None:
    """The fewest coins that still make `target` after the fee that a mint takes for them; None: too few."""
    chosen: list[Coin] = []
    total = 0
    for coin in sorted(coins, key=amount_of, reverse=True):
        chosen.append(coin)
        total += amount_of(coin)
        if total - fee_of(chosen) >= target:
            return chosen
    return None
