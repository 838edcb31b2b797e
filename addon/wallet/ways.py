"""How an amount can be paid out of coins in hand: as they are, or changed at the mint for its fee. Pure.

Amounts and fees are in the purse's unit. A coin whose keyset the mint does not list any more is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from addon.ledger import StoredProof
from addon.wallet.mints import Facts
from addon.wallet.split import enough, greatest_below

MOST_COINS: Final = 60
"""In one token: it has to fit into headers, and into the decoders of others."""
MOST_INPUTS: Final = 200


@dataclass(frozen=True, slots=True)
class Way:
    """`amount` out of these coins. `fee`: what the mint takes for changing them; none where they fit as they are."""

    amount: int
    coins: tuple[StoredProof, ...]
    fee: int = 0


def as_they_are(facts: Facts, coins: Sequence[StoredProof], wanted: int) -> Way:
    """The most that coins make without a change, up to `wanted`."""
    chosen = greatest_below(_usable(facts, coins), wanted, _amount)[:MOST_COINS]
    return Way(sum(map(_amount, chosen)), tuple(chosen))


def changed(facts: Facts, coins: Sequence[StoredProof], wanted: int) -> Way | None:
    """The fewest coins that make `wanted` once they are changed; None: they are too few, or too many are needed."""
    inputs = enough(_usable(facts, coins), wanted, _amount, lambda chosen: _fee(facts, chosen))
    if not inputs or len(inputs) > MOST_INPUTS:
        return None
    return Way(wanted, tuple(inputs), _fee(facts, inputs))


def shared_fee(facts: Facts, coins: Sequence[StoredProof], wanted: int, surplus: int) -> Way | None:
    """The most of `wanted` that a change pays, when the account bears what of the fee `surplus` does not.

    Its amount and its share of the fee together are not above `wanted`. None: the fee would take it all.
    """
    amount = min(wanted, most_after_fees(facts, coins))
    while amount > 0 and (found := changed(facts, coins, amount)) is not None:
        over = amount + max(0, found.fee - surplus) - wanted
        if over <= 0:
            return found
        amount -= over
    return None


def likely_fee(facts: Facts, coins: Sequence[StoredProof], wanted: int) -> int:
    """About what the mint takes for coins that make `wanted`."""
    chosen = greatest_below(_usable(facts, coins), wanted, _amount)
    return _fee(facts, [*chosen, *chosen[-1:]])


def total(facts: Facts, coins: Sequence[StoredProof]) -> int:
    """What all coins are, of those that the mint still knows."""
    return sum(map(_amount, _usable(facts, coins)))


def covering(facts: Facts, coins: Sequence[StoredProof], wanted: int) -> Way | None:
    """Coins that make `wanted` after the mint's fee for them, with little more than that; None: they are too few."""
    usable, fee = _usable(facts, coins), 0
    for _ in range(MOST_INPUTS):
        chosen = greatest_below(usable, wanted + fee, _amount)
        short = wanted + fee - sum(map(_amount, chosen))
        if short > 0:
            taken = {coin.Y for coin in chosen}
            left = [coin for coin in usable if coin.Y not in taken and coin.amount >= short]
            if not left:
                return None
            chosen.append(min(left, key=_amount))
        if len(chosen) > MOST_INPUTS:
            return None
        if sum(map(_amount, chosen)) - _fee(facts, chosen) >= wanted:
            return Way(wanted, tuple(chosen), _fee(facts, chosen))
        fee = max(fee + 1, _fee(facts, chosen))
    return None


def most_after_fees(facts: Facts, coins: Sequence[StoredProof]) -> int:
    """What all coins that are worth their fee would bring at once."""
    chosen = sorted(_usable(facts, coins), key=_amount, reverse=True)[:MOST_INPUTS]
    most = 0
    for count in range(1, len(chosen) + 1):
        most = max(most, sum(map(_amount, chosen[:count])) - _fee(facts, chosen[:count]))
    return most


def _usable(facts: Facts, coins: Sequence[StoredProof]) -> list[StoredProof]:
    """Recovery from the NSEC does not find tags: among equal coins they come first."""
    known = [coin for coin in coins if coin.keyset in facts.keysets]
    return sorted(known, key=lambda coin: coin.counter is not None)


def _amount(coin: StoredProof) -> int:
    return coin.amount


def _fee(facts: Facts, coins: Sequence[StoredProof]) -> int:
    return facts.fee(coin.keyset for coin in coins)
