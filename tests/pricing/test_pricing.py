"""Prices by hand, and what must hold for every price: the hold covers the cost, rounding happens once, upwards."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.catalog import CatalogError, Model, UsdPrice, parse
from addon.errors import InsufficientBalance, InvalidParameter
from addon.pricing import (
    Bounds,
    Cap,
    Price,
    Tokens,
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

amounts = st.decimals(0, 1000, places=9, allow_nan=False)
prices = st.builds(Price, amounts, amounts, amounts, st.none() | amounts, st.none() | amounts, st.none() | amounts)


@st.composite
def tokens(draw: st.DrawFn) -> Tokens:
    given_, made = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    read = draw(st.integers(0, given_))
    return Tokens(given_, made, read, draw(st.integers(0, given_ - read)), draw(st.integers(0, made)))


def exact(price: Price, t: Tokens) -> Fraction:
    """The same by another road: fractions, part by part."""
    f = Fraction
    read = f(price.input if price.cache_read is None else price.cache_read)
    written = f(price.input if price.cache_write is None else price.cache_write)
    thought = f(price.output if price.reasoning is None else price.reasoning)
    inputs = f(price.input) * (t.input - t.cache_read - t.cache_write) + read * t.cache_read + written * t.cache_write
    return f(price.request) + inputs + f(price.output) * (t.output - t.reasoning) + thought * t.reasoning


def test_static_prices_on_paper() -> None:
    """11 msat a request, 3 an input token, 7 an output token: 7 in and 3 out cost 53."""
    cost = charge(STATIC, Tokens(7, 3), hold_msat=10_000, minimum_msat=1)
    assert (cost.input_msat, cost.output_msat, cost.total_msat) == (32, 21, 53)


def test_usd_prices_on_paper_and_fees_raise_them() -> None:
    """At 100,000 USD a bitcoin, one USD is a million msat; a fee of 10 % is 10 % more, not less (incident 30)."""
    usd = UsdPrice(input=Decimal("0.000001"), output=Decimal("0.000003"))
    plain = price_in_usd(usd, btc_usd=Decimal(100_000), exchange_fee=Decimal(1), provider_fee=Decimal(1))
    assert [plain.input, plain.output] == [Decimal(1), Decimal(3)]
    dear = price_in_usd(usd, btc_usd=Decimal(100_000), exchange_fee=Decimal("1.1"), provider_fee=Decimal("1.5"))
    assert dear.input == Decimal("1.65")


@given(prices, tokens(), st.integers(1, 5000))
def test_a_charge_is_the_exact_sum_rounded_up_once(price: Price, t: Tokens, minimum: int) -> None:
    cost = charge(price, t, hold_msat=10**18, minimum_msat=minimum)
    sum_ = exact(price, t)
    assert cost.total_msat == max(minimum, -(-sum_.numerator // sum_.denominator))
    assert cost.shortfall_msat == 0 and min(cost.input_msat, cost.output_msat) >= 0


@given(prices, tokens(), st.integers(1, 10**6))
def test_a_charge_never_exceeds_its_hold_and_the_rest_is_the_shortfall(price: Price, t: Tokens, hold: int) -> None:
    """(Incident 17: an overrun drove the balance negative.)"""
    cost = charge(price, t, hold_msat=hold, minimum_msat=1)
    whole = charge(price, t, hold_msat=10**18, minimum_msat=1).total_msat
    assert cost.total_msat == min(hold, whole) and cost.total_msat + cost.shortfall_msat == whole


def test_absurd_figures_cost_the_hold_and_not_nothing() -> None:
    """A bug in billing would have given the hold back, and the answer away."""
    dear = price_in_sats(request=Decimal(0), per_1k_input=Decimal(10**6), per_1k_output=Decimal(10**6))
    assert charge(dear, Tokens(2**53 - 1, 2**53 - 1), hold_msat=500, minimum_msat=1).total_msat == 500


@given(prices, tokens())
def test_the_worst_case_covers_every_answer_within_its_bounds(price: Price, t: Tokens) -> None:
    """(Incident 22.)"""
    hold = worst_case(price, input_tokens=t.input, output_tokens=t.output, minimum_msat=1)
    assert charge(price, t, hold_msat=hold, minimum_msat=1).shortfall_msat == 0


bounds_ = st.builds(Bounds, st.integers(1, 10**5), st.integers(0, 10**5), st.booleans())


@given(prices, bounds_, st.integers(0, 10**9), st.integers(1, 1000))
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
    most = worst_case(price, input_tokens=b.input_tokens, output_tokens=fitted.output_tokens, minimum_msat=1)
    assert fitted.hold_msat == most


@pytest.mark.parametrize("value", [-1, 0, -(10**9), 1e300, 2.9, "5", True, [5], {"a": 1}])
def test_a_cap_that_is_no_positive_integer_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidParameter, match="max_completion_tokens"):
        asked_cap({"max_completion_tokens": value}, NAMES)


def test_the_largest_of_several_caps_counts_and_null_is_absent() -> None:
    assert asked_cap({"max_tokens": 5, "max_completion_tokens": 200}, NAMES) == Cap(NAMES, 200)
    assert asked_cap({"max_tokens": None}, NAMES) == Cap((), None)


def bound(model: Model, cap: int | None = None, body: int = 100, **changes: bool) -> Bounds:
    given_ = {"has_output": True, "unseen_input": False, "self_bounded": False} | changes
    asked = Cap(() if cap is None else ("max_tokens",), cap)
    return bounds_of(model, asked, body_bytes=body, default_context=8192, min_output=256, **given_)


def test_bounds_follow_the_model_and_the_body() -> None:
    model = Model("m", context_length=8192, max_output=256)
    assert bound(model, 50) == Bounds(1124, 50, must_cap=True)
    assert bound(model, 9999).output_tokens == 256
    assert bound(model).output_tokens == 256
    assert bound(model, body=10**6).input_tokens == 8192
    assert bound(model, has_output=False) == Bounds(1124, 0, must_cap=False)
    many_texts = bound(model, has_output=False, body=10**6)
    assert many_texts.input_tokens == 10**6 + 1024, "each text of an embedding may fill the context"
    assert bound(model, 50, unseen_input=True).input_tokens == 8192


def test_a_server_that_never_stops_always_gets_a_cap() -> None:
    """llama.cpp and Ollama go on without end; the others stop at their context, which is then held."""
    model = Model("m", context_length=4096)
    assert bound(model).must_cap and bound(model).output_tokens == 4096 - 50
    assert bound(model, self_bounded=True) == Bounds(1124, 4096, must_cap=False)


def test_a_model_without_a_known_context_is_held_for_its_whole_body() -> None:
    assert bound(Model("m"), 10, body=100_000).input_tokens == 100_000 + 1024


ENTRY = {"id": "m", "context_length": 8192, "pricing": {"prompt": "0.000001", "completion": "0.000002"}}


def price_entry(**prices_: object) -> Model:
    (model,) = parse({"data": [ENTRY | {"pricing": {"prompt": "0.000001", "completion": "0.000002"} | prices_}]})
    return model


def test_a_models_file_is_read_in_its_usual_shapes() -> None:
    for document in ({"data": [ENTRY]}, {"models": [ENTRY]}, [ENTRY]):
        (model,) = parse(document)
        assert model.usd == UsdPrice(Decimal("0.000001"), Decimal("0.000002"))


@pytest.mark.parametrize(
    "prices_",
    [{"prompt": "-1"}, {"prompt": "NaN"}, {"prompt": "2.5"}, {"prompt": True}, {"prompt": None}, {"surprise": "0.1"},
     {"overrides": [{"min_prompt_tokens": 5}]}],
)  # fmt: skip
def test_a_price_that_is_not_wholly_understood_takes_the_model_off_sale(prices_: dict[str, object]) -> None:
    model = price_entry(**prices_)
    assert model.usd is None and model.refused


@pytest.mark.parametrize("document", [None, 5, {}, {"data": {}}, [{}], [ENTRY, ENTRY], [{"id": 5}]])
def test_what_is_no_list_of_models_is_refused(document: object) -> None:
    with pytest.raises(CatalogError):
        parse(document)
