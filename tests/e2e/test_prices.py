"""Prices through the real node: the banner names what is not sold, a tier is held and charged, an odd file ends the start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.realparts import PartFailed
from tests.e2e.conftest import Business, Node
from tests.parts.upstream import until, whole

USD = {"MODEL_BASED_PRICING": "true", "EXCHANGE_FEE": "1", "UPSTREAM_PROVIDER_FEE": "1", "BTC_USD": "100000"}
"""A millionth of a dollar is a msat."""
PLAIN = {"prompt": "0.000001", "completion": "0.000003"}
TIERED = PLAIN | {
    "input_cache_read": "0.0000005",
    "overrides": [{"min_prompt_tokens": 200, "prompt": "0.000002", "completion": "0.000005"}],
}
NIGHT_AND_DAY = PLAIN | {
    "overrides": [
        {"utc_start": 0, "utc_end": 1200, "prompt": "0.000004"},
        {"utc_start": 1200, "utc_end": 2400, "prompt": "0.000004"},
    ]
}


@pytest.fixture(scope="module")
def shop(business: Business, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A node with a hundred models, a few of them odd."""
    home = tmp_path_factory.mktemp("shop")
    entries: list[Any] = [{"id": f"m{n}", "context_length": 8192, "pricing": PLAIN} for n in range(93)]
    entries[50:50] = [
        {"id": "tiered", "context_length": 8192, "pricing": TIERED},
        {"id": "clock", "context_length": 8192, "pricing": NIGHT_AND_DAY},
        {
            "id": "nickname",
            "forwarded_model_id": "vendor/long-name:8b",
            "context_length": 8192,
            "pricing": {"prompt": "0.000002", "completion": "0.000004"},
        },
        {"id": "odd", "pricing": PLAIN | {"surcharge": "0.1"}},
        {"id": "per-million", "pricing": {"prompt": "2.5", "completion": "10"}},
        {"name": "nameless"},
        {"id": "minus", "pricing": {"prompt": "-1", "completion": "-1"}},
    ]
    (home / "models.json").write_text(json.dumps({"data": entries}))
    settings = (
        business.settings
        | USD
        | {"MODELS_PATH": str(home / "models.json"), "STATE_DIR": str(home / "state"), "NSEC": "5" * 64}
    )
    node = Node(home, business.upstream.url, settings)
    try:
        yield node.start()
    finally:
        node.stop()


def test_odd_entries_among_a_hundred_are_not_sold_and_the_operator_reads_why(shop: Node, business: Business) -> None:
    sold = {model["id"] for model in shop.call("GET", "/v1/models").json()["data"]}
    assert len(sold) == 96 and not sold & {"odd", "per-million", "minus"}
    said = until(lambda: "and 1 more" in (log := shop.part.logged()) and log, "the banner is complete")
    assert "odd: the price 'surcharge' is not understood" in said and "is it per million tokens?" in said
    assert "entry 56: it has no id" in said
    key, before = business.account(50, shop), business.forwarded()
    for model in ("odd", "per-million", "minus", "entry 56"):
        answer = shop.chat(key, model=model)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "model_not_found")
    assert business.forwarded() == before


def test_a_longer_prompt_is_charged_at_its_own_tier(shop: Node, business: Business) -> None:
    """The hold was for the dear one all the time."""
    key = business.account(200, shop)
    short = business.upstream.on(business.name(), whole(200, 3))
    assert shop.chat(key, short, model="tiered").cost == 200 * 1 + 3 * 3
    longer = business.upstream.on(business.name(), whole(201, 3))
    assert shop.chat(key, longer, model="tiered").cost == 201 * 2 + 3 * 5
    cached = {"prompt_tokens": 300, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 100}}
    mixed = business.upstream.on(business.name(), whole(usage=cached))
    assert shop.chat(key, mixed, model="tiered").cost == 200 * 2 + 50 + 3 * 5


def test_the_hour_decides_where_it_is_priced(shop: Node, business: Business) -> None:
    """Both halves of the day are priced alike here: the test has an hour, too."""
    key = business.account(200, shop)
    do = business.upstream.on(business.name(), whole(100, 3))
    assert shop.chat(key, do, model="clock").cost == 100 * 4 + 3 * 3


def test_an_alias_reaches_the_upstream_by_its_own_name_and_costs_its_own_price(shop: Node, business: Business) -> None:
    """What the upstream answers is not rewritten; its own name is not on sale."""
    key, do = business.account(200, shop), business.upstream.on(business.name(), whole(7, 3))
    answer = shop.chat(key, do, model="nickname")
    assert answer.status == 200 and answer.cost == 7 * 2 + 3 * 4 and answer.json()["model"] == "up"
    assert json.loads(business.upstream.received[-1].body)["model"] == "vendor/long-name:8b"
    assert shop.chat(key, do, model="vendor/long-name:8b").status == 400
    assert "long-name" not in shop.call("GET", "/v1/models").body.decode()


@pytest.mark.parametrize("text", ["", "{}", '{"data": 5}', "<html>", "[" * 50_000])
def test_a_file_that_is_no_list_ends_the_start(own: Callable[..., Node], tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    node = own(MODELS_PATH=str(tmp_path / "bad.json"), **USD)
    with pytest.raises(PartFailed):
        node.start()
    said = node.part.logged()
    assert node.part.returncode == 1 and "MODELS_PATH: " in said and "bad.json cannot be used" in said
    assert "Traceback" not in said
