"""No answer of any exchange makes a wrong price: what counts as an answer, and what follows from several."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from addon.rates import EXCHANGES, Decided, Exchange, QuoteError, decide
from addon.rates.quotes import AGREE, SANE_USD, STEP
from tests.parts.exchanges import answer

NAMES = [exchange.name for exchange in EXCHANGES]
SANE = st.decimals(*SANE_USD, allow_nan=False, allow_infinity=False, places=2)
SMALL = st.decimals("-0.004", "0.004", places=4)
"""How far honest exchanges are apart, as a factor."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda c: st.lists(c) | st.dictionaries(st.text(), c),
)


def usd(*prices: str | int | Decimal) -> dict[str, Decimal]:
    """What the first, second and third exchange say."""
    return {name: Decimal(price) for name, price in zip(NAMES, prices, strict=False)}


def decided(*prices: str | int, trusted: str | int | None = None) -> Decimal | None:
    """The rate that follows, whichever exchange says which."""
    before = None if trusted is None else Decimal(trusted)
    found = {decide(usd(*order), before) for order in permutations(prices)}
    rates = {None if one is None else one.usd_per_btc for one in found}
    assert len(rates) == 1
    return rates.pop()


# --- what counts as an answer -----------------------------------------------------------------------


@pytest.mark.parametrize("exchange", EXCHANGES, ids=NAMES)
@pytest.mark.parametrize("price", ["1000", "97123.40000", "100000.0", "99999999.99"])
def test_a_plain_price_is_read_exactly(exchange: Exchange, price: str) -> None:
    assert exchange.read(answer(exchange.name, price)) == Decimal(price)


LIES = [
    "0", "0.00", "-97000", "+97000", "NaN", "nan", "sNaN", "Infinity", "1e5", "9.7E+4", "97,000", "97_000", " 97000",
    "97000\n", "", ".5", "97000.", "٩٧٠٠٠", "999.99", "100000000.01", "9" * 400, "0x17ae8", None, True, 97000, 97000.5,
    ["97000"], {"a": "97000"},
]  # fmt: skip


@pytest.mark.parametrize("exchange", EXCHANGES, ids=NAMES)
@pytest.mark.parametrize("price", LIES, ids=[repr(lie)[:20] for lie in LIES])
def test_what_is_no_price_of_a_bitcoin_is_no_answer(exchange: Exchange, price: object) -> None:
    with pytest.raises(QuoteError):
        exchange.read(answer(exchange.name, price))


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("kraken", {"error": ["EService:Busy"], "result": {"XXBTZUSD": {"c": ["97000", "1"]}}}),
        ("kraken", {"error": None, "result": {"XXBTZUSD": {"c": ["97000", "1"]}}}),
        ("kraken", {"error": [], "result": {"XXBTZEUR": {"c": ["97000", "1"]}}}),
        ("kraken", {"error": [], "result": {"XXBTZUSD": {"c": []}}}),
        ("coinbase", {"data": {"amount": "97000", "base": "BTC", "currency": "EUR"}}),
        ("coinbase", {"data": {"amount": "97000", "base": "BCH", "currency": "USD"}}),
        ("coinbase", {"data": "97000"}),
        ("binance", {"symbol": "BTCEUR", "price": "97000"}),
        ("binance", [{"symbol": "BTCUSDT", "price": "97000"}]),
        ("binance", {"code": -1121, "msg": "Invalid symbol."}),
    ],
)
def test_another_pair_another_shape_or_an_error_is_no_answer(name: str, body: object) -> None:
    (exchange,) = [e for e in EXCHANGES if e.name == name]
    with pytest.raises(QuoteError):
        exchange.read(json.dumps(body).encode())


@settings(deadline=None)
@given(st.binary() | JSON.map(lambda told: json.dumps(told).encode()))
@example(b"<!DOCTYPE html><html><body>Just a moment...</body></html>")
@example(b"[" * 16_000)
@example(b'{"a":' * 3_000)
@example(b"9" * 16_000)
@example(b"\xff\xfe\x00")
@example(b"")
def test_nothing_but_a_refusal_comes_of_junk(body: bytes) -> None:
    for exchange in EXCHANGES:
        with pytest.raises(QuoteError):
            exchange.read(body)


