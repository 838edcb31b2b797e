"""Which coins pay for something: enough of them after the mint's fee, and little more than that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from addon.ledger import Purse, StoredProof
from addon.wallet import ways
from addon.wallet.mints import Facts, Keyset

PURSE = Purse("https://mint.example", "sat")
amounts = st.lists(st.integers(0, 12).map(lambda n: 1 << n), max_size=40)


def facts(ppk: int) -> Facts:
    return Facts(PURSE.mint, {"k": Keyset("k", "sat", True, ppk, {})}, proves=True)


def coins(values: list[int]) -> list[StoredProof]:
    return [StoredProof(f"y{n}", PURSE, "k", amount, "C", 0, counter=n) for n, amount in enumerate(values)]


@given(amounts, st.integers(1, 5000), st.integers(0, 900))
def test_coins_that_cover_it_are_found_whenever_there_are_some(values: list[int], wanted: int, ppk: int) -> None:
    found, other = ways.covering(facts(ppk), coins(values), wanted), ways.changed(facts(ppk), coins(values), wanted)
    assert found is not None or other is None
    if found is not None:
        face = sum(coin.amount for coin in found.coins)
        assert len({coin.Y for coin in found.coins}) == len(found.coins)
        assert found.fee == facts(ppk).fee(coin.keyset for coin in found.coins)
        assert face - found.fee >= wanted


@given(amounts, st.integers(1, 5000))
def test_without_a_fee_what_is_too_much_is_less_than_the_smallest_coin_that_was_needed(
    values: list[int], wanted: int
) -> None:
    found = ways.covering(facts(0), coins(values), wanted)
    if found is not None:
        face, smallest = sum(c.amount for c in found.coins), min(c.amount for c in found.coins)
        assert face - wanted < max(smallest, found.coins[-1].amount)


@given(amounts, st.integers(1, 5000), st.integers(0, 900))
def test_the_fee_that_is_expected_is_not_less_than_the_one_of_coins_that_fit(
    values: list[int], wanted: int, ppk: int
) -> None:
    fitting = ways.as_they_are(facts(ppk), coins(values), wanted)
    assert ways.likely_fee(facts(ppk), coins(values), wanted) >= facts(ppk).fee(c.keyset for c in fitting.coins)
