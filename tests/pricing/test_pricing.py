"""Prices by hand, and what must hold for every price: the hold covers the cost, rounding happens once, upwards."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.catalog import Model, Tariff, Tier, Window
from addon.errors import InsufficientBalance, InvalidParameter
from addon.pricing import (
    Bounds,
    Cap,
    Charge,
    Fitted,
    Price,
    Quantities,
    asked_cap,
    bounds_of,
    charge,
    fit,
    least,
    price_in_sats,
    price_in_usd,
    worst_case,
)

STATIC = price_in_sats(request=Decimal("0.011"), per_1k_input=Decimal(3), per_1k_output=Decimal(7))
NAMES = ("max_tokens", "max_completion_tokens")
PARTS = [f.name for f in dataclasses.fields(Tariff) if f.name not in ("request", "input", "output", "tiers")]
HOURS_MS = 3_600_000

amounts = st.decimals(0, 1000, places=9, allow_nan=False)
apart = {part: st.none() | amounts for part in PARTS}
windows = st.none() | st.builds(
    Window, st.integers(0, 1439), st.integers(1, 1440), st.none() | st.frozensets(st.integers(0, 6), min_size=1)
)
changes = st.fixed_dictionaries({}, optional={"request": amounts, "input": amounts, "output": amounts} | apart)
tiers = st.lists(st.builds(Tier, changes, st.integers(0, 10**6), windows), max_size=3).map(tuple)
rates = st.fractions(Fraction(1, 10**6), 10**6)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    parts = draw(st.fixed_dictionaries({}, optional=apart))
    tariff = Tariff(draw(amounts), draw(amounts), draw(amounts), **parts, tiers=draw(tiers))
    return Price(tariff, draw(rates))


@st.composite
def quantities(draw: st.DrawFn) -> Quantities:
    """What an answer can report: parts that are never more than the whole."""
    given_, made = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    read = draw(st.integers(0, given_))
    written = draw(st.integers(0, given_ - read))
    audio = draw(st.integers(0, given_ - read - written))
    cached_audio = draw(st.integers(0, read))
    thought = draw(st.integers(0, made))
    counted = {name: draw(st.integers(0, 20)) for name in COUNTED}
    return Quantities(
        given_, made, read, written, thought, draw(st.integers(0, written)), audio + cached_audio, cached_audio,
        draw(st.integers(0, given_ - read - written - audio)), draw(st.integers(0, made - thought)), **counted,
    )  # fmt: skip


COUNTED = {"images_sent": "image_sent", "images_made": "image_made", "searches": "search", "seconds": "second", "characters": "character"}  # fmt: skip


def exact(price: Price, q: Quantities, at_ms: int) -> Fraction:
    """The same by another road: fractions, part by part, each token at its own price."""
    table = dataclasses.asdict(dataclasses.replace(price.tariff, tiers=()))
    for tier in price.tariff.tiers:
        if q.input > tier.above_tokens and (tier.window is None or tier.window.contains(at_ms)):
            table.update(tier.changes)

    def of(*parts: str) -> Fraction:
        return Fraction(next(table[part] for part in parts if table[part] is not None))

    audio = q.input_audio - q.cached_audio
    plain = q.input - q.cache_read - q.cache_write - audio - q.input_image
    total: Fraction = of("request") + of("input") * plain
    total += of("cached_audio", "cache_read", "input") * q.cached_audio
    total += of("cache_read", "input") * (q.cache_read - q.cached_audio)
    total += of("cache_write", "input") * (q.cache_write - q.cache_write_1h)
    total += of("cache_write_1h", "cache_write", "input") * q.cache_write_1h
    total += of("input_audio", "input") * audio + of("input_image", "input") * q.input_image
    total += of("output") * (q.output - q.reasoning - q.output_audio - q.output_image)
    total += of("reasoning", "output") * q.reasoning + of("output_audio", "output") * q.output_audio
    total += of("output_image", "output") * q.output_image
    total += sum(Fraction(table[part] or 0) * getattr(q, name) for name, part in COUNTED.items())
    return total * price.msat_per_unit


def cost_of(price: Price, q: Quantities, *, hold: int = 10**18, minimum: int = 1, at_ms: int = 0) -> Charge:
    return charge(price, q, hold_msat=hold, minimum_msat=minimum, held_at_ms=at_ms)


def test_static_prices_on_paper() -> None:
    """11 msat a request, 3 an input token, 7 an output token: 7 in and 3 out cost 53."""
    cost = cost_of(STATIC, Quantities(7, 3))
    assert (cost.input_msat, cost.output_msat, cost.total_msat) == (32, 21, 53)


def test_usd_prices_on_paper_and_fees_raise_them() -> None:
    """At 100,000 USD a bitcoin, one USD is a million msat; a fee of 10 % is 10 % more, not less (incident 30)."""
    usd = Tariff(Decimal(0), Decimal("0.000001"), Decimal("0.000003"))
    plain = price_in_usd(usd, usd_per_btc=Decimal(100_000), exchange_fee=Decimal(1), provider_fee=Decimal(1))
    assert cost_of(plain, Quantities(7, 3)).total_msat == 7 + 9
    fees = {"exchange_fee": Decimal("1.1"), "provider_fee": Decimal("1.5")}
    dear = price_in_usd(usd, usd_per_btc=Decimal(100_000), **fees)
    assert cost_of(dear, Quantities(1000, 0)).total_msat == 1650


def test_a_rate_that_does_not_divide_evenly_adds_no_msat() -> None:
    """3e-6 USD at 30,000 USD a bitcoin are 10 msat, although 1e11 / 30,000 has no end in decimals."""
    usd = Tariff(Decimal(0), Decimal("0.000003"), Decimal(0))
    price = price_in_usd(usd, usd_per_btc=Decimal(30_000), exchange_fee=Decimal(1), provider_fee=Decimal(1))
    assert [cost_of(price, Quantities(n, 0)).total_msat for n in (1, 3, 7, 10**6)] == [10, 30, 70, 10**7]


@given(prices(), quantities(), st.integers(1, 5000), st.integers(0, 10 * 24).map(lambda h: h * HOURS_MS))
def test_a_charge_is_the_exact_sum_rounded_up_once(price: Price, q: Quantities, minimum: int, at_ms: int) -> None:
    cost = cost_of(price, q, minimum=minimum, at_ms=at_ms)
    assert cost.total_msat == max(minimum, math.ceil(exact(price, q, at_ms)))
    assert cost.shortfall_msat == 0 and min(cost.input_msat, cost.output_msat) >= 0


def test_the_minimum_counts_as_input() -> None:
    """The two sides are always the total."""
    cost = cost_of(STATIC, Quantities(1, 1), minimum=1000)
    assert (cost.input_msat, cost.output_msat) == (1000 - 7, 7)


def test_more_tokens_written_for_an_hour_than_were_written_cost_no_more() -> None:
    tariff = Tariff(Decimal(0), Decimal(1), Decimal(0), cache_write=Decimal(2), cache_write_1h=Decimal(5))
    assert (
        cost_of(Price(tariff, Fraction(1)), Quantities(100, 0, cache_write=10, cache_write_1h=30)).total_msat == 90 + 50
    )


@given(prices(), quantities(), st.integers(1, 10**6))
def test_a_charge_never_exceeds_its_hold_and_the_rest_is_the_shortfall(price: Price, q: Quantities, hold: int) -> None:
    """(Incident 17: an overrun drove the balance negative.)"""
    cost, whole = cost_of(price, q, hold=hold), cost_of(price, q).total_msat
    assert cost.total_msat == min(hold, whole) and cost.total_msat + cost.shortfall_msat == whole


counts = st.integers(0, 1 << 60)


@given(prices(), st.builds(Quantities, *[counts] * len(dataclasses.fields(Quantities))), st.integers(1, 10**6))
def test_figures_that_contradict_each_other_still_cost_something_and_at_most_the_hold(
    price: Price, q: Quantities, hold: int
) -> None:
    """(Incident 26: cached tokens counted twice; a negative rest would have been a discount.)"""
    cost = cost_of(price, q, hold=hold)
    assert 1 <= cost.total_msat <= hold and min(cost.input_msat, cost.output_msat) >= 0


@given(prices(), quantities(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_tokens_never_cost_less(price: Price, q: Quantities, more_in: int, more_out: int) -> None:
    flat = dataclasses.replace(price, tariff=dataclasses.replace(price.tariff, tiers=()))
    more = dataclasses.replace(q, input=q.input + more_in, output=q.output + more_out)
    assert cost_of(flat, more).total_msat >= cost_of(flat, q).total_msat


def test_absurd_figures_cost_the_hold_and_not_nothing() -> None:
    """A bug in billing would have given the hold back, and the answer away."""
    dear = price_in_sats(request=Decimal(0), per_1k_input=Decimal(10**6), per_1k_output=Decimal(10**6))
    assert cost_of(dear, Quantities(2**53 - 1, 2**53 - 1), hold=500).total_msat == 500


@given(prices(), quantities(), st.integers(0, 10**6), st.integers(0, 10 * 24).map(lambda h: h * HOURS_MS))
def test_the_worst_case_covers_every_answer_within_its_bounds(
    price: Price, q: Quantities, spare: int, at_ms: int
) -> None:
    """Whatever the tier, the hour, and the parts (incident 22)."""
    most = dataclasses.replace(q, input=q.input + spare, output=q.output + spare)
    hold = worst_case(price, most, minimum_msat=1)
    assert cost_of(price, q, hold=hold, at_ms=at_ms).shortfall_msat == 0


WHOLLY: dict[str, Quantities] = {
    "request": Quantities(0, 0), "input": Quantities(9, 0), "output": Quantities(0, 9), "cache_read": Quantities(9, 0, 9),
    "cache_write": Quantities(9, 0, cache_write=9), "cache_write_1h": Quantities(9, 0, cache_write=9, cache_write_1h=9),
    "reasoning": Quantities(0, 9, reasoning=9), "input_audio": Quantities(9, 0, input_audio=9),
    "cached_audio": Quantities(9, 0, cache_read=9, input_audio=9, cached_audio=9),
    "input_image": Quantities(9, 0, input_image=9), "output_audio": Quantities(0, 9, output_audio=9),
    "output_image": Quantities(0, 9, output_image=9), "image_sent": Quantities(0, 0, images_sent=9),
    "image_made": Quantities(0, 0, images_made=9), "search": Quantities(0, 0, searches=9),
    "second": Quantities(0, 0, seconds=9), "character": Quantities(0, 0, characters=9),
}  # fmt: skip


@pytest.mark.parametrize("part", [f.name for f in dataclasses.fields(Tariff) if f.name != "tiers"])
def test_each_part_that_is_dear_is_held_and_charged_as_such(part: str) -> None:
    """Also where only a tier makes it so."""
    flat = dict.fromkeys(("request", "input", "output", *PARTS), Decimal(1))
    used, count = WHOLLY[part], 1 if part == "request" else 9
    fee = 0 if part == "request" else 1
    for tariff in (
        Tariff(**flat | {part: Decimal(100)}),  # type: ignore[arg-type]
        Tariff(**flat, tiers=(Tier({part: Decimal(100)}, -1),)),
    ):
        price = Price(tariff, Fraction(1))
        assert cost_of(price, used).total_msat == fee + 100 * count
        assert worst_case(price, used, minimum_msat=1) == fee + 100 * count


# --- tiers ------------------------------------------------------------------------------------------

LONG = Tariff(Decimal(0), Decimal(1), Decimal(4), tiers=(Tier({"input": Decimal(2), "output": Decimal(6)}, 200),))


def test_a_longer_prompt_costs_its_own_tier_and_is_held_for_it() -> None:
    """Ignored, long prompts would sell at half their price."""
    price = Price(LONG, Fraction(1))
    assert cost_of(price, Quantities(200, 10)).total_msat == 200 + 40
    assert cost_of(price, Quantities(201, 10)).total_msat == 402 + 60
    assert worst_case(price, Quantities(200, 10), minimum_msat=1) == 200 + 40
    assert worst_case(price, Quantities(201, 10), minimum_msat=1) == 402 + 60


def test_a_tier_changes_only_the_parts_it_names_and_the_later_one_wins() -> None:
    tiers_ = (Tier({"input": Decimal(2)}, 100), Tier({"input": Decimal(3), "cache_read": Decimal(1)}, 200))
    price = Price(Tariff(Decimal(0), Decimal(1), Decimal(4), tiers=tiers_), Fraction(1))
    assert cost_of(price, Quantities(150, 1, cache_read=50)).total_msat == 300 + 4
    assert cost_of(price, Quantities(300, 1, cache_read=50)).total_msat == 250 * 3 + 50 + 4


def test_hours_are_those_of_the_hold_and_a_window_may_pass_midnight() -> None:
    """Half price from 16:30 to 00:30; the hold never counts on it."""
    night = Tier({"input": Decimal(1)}, window=Window(16 * 60 + 30, 30))
    price = Price(Tariff(Decimal(0), Decimal(2), Decimal(0), tiers=(night,)), Fraction(1))
    at = {clock: 86_400_000 * 20_000 + (h * 60 + m) * 60_000 for clock, h, m in
          (("16:29", 16, 29), ("16:30", 16, 30), ("23:59", 23, 59), ("00:29", 0, 29), ("00:30", 0, 30))}  # fmt: skip
    costs = {clock: cost_of(price, Quantities(10, 0), at_ms=ms).total_msat for clock, ms in at.items()}
    assert costs == {"16:29": 20, "16:30": 10, "23:59": 10, "00:29": 10, "00:30": 20}
    assert worst_case(price, Quantities(10, 0), minimum_msat=1) == 20


@pytest.mark.parametrize(("clock", "inside"), [((7, 59), False), ((8, 0), True), ((17, 29), True), ((17, 30), False)])
def test_a_window_ends_before_its_end(clock: tuple[int, int], inside: bool) -> None:
    hours, minutes = clock
    assert Window(8 * 60, 17 * 60 + 30).contains((hours * 60 + minutes) * 60_000) is inside


@pytest.mark.parametrize(("date", "weekday"), [((1970, 1, 1), 3), ((2026, 11, 25), 2), ((2024, 2, 29), 3)])
def test_days_of_a_window_are_those_of_the_calendar(date: tuple[int, int, int], weekday: int) -> None:
    noon_ms = int(datetime(*date, 12, tzinfo=UTC).timestamp() * 1000)
    assert [day for day in range(7) if Window(days=frozenset((day,))).contains(noon_ms)] == [weekday]


# --- the hold follows the balance -------------------------------------------------------------------

bounds_ = st.builds(Bounds, st.integers(1, 10**5), st.integers(0, 10**5), st.booleans())


@given(prices(), bounds_, st.integers(0, 10**9), st.integers(1, 1000))
def test_a_fitted_hold_is_affordable_and_pays_for_its_own_cap(
    price: Price, b: Bounds, available: int, floor: int
) -> None:
    needed = least(price, b, min_output=floor, minimum_msat=1)
    if needed > available:
        with pytest.raises(InsufficientBalance):
            fit(price, b, available_msat=available, min_output=floor, minimum_msat=1)
        return
    fitted = fit(price, b, available_msat=available, min_output=floor, minimum_msat=1)
    assert needed <= fitted.hold_msat <= available
    assert min(b.output_tokens, floor) <= fitted.output_tokens <= b.output_tokens
    whole = worst_case(price, b.most(b.output_tokens), minimum_msat=1)
    if whole > available and fitted.output_tokens > floor:
        assert fitted.hold_msat <= available // 2, "a second request fits beside it"
    most = worst_case(price, b.most(fitted.output_tokens), minimum_msat=1)
    assert fitted.hold_msat == most


def test_a_balance_that_is_short_of_the_worst_case_keeps_half_for_others() -> None:
    """311 msat and 7 a token: 3,527 tokens fit into half of 50,000."""
    b = Bounds(100, 10_000, must_cap=True)
    assert fit(STATIC, b, available_msat=70_311, min_output=256, minimum_msat=1) == Fitted(70_311, 10_000)
    assert fit(STATIC, b, available_msat=50_000, min_output=256, minimum_msat=1) == Fitted(25_000, 3_527)
    assert fit(STATIC, b, available_msat=2_103, min_output=256, minimum_msat=1) == Fitted(2_103, 256)
    with pytest.raises(InsufficientBalance):
        fit(STATIC, b, available_msat=2_102, min_output=256, minimum_msat=1)


@pytest.mark.parametrize("value", [-1, 0, -(10**9), 1e300, 2.9, "5", True, [5], {"a": 1}])
def test_a_cap_that_is_no_positive_integer_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidParameter, match="max_completion_tokens"):
        asked_cap({"max_completion_tokens": value}, NAMES)


def test_the_largest_of_several_caps_counts_and_null_is_absent() -> None:
    assert asked_cap({"max_tokens": 5, "max_completion_tokens": 200}, NAMES) == Cap(NAMES, 200)
    assert asked_cap({"max_tokens": None}, NAMES) == Cap((), None)


def bound(model: Model, cap: int | None = None, body: int = 100, **changes: bool) -> Bounds:
    given_: dict[str, Any] = {"has_output": True, "unseen_input": False, "self_bounded": False} | changes
    asked = Cap(() if cap is None else ("max_tokens",), cap)
    return bounds_of(model, asked, body_bytes=body, default_context=8192, min_output=256, **given_)


def test_bounds_follow_the_model_and_the_body() -> None:
    model = Model("m", context_length=8192, max_output=256)
    assert bound(model, 50) == Bounds(1124, 50, must_cap=True)
    assert bound(model, 9999).output_tokens == 256
    assert bound(model).output_tokens == 256
    assert bound(model, body=10**6).input_tokens == 8192
    assert bound(model, has_output=False) == Bounds(1124, 0, must_cap=False, is_fixed=True)
    many_texts = bound(model, has_output=False, body=10**6)
    assert many_texts.input_tokens == 10**6 + 1024, "each text of an embedding may fill the context"
    seen = bound(model, 50, unseen_input=True)
    assert seen.input_tokens == 8192 and seen.most(50).input_audio == 8192, "there may be audio in it"


def test_a_server_that_never_stops_always_gets_a_cap() -> None:
    """llama.cpp and Ollama go on without end; the others stop at their context, which is then held."""
    model = Model("m", context_length=4096)
    assert bound(model).must_cap and bound(model).output_tokens == 4096 - 50
    assert bound(model, self_bounded=True) == Bounds(1124, 4096, must_cap=False)


def test_a_model_without_a_known_context_is_held_for_its_whole_body() -> None:
    assert bound(Model("m"), 10, body=100_000).input_tokens == 100_000 + 1024
