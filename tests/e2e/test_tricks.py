"""What a buyer may try in order to pay less than an answer costs, one test for each trick; none gets him anything.

Others stand where their matter is: leaving early (`test_left_behind.py`, `test_crashes.py`), texts that read like
figures (`test_forms.py`), Ollama's guard against repeats (`test_families.py`), a dear model by another name
(`test_prices.py`), bodies in codings that nobody undoes (`test_bodies.py`).
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import COST, Answer, Business
from tests.parts.upstream import DONE, Received, chunk, stream, until, whole

FUNDS = 50_000
"""msat on each account here."""
SAID = b'{"model":"small","messages":[{"role":"user","content":"x"}],'


def served(business: Business, headers: Any = (), **body: Any) -> tuple[Answer, Received]:
    """A request that is served, and as it came to the upstream."""
    name = business.name()
    answer = business.node.chat(business.account(50), business.upstream.on(name, whole()), headers, **body)
    assert answer.status == 200, answer.body
    (received,) = business.upstream.seen(name)
    return answer, received


def refused(business: Business, body: bytes | dict[str, Any], path: str = "/v1/chat/completions") -> Any:
    """The error that a request gets; it never reached the upstream, and nothing was taken for it."""
    key, before = business.account(50), business.forwarded()
    answer = business.node.call("POST", path, body, key=key)
    assert 400 <= answer.status < 500, answer.body
    info = business.node.info(key)
    assert (info["balance"], info["reserved"], business.forwarded()) == (FUNDS, 0, before)
    return answer.json()["error"]


# --- an answer that is kept for later -----------------------------------------------------------------


@pytest.mark.parametrize("header", ["X-Conversation-Id", "x-conversation-id", "X_Conversation_Id"])
def test_a_conversations_name_never_goes_upstream(business: Business, header: str) -> None:
    """llama-server goes on for a client that left when it has one, and plays the answer again for nothing."""
    _, received = served(business, [(header, "mine")])
    assert not any("conversation" in name.lower() for name, _ in received.headers)


@pytest.mark.parametrize(
    "path", ["/v1/stream", "/v1/stream?conv_id=mine", "/stream?conv_id=mine", "/v1/responses/resp_1"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_no_answer_is_played_again(business: Business, method: str, path: str) -> None:
    before = business.forwarded(), len(business.upstream.received)
    answer = business.node.call(method, path, {} if method == "POST" else None, key=business.account(5))
    assert answer.status == 404
    assert (business.forwarded(), len(business.upstream.received)) == before


# --- figures that do not come -------------------------------------------------------------------------


def test_a_stream_that_asks_for_no_figures_is_charged_by_them(business: Business) -> None:
    name = business.name()
    do = business.upstream.on(name, *stream(), kind="text/event-stream", chunked=True)
    options = {"include_usage": False}
    answer = business.node.chat(business.account(50), do, stream=True, stream_options=options)
    assert (answer.cost, answer.receipt["usage_source"]) == (COST, "reported")
    (received,) = business.upstream.seen(name)
    assert received.json()["stream_options"] == {"include_usage": True}


def test_a_stream_that_another_request_broke_off_is_counted(business: Business) -> None:
    """llama-cpp-python ends a running stream properly when the next request comes, and never tells figures."""
    words = [chunk(f"word{n} ") for n in range(6)]
    do = business.upstream.on(business.name(), *words, DONE, kind="text/event-stream", chunked=True)
    answer = business.node.chat(business.account(50), do, stream=True)
    told = answer.receipt
    assert (told["usage_source"], told["output_tokens"]) == ("counted", 9)
    assert told["output_msats"] == 7 * 9 and told["input_msats"] > 11


# --- one field, read in two ways ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        b'"max_tokens":5,"max_tokens":200}', b'"max_tokens":5,"max\\u005ftokens":200}', b'"MAX_TOKENS":200}',
        b'"max_tokens":5,"Max_Tokens":200}', b'"Max_Completion_Tokens":200}', b'"n":1,"N":5}', b'"Stream":true}',
        b'"model":"vendor/Big"}', b'"Model":"vendor/Big"}', b'"stream":false,"stream":true}',
        b'"max_tokens":5}{"max_tokens":200}',
    ],
)  # fmt: skip
def test_a_field_that_stands_twice_or_in_other_case_is_refused(business: Business, fields: bytes) -> None:
    """(Incident 22.) The last one wins in most readers, the first in some; Go's takes any case."""
    assert refused(business, SAID + fields)["code"] in ("invalid_json", "unsupported_parameter")


@pytest.mark.parametrize(
    "model", ["SMALL", "small ", "small:online", "small:nitro", "small@v2", "vendor/big", "up", ["small"]]
)
def test_a_models_name_is_the_very_name(business: Business, model: object) -> None:
    """(Incident 29: a default price for names that only the upstream knew.)"""
    asked = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    assert refused(business, asked)["code"] == "model_not_found"