# --- what follows from several ----------------------------------------------------------------------


def test_of_three_it_is_the_median() -> None:
    assert decided(99_900, 100_000, 100_200) == 100_000
    assert decide(usd(99_900, 100_000, 100_200), None) == Decided(Decimal(100_000), tuple(NAMES))


@pytest.mark.parametrize("lie", [1_000, 10_000, 90_000, 110_000, 1_000_000, 100_000_000])
def test_one_liar_of_three_is_outvoted(lie: int) -> None:
    assert decided(100_000, 100_100, lie) in (100_000, 100_100)
    assert decided(100_000, 100_100, lie, trusted=lie) in (100_000, 100_100)


def test_one_gone_leaves_the_middle_of_two_that_agree() -> None:
    assert decided(100_000, 100_200) == 100_100


def test_two_in_conflict_make_no_price_unless_one_of_them_is_likely() -> None:
    assert decided(100_000, 1_000_000) is None
    assert decided(100_000, 1_000_000, trusted=101_000) == 100_000
    assert decided(100_000, 1_000_000, trusted=400_000) is None
    assert decided(98_000, 103_000, trusted=100_000) is None  # both are likely: who knows


def test_three_in_conflict_make_no_price_unless_one_of_them_is_likely() -> None:
    assert decided(50_000, 100_000, 200_000) is None
    assert decided(50_000, 100_000, 200_000, trusted=101_000) == 100_000
    assert decided(50_000, 100_000, 200_000, trusted=50_500) == 50_000


def test_one_alone_is_believed_only_near_what_two_agreed_on() -> None:
    assert decided(100_000) is None
    assert decided(104_900, trusted=100_000) == 104_900
    assert decided(105_100, trusted=100_000) is None
    assert decided(94_900, trusted=100_000) is None
    assert decided(1_000_000, trusted=100_000) is None


def test_two_that_agree_are_believed_though_the_market_fell() -> None:
    assert decided(65_000, 65_100, trusted=100_000) == 65_050


def test_nobody_makes_no_price() -> None:
    assert decide({}, None) is None
    assert decide({}, Decimal(100_000)) is None


@settings(deadline=None)
@given(
    true=SANE,
    spread=st.lists(SMALL, min_size=2, max_size=2),
    lie=SANE,
    trusted=SANE | st.none(),
    place=st.integers(0, 2),
)
def test_of_three_one_may_say_what_it_likes(
    true: Decimal, spread: list[Decimal], lie: Decimal, trusted: Decimal | None, place: int
) -> None:
    honest = [true * (1 + off) for off in spread]
    prices = [*honest]
    prices.insert(place, lie)
    found = decide(usd(*prices), trusted)
    assert found is not None
    assert min(honest) <= found.usd_per_btc <= max(honest)


@settings(deadline=None)
@given(true=SANE, lie=SANE, moved=st.decimals("-0.05", "0.05", places=4) | st.none())
def test_of_two_a_liar_gains_little(true: Decimal, lie: Decimal, moved: Decimal | None) -> None:
    """What it can gain is AGREE, or a STEP from a price that was right before the market moved."""
    found = decide(usd(true, lie), None if moved is None else true * (1 + moved))
    if found is not None:
        gained = found.usd_per_btc / true
        least, most = (1 - STEP) * (1 - STEP), (1 + STEP) * (1 + STEP)
        assert least <= gained <= most
        assert len(found.sources) == 1 or 1 / (1 + AGREE) <= gained <= 1 / (1 - AGREE)


@settings(deadline=None)
@given(prices=st.lists(SANE, max_size=3), trusted=SANE | st.none())
def test_a_rate_is_between_what_was_said_and_names_who_stands_for_it(
    prices: list[Decimal], trusted: Decimal | None
) -> None:
    quotes = usd(*prices)
    found = decide(quotes, trusted)
    if found is not None:
        said = [quotes[name] for name in found.sources]
        assert min(said) <= found.usd_per_btc <= max(said)
        assert len(said) > 1 or (trusted is not None and abs(said[0] - trusted) <= STEP * trusted)
