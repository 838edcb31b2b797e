"""Which coins make an amount."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.wallet.split import enough, greatest_below, reaching, split, tagged

POWERS = [1 << n for n in range(20)]
few_coins = st.lists(st.sampled_from([1, 1, 2, 4, 8, 16, 32]), max_size=9)


def same(amount: int) -> int:
    return amount


@given(st.integers(1, 10**9))
def test_a_split_is_the_amount_in_the_fewest_coins(total: int) -> None:
    parts = split(total, [1 << n for n in range(31)])
    assert sum(parts) == total
    assert len(parts) == total.bit_count()
    assert list(parts) == sorted(parts)


@given(st.integers(1, 10**7))
def test_the_tag_is_a_one_and_comes_first(total: int) -> None:
    amounts = tagged(total, POWERS)
    assert amounts[0] == 1
    assert sum(amounts) == total


@given(st.integers(0, 5000), st.integers(1, 4))
def test_large_amounts_take_several_of_the_largest_coin(total: int, most: int) -> None:
    parts = split(total, POWERS[:most])
    assert sum(parts) == total
    assert max(parts, default=1) <= POWERS[most - 1]


def test_an_amount_that_cannot_be_made_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not make"):
        split(7, [2, 4])


@given(few_coins, st.integers(0, 120))
def test_the_greatest_sum_below_is_found(coins: list[int], target: int) -> None:
    """Against every subset there is."""
    best = max(sum(c) for n in range(len(coins) + 1) for c in combinations(coins, n) if sum(c) <= target)
    assert sum(greatest_below(coins, target, same)) == best


@given(few_coins, st.integers(1, 120), st.integers(0, 1500))
def test_enough_coins_cover_amount_and_fee_or_there_are_none(coins: list[int], target: int, ppk: int) -> None:
    def fee(chosen: object) -> int:
        return -(-len(chosen) * ppk // 1000)  # type: ignore[arg-type]

    chosen = enough(coins, target, same, fee)
    if chosen is not None:
        assert sum(chosen) - fee(chosen) >= target
        assert len(chosen) == 1 or sum(chosen[:-1]) - fee(chosen[:-1]) < target
    else:
        assert all(sum(c) - fee(c) < target for n in range(1, len(coins) + 1) for c in combinations(coins, n))


@given(st.integers(1, 600))
def test_single_payments_coins_reach_every_amount_and_no_fewer_do(total: int) -> None:
    coins = reaching(total, POWERS)
    assert sum(coins) == total
    assert coins[0] == 1  # the tag
    for wanted in range(total + 1):
        assert sum(greatest_below(coins, wanted, same)) == wanted
    assert len(coins) <= 2 * total.bit_length() - 1
    below = total.bit_length() - 1
    assert len(coins) == below + (total + 1 - (1 << below)).bit_count()


@given(st.integers(1, 10**7), st.data())
def test_they_reach_any_amount_of_a_large_total(total: int, data: st.DataObject) -> None:
    coins = reaching(total, [1 << n for n in range(24)])
    assert len(coins) <= 46
    wanted = data.draw(st.integers(0, total))
    assert sum(greatest_below(coins, wanted, same)) == wanted


@given(st.integers(1, 400), st.sets(st.sampled_from(POWERS[1:9])))
def test_they_reach_it_with_whatever_sizes_a_mint_signs(total: int, sizes: set[int]) -> None:
    coins = reaching(total, {1, *sizes})
    assert [sum(greatest_below(coins, n, same)) for n in range(total + 1)] == list(range(total + 1))


@pytest.mark.parametrize(("total", "sizes"), [(5, [2, 4]), (10**6, [1])])
def test_what_would_leave_gaps_or_take_endless_coins_is_an_error(total: int, sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="do not reach"):
        reaching(total, sizes)


def test_among_equal_coins_the_first_given_is_taken() -> None:
    coins = [("tag", 1), ("derived", 1), ("big", 4)]
    assert greatest_below(coins, 5, lambda coin: coin[1]) == [("big", 4), ("tag", 1)]


def test_an_amount_that_takes_millions_of_coins_is_refused_at_once() -> None:
    """A mint whose largest coin is small must not cost us our memory."""
    with pytest.raises(ValueError, match="too many"):
        split(1 << 60, [1, 2, 4])
