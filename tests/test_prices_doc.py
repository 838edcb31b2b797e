"""`docs/prices.md` on paper: its numbers are read out of it and computed again by what sells."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from addon import catalog
from addon.catalog import PRICE_KEYS
from addon.pricing import Cap, Quantities, bounds_of, charge, price_in_usd, worst_case
from addon.settings import Settings

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "prices.md").read_text("utf-8")


def table(head: str) -> dict[str, list[str]]:
    """The rows of a table, by their first cell; `head` begins its header."""
    rows = TEXT.split(f"| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows]
    return {first: rest for first, *rest in cells}


def number(text: str) -> Decimal:
    found = re.match(r"[\d,.]*\d", text)
    assert found, text
    return Decimal(found[0].replace(",", ""))


def test_the_example_on_paper_is_what_the_node_computes() -> None:
    given = {name: number(value) for name, (value,) in table("given").items()}
    rate, exchange, provider, size, cap, tokens_in, cached, tokens_out = given.values()
    (entry,) = re.findall(r"```json\n(.*?)```", TEXT, re.S)
    (model,) = catalog.read(f"[{entry}]")
    assert model.usd is not None
    price = price_in_usd(model.usd, usd_per_btc=rate, exchange_fee=exchange, provider_fee=provider)
    bounds = bounds_of(
        model, Cap(("max_tokens",), int(cap)), body_bytes=int(size), has_output=True, unseen_input=False,
        self_bounded=False, default_context=8192, min_output=256,
    )  # fmt: skip
    held = worst_case(price, bounds.most(bounds.output_tokens), minimum_msat=1)
    used = Quantities(int(tokens_in), int(tokens_out), cache_read=int(cached))
    cost = charge(price, used, hold_msat=held, minimum_msat=1, held_at_ms=0)
    tier = model.usd.applied(int(bounds.input_tokens), 0)
    assert model.usd.cache_read is not None
    computed = {
        "a dollar in msat, both fees in it": price.msat(Decimal(1)),
        "an input token": price.msat(model.usd.input),
        "an input token above 3,000": price.msat(tier.input),
        "a cached token": price.msat(model.usd.cache_read),
        "an output token": price.msat(model.usd.output),
        "the request's fee": price.msat(model.usd.request),
        "the most tokens of input": bounds.input_tokens,
        "held": held,
        "charged": cost.total_msat,
        "of it for the input, the fee too": cost.input_msat,
        "of it for the output": cost.output_msat,
        "given back": held - cost.total_msat,
    }
    assert {name: Fraction(number(result)) for name, (_, result) in table("step").items()} == computed


@pytest.mark.parametrize("step", table("step"))
def test_each_line_of_the_example_adds_up(step: str) -> None:
    """What stands left of `=` is what stands right of it, or the result; a result is never below the exact sum."""
    paper, result = table("step")[step]
    sum_, _, exact = paper.partition(" = ")
    terms = sum_.replace(",", "").replace("×", "*").replace("−", "-")
    assert re.fullmatch(r"[\d.+*/ -]+", terms)
    value = eval(re.sub(r"[\d.]+", lambda m: f"Fraction('{m[0]}')", terms), {"Fraction": Fraction})
    assert value == Fraction(number(exact or result))
    assert 0 <= Fraction(number(result)) - value < 1


def test_the_fees_of_the_example_are_the_defaults() -> None:
    given = table("given")
    for name in ("EXCHANGE_FEE", "UPSTREAM_PROVIDER_FEE"):
        assert number(given[f"`{name}`"][0]) == Settings.model_fields[name.lower()].default


def test_every_key_that_is_understood_is_documented() -> None:
    documented = {key for cell in table("key of `pricing`") for key in re.findall(r"`(\w+)`", cell)}
    assert documented == {*PRICE_KEYS, "overrides", "discount"}
    conditions = {key for cell in table("condition") for key in re.findall(r"`(\w+)`", cell)}
    for key in conditions:
        (odd,) = catalog.parse(
            [{"id": "m", "pricing": {"prompt": "1e-6", "completion": "1e-6", "overrides": [{key: "?"}]}}]
        )
        assert odd.unpriced and "understood" not in odd.unpriced


def test_the_settings_it_names_exist() -> None:
    names = set(re.findall(r"`([A-Z][A-Z_]{3,})(?:=\w+)?`", TEXT))
    assert names and {name.lower() for name in names} <= set(Settings.model_fields)