# --- more than was held -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict"])
def test_a_cap_under_another_name_is_the_same_cap(business: Business, name: str) -> None:
    """(Incident 22: an aliased cap drove the hold to nothing.) What goes up is what was held for, once."""
    _, received = served(business, max_tokens=5, **{name: 120})
    caps = {k: v for k, v in received.json().items() if "max_" in k or "predict" in k}
    assert caps == {"max_tokens": 120}


@pytest.mark.parametrize("cap", [-1, 0, 2.5, "5", "-1", True, [5], {"a": 1}])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_a_cap_without_end_is_refused(business: Business, name: str, cap: object) -> None:
    """-1 is no limit for vLLM, llama.cpp and Ollama; others cut fractions, or read texts."""
    assert refused(business, json.loads(SAID + b'"a":1}') | {name: cap})["code"] == "invalid_parameter"


def test_a_cap_of_null_is_none(business: Business) -> None:
    _, received = served(business, max_tokens=None)
    assert received.json()["max_tokens"] == 256


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2}, {"n": "2"}, {"n": 1.5}, {"n_cmpl": 2}, {"best_of": 4}, {"use_beam_search": True}, {"echo": True},
        {"prompt_logprobs": 1}, {"service_tier": "priority"}, {"service_tier": "flex"}, {"models": ["vendor/Big"]},
        {"plugins": [{"id": "web"}]}, {"web_search_options": {}}, {"prediction": {"type": "content", "content": "x"}},
        {"modalities": ["text", "audio"]}, {"tools": [{"type": "web_search"}]},
    ],
)  # fmt: skip
def test_what_multiplies_the_price_is_refused_by_name(business: Business, field: dict[str, Any]) -> None:
    (name,) = field
    error = refused(business, json.loads(SAID + b'"a":1}') | field)
    assert (error["code"], error["param"]) == ("unsupported_parameter", name)


@pytest.mark.parametrize("prompt", [["a", "b"], [[1, 2], [3]], [["a"]], [1, "a"]])
def test_a_list_of_prompts_is_refused(business: Business, prompt: object) -> None:
    """Fifty prompts were reported as one."""
    error = refused(business, {"model": "small", "prompt": prompt, "max_tokens": 5}, path="/v1/completions")
    assert error["param"] == "prompt"


def test_what_nobody_priced_stays_here_and_is_named(business: Business) -> None:
    """Server state and hidden work: none of it goes upstream."""
    odd = {
        "return_token_ids": True, "mm_processor_kwargs": {"x": 1}, "keep_alive": -1, "num_ctx": 131072, "priority": -9,
        "id_slot": 0, "lora": [{"id": 0, "scale": 9}], "cache_prompt": True, "continuous_usage_stats": False,
        "ignore_eos": True, "min_tokens": 4000, "extra_body": {"n": 5},
    }  # fmt: skip
    answer, received = served(business, **odd)
    assert not set(odd) & set(received.json())
    assert set((answer.header("x-routstr-dropped-params") or "").replace(" ", "").split(",")) == set(odd)


def test_no_header_switches_anything_on_at_the_upstream(business: Business) -> None:
    """A larger context, another model's price, a tenant's account."""
    odd = [("anthropic-beta", "context-1m-2025-08-07"), ("OpenAI-Organization", "org"), ("OpenAI-Project", "p"),
           ("X-Request-Priority", "high"), ("HTTP-Referer", "https://a"), ("X-Model", "vendor/Big")]  # fmt: skip
    _, received = served(business, odd)
    assert not {name.lower() for name, _ in odd} & {name.lower() for name, _ in received.headers}


# --- many at once -------------------------------------------------------------------------------------


def test_a_balance_covers_all_that_run_on_it_at_once(business: Business) -> None:
    """(Incident 14: what was held did not count.) Forty on a balance for a few: as many as it holds, no more."""
    key, name, go = business.account(5), business.name(), threading.Event()
    do = business.upstream.on(name, go, whole())
    with ThreadPoolExecutor(40) as pool:
        asked: list[Future[Answer]] = [pool.submit(business.node.chat, key, do) for _ in range(40)]
        until(lambda: len(business.upstream.seen(name)) + sum(a.done() for a in asked) == 40, "each is held or refused")
        running = len(business.upstream.seen(name))
        held = business.node.info(key)["reserved"]
        go.set()
        statuses = sorted(a.result().status for a in asked)
    assert statuses == [200] * running + [402] * (40 - running) and 0 < running < 40
    assert 0 < held <= 5_000
    assert business.node.settled(key)["balance"] == 5_000 - running * COST and business.node.proves()


def test_huge_headers_of_an_answer_cost_nothing_more_and_harm_nobody(business: Business) -> None:
    huge = tuple((f"X-Huge-{n}", "x" * 50_000) for n in range(20))
    key = business.account(50)
    answer = business.node.chat(key, business.upstream.on(business.name(), whole(), headers=huge))
    assert (answer.status, answer.cost) == (200, COST) and len(answer.header("x-huge-19") or "") == 50_000
    assert business.node.chat(key).cost == COST and business.node.settled(key)["balance"] == FUNDS - 2 * COST
