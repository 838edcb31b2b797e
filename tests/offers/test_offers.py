"""What is on sale: by which list, at which rate, and what clients and the operator are told of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from addon import banner, offers, orders
from addon.catalog import Model, parse
from addon.errors import ModelNotFound, RateUnavailable, SettingsError
from addon.metering import family_of
from addon.offers import NOTHING_LISTED, Offers, UpstreamList
from addon.pricing import Quantities, charge
from addon.settings import Settings

PRICES = {"prompt": "0.000001", "completion": "0.000003"}
ENTRIES = [
    {"id": "cheap", "context_length": 8192, "pricing": PRICES},
    {"id": "odd", "pricing": PRICES | {"surprise": "1"}},
    {"id": "free", "pricing": {"prompt": "0", "completion": "0"}},
    {"name": "nameless"},
    {"id": "dear", "pricing": {"prompt": "0.00001", "completion": "0.00003"}, "forwarded_model_id": "up:dear"},
]
FEES = {"exchange_fee": Decimal(1), "upstream_provider_fee": Decimal(1)}
RATE = Decimal(100_000)
"""USD per bitcoin: a millionth of a dollar is a msat."""


def sold(
    models: object = None, listed: UpstreamList = NOTHING_LISTED, source: str = "m.json", **settings: Any
) -> Offers:
    chosen: dict[str, Any] = {"model_based_pricing": True, "btc_usd": RATE} | FEES | settings
    return offers.build(Settings(**chosen), parse(ENTRIES if models is None else models), listed, source)


def cost(on_sale: Offers, model: str) -> int:
    """msat of a thousand tokens in and none out."""
    price = on_sale.find(model).price
    return charge(price, Quantities(1000, 0), hold_msat=10**12, minimum_msat=1, held_at_ms=0).total_msat


def test_what_has_a_price_is_sold_and_the_rest_says_why_not() -> None:
    on_sale = sold()
    assert set(on_sale.by_id) == {"cheap", "dear"}
    assert [name for name, _ in on_sale.refused] == ["odd", "free", "entry 4"]
    for name in ("odd", "free", "entry 4", "up:dear", "CHEAP"):
        with pytest.raises(ModelNotFound):
            on_sale.find(name)


def test_static_prices_need_none_in_the_list_but_an_entry_without_a_name_is_not_sold() -> None:
    on_sale = sold(model_based_pricing=False)
    assert set(on_sale.by_id) == {"cheap", "odd", "free", "dear"}
    assert on_sale.refused == [("entry 4", "it has no id that can be used")]


def test_an_alias_is_asked_for_by_its_own_name_and_priced_by_its_own_entry() -> None:
    on_sale = sold()
    assert on_sale.find("dear").model.upstream_id == "up:dear" and cost(on_sale, "dear") == 10_000
    listed = UpstreamList((), {"up:dear": "llamacpp", "other": "vllm"})
    assert not sold(listed=listed).find("dear").self_bounded
    assert sold(listed=UpstreamList((), {"other": "llamacpp", "up:dear": "vllm"})).find("dear").self_bounded


def test_a_model_priced_by_the_piece_alone_is_not_asked_for_text() -> None:
    """(Nothing is free by accident: chat with it would cost the minimum.)"""
    on_sale = sold([{"id": "paint", "pricing": {"prompt": "0", "completion": "0", "image_output": "0.04"}}])
    asked = json.dumps({"model": "paint", "messages": [], "input": "hi"}).encode()
    for path in ("/v1/chat/completions", "/v1/embeddings"):
        family = family_of(path)
        assert family is not None
        with pytest.raises(ModelNotFound, match="kind of request"):
            orders.read(family, asked, on_sale, Settings())


# --- the rate ---------------------------------------------------------------------------------------


def test_without_a_rate_usd_models_are_unavailable_and_others_still_unknown() -> None:
    """Never a wrong price: 503 for what will be sold again, 400 for what never was."""
    blind = sold(btc_usd=None)
    assert not blind.by_id and blind.awaiting == {"cheap", "dear"}
    with pytest.raises(RateUnavailable):
        blind.find("cheap")
    for name in ("odd", "nowhere"):
        with pytest.raises(ModelNotFound):
            blind.find(name)
    assert blind.dearest is None


def test_a_new_rate_makes_new_offers_and_leaves_the_old_ones_as_they_were() -> None:
    old = sold()
    new = offers.reprice(old, RATE / 2)
    assert (cost(old, "cheap"), cost(new, "cheap")) == (1000, 2000)
    assert (new.source, new.refused, new.usd_per_btc) == (old.source, old.refused, RATE / 2)
    gone = offers.reprice(new, None)
    assert gone.awaiting == {"cheap", "dear"} and cost(offers.reprice(gone, RATE), "cheap") == 1000
    assert offers.reprice(Offers({}), RATE) == Offers({})


def test_fees_raise_prices_in_usd_and_leave_static_ones_alone() -> None:
    """(Incident 30.)"""
    fees: dict[str, Any] = {"exchange_fee": Decimal("1.1"), "upstream_provider_fee": Decimal("1.5")}
    assert cost(sold(**fees), "cheap") == 1650
    static = sold(model_based_pricing=False, cost_per_request=Decimal(0), cost_per_1k_input_tokens=Decimal(2), **fees)
    assert cost(static, "cheap") == 2000 == cost(offers.reprice(static, None), "cheap")


def test_the_dearest_model_sets_the_price_of_a_request_that_was_not_read() -> None:
    dearest = sold().dearest
    assert dearest is not None and dearest.id == "dear"


# --- told -------------------------------------------------------------------------------------------


def told(on_sale: Offers, model: str, **settings: Any) -> dict[str, Any]:
    chosen = Settings(**{"model_based_pricing": True} | settings)
    listed = offers.listing(on_sale.find(model), chosen, on_sale.usd_per_btc)
    return json.loads(json.dumps(listed, allow_nan=False))  # type: ignore[no-any-return]


def test_the_list_tells_every_price_in_sats_and_not_what_the_upstream_calls_a_model() -> None:
    entry = {"id": "a", "context_length": 1000, "top_provider": {"max_completion_tokens": 100}, "forwarded_model_id": "b",
             "pricing": PRICES | {"input_cache_read": "0.0000005", "image_output": "0.04", "web_search": "0.01"}}  # fmt: skip
    listed = told(sold([entry]), "a")
    assert "forwarded_model_id" not in listed and listed["pricing"] == entry["pricing"] and listed["enabled"]
    assert listed["sats_pricing"] == {
        "prompt": 0.001, "completion": 0.003, "request": 0.0, "input_cache_read": 0.0005, "input_cache_write": 0.001,
        "input_cache_write_1h": 0.001, "internal_reasoning": 0.003, "audio": 0.001, "input_audio_cache": 0.0005,
        "audio_output": 0.003, "image_token": 0.001, "image_output": 40.0, "web_search": 10.0,
        "max_prompt_cost": 1.0, "max_completion_cost": 0.3, "max_cost": 1.3,
    }  # fmt: skip


def test_the_most_a_request_can_cost_counts_the_dearest_tier() -> None:
    entry = {
        "id": "a",
        "context_length": 1000,
        "pricing": PRICES | {"overrides": [{"min_prompt_tokens": 500, "prompt": "0.000002"}]},
    }
    assert told(sold([entry]), "a")["sats_pricing"]["max_prompt_cost"] == 2.0


def test_static_prices_are_told_as_they_are_charged_and_in_usd_only_with_a_rate() -> None:
    static: dict[str, Any] = {
        "model_based_pricing": False,
        "cost_per_request": Decimal(1),
        "cost_per_1k_input_tokens": Decimal(3),
    }
    on_sale = sold(**static)
    usd = told(on_sale, "cheap", **static)["pricing"]
    assert {key: Decimal(value) for key, value in usd.items()} == {
        "prompt": Decimal("0.000003"), "completion": 0, "request": Decimal("0.001")
    }  # fmt: skip
    assert told(offers.reprice(on_sale, None), "cheap", **static)["pricing"] == {}


def test_an_entry_that_says_nothing_gets_what_clients_expect() -> None:
    listed = told(sold([{"id": "a"}], model_based_pricing=False), "a", model_based_pricing=False)
    assert listed["context_length"] == 8192 and listed["object"] == "model" and listed["top_provider"]


def test_the_banner_warns_of_the_example_and_of_a_missing_rate() -> None:
    def lines(on_sale: Offers) -> str:
        return "\n".join(
            banner.lines(
                Settings(model_based_pricing=True), on_sale, listening=[], upstream="u", reachable=True, recovered=0
            )
        )

    found = offers.read_models_file(Settings(model_based_pricing=True))
    assert found is not None
    assert "EXAMPLE" in lines(sold(source=str(found[1]))) and "EXAMPLE" not in lines(sold())
    assert "odd: the price 'surprise' is not understood" in lines(sold())
    assert "2 wait for the price of bitcoin" in lines(sold(btc_usd=None))


# --- files ------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(found: tuple[list[Model], Path] | None) -> list[str]:
    return [] if found is None else [model.id for model in found[0]]


def test_the_file_is_the_one_named_else_the_own_one_else_the_example(elsewhere: Path) -> None:
    assert offers.read_models_file(Settings()) is None
    example = offers.read_models_file(Settings(model_based_pricing=True))
    assert example is not None and example[1].name == "models.example.json"
    assert all(model.usd is not None for model in example[0]), "the example sells"
    (elsewhere / "models.json").write_text(json.dumps([{"id": "own"}]))
    (elsewhere / "other.json").write_text(json.dumps([{"id": "other"}]))
    assert names(offers.read_models_file(Settings(model_based_pricing=True))) == ["own"]
    assert names(offers.read_models_file(Settings(models_path=Path("other.json")))) == ["other"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "cannot be read"), (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_text("{}"), "must hold a list"), (lambda path: path.write_text(""), "not valid JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not valid JSON"), (lambda path: path.write_text("[" * 99_999), "deeply"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_list_is_an_error_at_start(elsewhere: Path, make: Callable[[Path], object], why: str) -> None:
    path = elsewhere / "bad.json"
    make(path)
    with pytest.raises(SettingsError, match=f"MODELS_PATH: .*bad.json cannot be.*{why}|bad.json {why}"):
        offers.read_models_file(Settings(models_path=path))


# --- the upstream's own list ------------------------------------------------------------------------


@contextmanager
def upstream(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.anyio
async def test_the_upstreams_list_says_what_it_serves_and_what_kind_it_is() -> None:
    body = {"object": "list", "data": [{"id": "tiny", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}}, 5, {"id": "b"}]}
    with upstream(200, json.dumps(body).encode()) as url:
        listed = await offers.ask_upstream(url, "")
    assert listed is not None and [model.id for model in listed.models] == ["tiny", "entry 2", "b"]
    assert listed.models[0].context_length == 4096
    bounded = {d: listed.self_bounded("tiny", context_known=True, dialect=d) for d in ("auto", "vllm", "ollama")}
    assert bounded == {"auto": False, "vllm": True, "ollama": False}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body"), [(500, b"{}"), (200, b"<html>"), (200, b"{}"), (200, b"[" * 99_999), (200, b""), (404, b"[]")]
)
async def test_an_upstream_without_a_list_is_asked_again_later(status: int, body: bytes) -> None:
    with upstream(status, body) as url:
        assert await offers.ask_upstream(url, "k") is None
