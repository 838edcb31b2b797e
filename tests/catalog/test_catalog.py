"""A list of models: what is understood is sold at exactly its price, what is not is refused alone, with the reason."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.catalog import PRICE_KEYS, CatalogError, Model, Tariff, Tier, Window, parse, read

PRICES = {"prompt": "0.000001", "completion": "0.000002"}
ENTRY = {"id": "m", "context_length": 8192, "pricing": PRICES}
USD = Tariff(Decimal(0), Decimal("0.000001"), Decimal("0.000002"))
TIER = {"min_prompt_tokens": 200000, "prompt": "0.000004"}


def model(entry: dict[str, Any]) -> Model:
    (made,) = parse([entry])
    return made


def priced(**prices: object) -> Model:
    return model(ENTRY | {"pricing": PRICES | prices})


@pytest.mark.parametrize("document", [{"data": [ENTRY]}, {"models": [ENTRY]}, [ENTRY]])
def test_a_models_file_is_read_in_its_usual_shapes(document: object) -> None:
    (made,) = parse(document)
    assert (made.id, made.upstream_id, made.context_length, made.usd) == ("m", "m", 8192, USD)


@pytest.mark.parametrize("text", ["", "{", "5", "null", "{}", '{"data": {}}', "[" * 100_000, b"\xff\xfe\x00"])
def test_what_is_no_list_of_models_at_all_is_an_error(text: str | bytes) -> None:
    with pytest.raises(CatalogError):
        read(text)


# --- one entry does not stop the others -------------------------------------------------------------

BAD_ENTRIES: list[str] = [
    "5", "null", "[]", "{}", '{"id": 5}', '{"id": ""}', '{"id": "a\\u0000b"}', '{"id": "%s"}' % ("x" * 300),
    '{"id": "b", "forwarded_model_id": 5}', '{"id": "b", "forwarded_model_id": ""}',
    '{"id": "b", "id": "c", "pricing": {}}', '{"id": "b", "pricing": {"prompt": "1e-6", "prompt": "2e-6"}}',
    '{"id": "b", "x": %s}' % ("[" * 700 + "]" * 700),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_ENTRIES)
def test_one_bad_entry_among_a_hundred_is_refused_alone_and_says_where(bad: str) -> None:
    good = [json.dumps(ENTRY | {"id": f"m{n}"}) for n in range(99)]
    made = read("[" + ",".join([*good[:41], bad, *good[41:]]) + "]")
    refused = [m for m in made if m.fault is not None]
    assert len(made) == 100 and len(refused) == 1 and len([m for m in made if m.usd == USD]) == 99
    assert refused[0].id in ("entry 42", "b", "c")


def test_an_id_that_stands_twice_with_different_words_is_not_sold_at_either_price() -> None:
    other = ENTRY | {"pricing": PRICES | {"prompt": "0.5"}}
    for document in ([ENTRY, other], [other, ENTRY], [ENTRY, ENTRY, other], [ENTRY, other, ENTRY]):
        (made,) = parse(document)
        assert made.id == "m" and made.fault and made.usd is None
    assert parse([ENTRY, ENTRY]) == parse([ENTRY])


# --- prices -----------------------------------------------------------------------------------------


def test_every_price_key_has_its_part() -> None:
    """As OpenRouter lists them, per token; images from half a thousandth of a dollar on are priced by the piece."""
    keys = {key: f"0.0000{place:02d}" for place, key in enumerate(PRICE_KEYS, 11)}
    usd = model(ENTRY | {"pricing": keys}).usd
    assert usd is not None
    told = {
        "prompt": usd.input, "completion": usd.output, "internal_reasoning": usd.reasoning,
        "input_cache_read": usd.cache_read, "input_cache_write": usd.cache_write,
        "input_cache_write_1h": usd.cache_write_1h, "audio": usd.input_audio, "input_audio_cache": usd.cached_audio,
        "audio_output": usd.output_audio, "image_token": usd.input_image, "second": usd.second,
        "character": usd.character, "request": usd.request, "web_search": usd.search, "image_output": usd.output_image,
    }  # fmt: skip
    assert told == {key: Decimal(price) for key, price in keys.items() if key != "image"}
    assert usd.image_sent is None and usd.image_made is None


def test_images_are_priced_by_the_token_or_by_the_piece() -> None:
    by_token, by_piece = (
        priced(image="0.0000003", image_output="0.00012").usd,
        priced(image="0.001", image_output="0.04").usd,
    )
    assert by_token is not None and by_piece is not None
    assert (by_token.input_image, by_token.output_image) == (Decimal("0.0000003"), Decimal("0.00012"))
    assert (by_piece.image_sent, by_piece.image_made) == (Decimal("0.001"), Decimal("0.04"))
    clear = priced(image="0.0000003", image_token="0.0000007").usd
    assert clear is not None and clear.input_image == Decimal("0.0000007")


@pytest.mark.parametrize("zero", ["0", "0.0", 0, None])
def test_zero_means_not_priced_apart(zero: object) -> None:
    """Else the cheapest cached token would be free, and so would every search."""
    assert priced(**{key: zero for key in PRICE_KEYS if key not in PRICES}, discount=zero).usd == USD


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("prompt", "-1", "negative"), ("prompt", "NaN", "negative or not"), ("prompt", "Infinity", "not a number"),
        ("prompt", "2.5", "per million"), ("completion", "0.0101", "per million"), ("prompt", True, "not a number"),
        ("prompt", None, "must both"), ("prompt", "", "not a number"), ("prompt", [], "not a number"),
        ("prompt", "1e-60", "decimals"), ("prompt", "9" * 5000, "not a number|per million"), ("surprise", "0.1", "'surprise' is not understood"),
        ("web_search", "101", "above 100"), ("image", "-0.1", "negative"), ("discount", 0.2, "discount"),
        ("input_cache_write_1h", "3", "per million"),
    ],
)  # fmt: skip
def test_a_price_that_is_not_wholly_understood_takes_the_model_off_sale(key: str, value: object, why: str) -> None:
    made = priced(**{key: value})
    assert made.usd is None and made.fault is None
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(made.unpriced)


@pytest.mark.parametrize("pricing", [None, 5, [], {}, {"prompt": "1e-6"}, {"prompt": "0", "completion": "0"}])
def test_without_prices_there_is_a_reason(pricing: object) -> None:
    made = model({"id": "m", "pricing": pricing})
    assert made.usd is None and made.unpriced


# --- tiers ------------------------------------------------------------------------------------------


def tiers(*overrides: object) -> tuple[Tier, ...]:
    usd = priced(overrides=list(overrides)).usd
    assert usd is not None
    return usd.tiers


def test_tiers_by_length_and_by_hour_are_read() -> None:
    four = {"input": Decimal("0.000004")}
    assert tiers() == ()
    assert tiers(TIER) == (Tier(four, 200_000),)
    assert tiers(TIER | {"min_prompt_tokens": 2e5}) == tiers(TIER)
    night = {"utc_start": 1630, "utc_end": 30, "prompt": "0.000004"}
    assert tiers(night) == (Tier(four, 0, Window(990, 30)),)
    weekend = {"utc_days": ["saturday", "Sunday"], "prompt": "0.000004"}
    assert tiers(weekend) == (Tier(four, 0, Window(days=frozenset((5, 6)))),)
    both = {"utc_days": ["monday"], "utc_start": 0, "utc_end": 2400, "min_prompt_tokens": 5, "prompt": "0.000004"}
    assert tiers(both) == (Tier(four, 5, Window(0, 1440, frozenset((0,)))),)


@pytest.mark.parametrize(
    "override",
    [
        5, {}, {"prompt": "0.1"}, {"min_prompt_tokens": 5}, TIER | {"region": "eu"}, TIER | {"prompt": "-1"},
        TIER | {"min_prompt_tokens": -5}, TIER | {"min_prompt_tokens": 2.5}, TIER | {"min_prompt_tokens": "x"},
        TIER | {"min_prompt_tokens": True}, TIER | {"utc_start": 100}, TIER | {"utc_start": 100, "utc_end": 100},
        TIER | {"utc_start": 1270, "utc_end": 1300}, TIER | {"utc_start": 100, "utc_end": 2500},
        TIER | {"utc_days": []}, TIER | {"utc_days": ["someday"]}, TIER | {"utc_days": "monday"},
        TIER | {"utc_days": ["monday"], "utc_start": 2300, "utc_end": 100}, TIER | {"overrides": []},
    ],
)  # fmt: skip
def test_a_tier_that_is_not_wholly_understood_takes_the_model_off_sale(override: object) -> None:
    """Ignored, it would sell long prompts at half their price."""
    made = priced(overrides=[override])
    assert made.usd is None and made.unpriced
    assert priced(overrides="x").usd is None and priced(overrides={}).usd is None


# --- what it says besides ---------------------------------------------------------------------------


def test_an_entry_may_name_what_the_upstream_calls_it() -> None:
    made = model(ENTRY | {"forwarded_model_id": "llama3:8b-q4"})
    assert (made.id, made.upstream_id) == ("m", "llama3:8b-q4")


def test_the_context_is_found_where_servers_tell_it() -> None:
    for extra in (
        {"context_length": 9},
        {"top_provider": {"context_length": 9}},
        {"max_model_len": 9},
        {"meta": {"n_ctx": 9}},
    ):
        assert model({"id": "m"} | extra).context_length == 9
    for odd in (0, -5, True, "8192", 1e30, None):
        assert model({"id": "m", "context_length": odd}).context_length is None


def test_exact_numbers_survive_being_told_again() -> None:
    """(A number without quotes would once have broken the whole list.)"""
    (made,) = read('[{"id": "m", "pricing": {"prompt": 0.00000012345678901234567, "completion": 1e-7}, "elo": 1385.2}]')
    assert made.usd is not None and made.usd.input == Decimal("0.00000012345678901234567")
    told = json.loads(json.dumps(made.listing))
    assert Decimal(told["pricing"]["prompt"]) == made.usd.input and told["elo"] == 1385.2
    (odd,) = read('[{"id": "m", "a": NaN, "b": 1e999, "c": 123456789012345678901234567890}]')
    assert "NaN" not in json.dumps(odd.listing, allow_nan=False).replace('"NaN"', "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.decimals().map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
condition = st.dictionaries(
    st.sampled_from(["min_prompt_tokens", "utc_start", "utc_end", "utc_days", *PRICE_KEYS]), json_values, max_size=5
)
pricings = st.dictionaries(st.sampled_from([*PRICE_KEYS, "overrides"]), json_values | st.lists(condition, max_size=3))
entry = st.fixed_dictionaries(
    {"id": st.just("m") | st.text(max_size=3)},
    optional=dict.fromkeys(("context_length", "top_provider", "meta", "forwarded_model_id"), json_values)
    | {"pricing": pricings | pricings.map(lambda p: PRICES | p)},
)


@given(st.lists(entry | json_values, max_size=5))
def test_no_list_however_odd_stops_the_node_or_sells_below_zero(document: list[Any]) -> None:
    made = read(json.dumps(document))
    assert len({m.id for m in made}) == len(made)
    for m in made:
        assert (m.usd is None) == bool(m.fault or m.unpriced)
        if m.usd is not None:
            assert 0 <= m.usd.input <= Decimal("0.01") and not m.usd.is_free
            json.dumps(m.listing, allow_nan=False)
