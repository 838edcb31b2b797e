"""From a body to an order: what may pass, what is held, and that the bytes sent are those that were priced."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon import forms, orders
from addon.catalog import Model, Tariff
from addon.errors import (
    ClientError,
    InsufficientBalance,
    InvalidJson,
    InvalidParameter,
    ModelNotFound,
    UnsupportedParameter,
)
from addon.forms import File
from addon.metering import Family, family_of
from addon.offers import Offer, Offers
from addon.orders import Order
from addon.pricing import Price, price_in_sats
from addon.settings import Settings
from addon.upstream import parse_body

PRICE = price_in_sats(request=Decimal("0.011"), per_1k_input=Decimal(3), per_1k_output=Decimal(7))
OFFERS = Offers(
    {"small": Offer(Model("small", 8192, 256), PRICE, False), "open": Offer(Model("open", 8192), PRICE, True)}
)
ASK = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict")


def family(path: str = "/v1/chat/completions") -> Family:
    found = family_of(path)
    assert found is not None
    return found


def order(body: Any, path: str = "/v1/chat/completions", **settings: Any) -> Order:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return orders.read(family(path), raw, OFFERS, Settings(**settings))


def sent(body: Any, available: int = 10**9, path: str = "/v1/chat/completions", **settings: Any) -> dict[str, Any]:
    made = order(body, path, **settings)
    out: dict[str, Any] = json.loads(orders.sent_body(made, made.fit(available)))
    return out


def test_a_request_that_needs_no_change_goes_up_byte_for_byte() -> None:
    raw = b'{ "model":"small",  "messages":[{"role":"user","content":"h\\u00e9"}],\n"max_tokens": 5 }'
    made = order(raw)
    assert orders.sent_body(made, made.fit(10**9)) == raw


@pytest.mark.parametrize("name", CAPS)
def test_a_cap_above_the_models_limit_is_lowered_under_the_clients_own_name(name: str) -> None:
    """A name that only some servers know becomes the usual one: others would not stop. (Incidents 22, 23.)"""
    body = sent(ASK | {name: 100_000})
    own = name if name in ("max_tokens", "max_completion_tokens") else "max_tokens"
    assert {cap: body[cap] for cap in CAPS if cap in body} == {own: 256}
    made = order(ASK | {name: 100_000})
    assert orders.told_cap(made, made.fit(10**9)) == 256


@pytest.mark.parametrize(
    ("path", "usual", "question"),
    [
        ("/v1/completions", "max_tokens", {"prompt": "hi"}),
        ("/v1/messages", "max_tokens", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/responses", "max_output_tokens", {"input": "hi"}),
    ],
)
@pytest.mark.parametrize("name", CAPS)
def test_every_family_is_capped_by_the_name_it_knows(
    path: str, usual: str, question: dict[str, Any], name: str
) -> None:
    ask = {"model": "small"} | question
    assert sent(ask | {name: 100_000}, path=path) == ask | {usual: 256}
    assert sent(ask, path=path) == ask | {usual: 256}


@pytest.mark.parametrize(
    ("limit", "asked", "budget", "thinks"),
    [
        (2000, 8000, 4000, 1999),
        (2000, 8000, 1500, 1500),
        (2000, 1800, 1500, 1500),
        (2000, 8000, 9000, 9000),  # the client's own mistake, told by the upstream
        (1000, 8000, 4000, None),
    ],
)
def test_a_budget_for_thinking_stays_below_a_lowered_cap(
    limit: int, asked: int, budget: int, thinks: int | None
) -> None:
    offers = Offers({"thinker": Offer(Model("thinker", 200_000, limit), PRICE, False)})
    body = {"model": "thinker", "max_tokens": asked, "thinking": {"type": "enabled", "budget_tokens": budget}}
    made = orders.read(family("/v1/messages"), json.dumps(body).encode(), offers, Settings())
    up = json.loads(orders.sent_body(made, made.fit(10**9)))
    assert up.get("thinking", {}).get("budget_tokens") == thinks
    assert up["max_tokens"] == min(asked, limit)


def test_ollamas_cap_and_switches_stand_inside_its_options() -> None:
    path = "/api/chat"
    assert sent(ASK, path=path)["options"] == {"num_predict": 256}
    body = sent(ASK | {"options": {"num_predict": 9999, "seed": 1, "num_ctx": 10**6}, "keep_alive": -1}, path=path)
    assert body == ASK | {"options": {"num_predict": 256, "seed": 1}}
    assert order(ASK | {"options": {"num_ctx": 10**6}}, path).dropped == ("options.num_ctx",)
    raw = json.dumps(ASK | {"options": {"num_predict": 5}}).encode()
    made = order(raw, path)
    assert orders.sent_body(made, made.fit(10**9)) == raw
    for endless in (-1, -2, 0, 2.5, "5", True):
        with pytest.raises(InvalidParameter):
            order(ASK | {"options": {"num_predict": endless}}, path)
    with pytest.raises(InvalidParameter):
        order(ASK | {"options": "x"}, path)


def test_ollama_streams_unless_told_not_to() -> None:
    assert order(ASK, "/api/chat").stream and order(ASK | {"stream": None}, "/api/chat").stream
    assert not order(ASK | {"stream": False}, "/api/chat").stream
    assert not order(ASK).stream


@given(
    query=st.text(max_size=60), documents=st.lists(st.text(max_size=60) | st.fixed_dictionaries({"text": st.text()}))
)
def test_a_reranker_is_held_for_the_query_with_every_document(query: str, documents: list[Any]) -> None:
    held = order({"model": "small", "query": query, "documents": documents}, "/v1/rerank").bounds
    texts = [d if isinstance(d, str) else d["text"] for d in documents]
    assert held.input_tokens >= sum(len((query + text).encode()) for text in texts)
    assert held.counted.searches >= -(-len(documents) // 100)


def test_pictures_and_speech_are_held_in_full_whatever_the_balance() -> None:
    picture = order({"model": "small", "prompt": "a cat", "n": 3}, "/v1/images/generations")
    assert picture.bounds.output_tokens == 3 * 16_384 and picture.bounds.counted.images_made == 3
    speech = order({"model": "small", "input": "x" * 100, "voice": "alloy"}, "/v1/audio/speech")
    assert speech.bounds.output_tokens == 100 * 8 + 1024 and speech.bounds.counted.characters == 100
    for made in (picture, speech):
        assert made.fit(10**9).hold_msat == made.least_msat
        with pytest.raises(InsufficientBalance):
            made.fit(made.least_msat - 1)


def test_a_pictures_background_is_a_colour_and_a_responses_is_work_that_nobody_waits_for() -> None:
    ask = {"model": "small", "prompt": "a cat", "background": "transparent"}
    assert sent(ask, path="/v1/images/generations") == ask


def test_a_model_that_is_priced_by_the_piece_is_sold_for_that_piece_alone() -> None:
    by_image = Price(Tariff(Decimal(0), Decimal(0), Decimal(0), image_made=Decimal(9)), Fraction(1))
    offers = Offers({"painter": Offer(Model("painter"), by_image, False, sells_text=False)})
    raw = json.dumps({"model": "painter", "prompt": "x", "messages": [], "input": "x"}).encode()
    made = orders.read(family("/v1/images/generations"), raw, offers, Settings())
    assert made.least_msat == 9
    for path in ("/v1/chat/completions", "/v1/audio/speech", "/v1/embeddings"):
        with pytest.raises(ModelNotFound):
            orders.read(family(path), raw, offers, Settings())


def spoken(offer: Price, file: str = "file", path: str = "/v1/audio/transcriptions", **fields: Any) -> Order:
    offers = Offers({"ear": Offer(Model("ear", forwarded_id="whisper-1"), offer, False)})
    form = {"model": "ear", file: File("audio/mpeg", ".mp3", b"\0\xff\r\n--")} | fields
    return orders.read(
        family(path), forms.written(form, "b"), offers, Settings(), content_type=forms.content_type("b")
    )  # fmt: skip


def priced(**parts: str) -> Price:
    free: dict[str, Any] = {"request": Decimal(0), "input": Decimal(0), "output": Decimal(0)}
    return Price(Tariff(**free | {name: Decimal(price) for name, price in parts.items()}), Fraction(1))


@pytest.mark.parametrize(
    ("price", "hold"),
    [
        (priced(second="2"), 2 * 1500),
        (price_in_sats(request=Decimal(1), per_1k_input=Decimal(0), per_1k_output=Decimal(0)), 1000),
        (priced(input="3", output="2"), 3 * (25 * 1500 + 1024 + 3 + 5) + 2 * 15 * 1500),
        (
            priced(input="3", input_audio="9"),
            9 * (25 * 1500 + 1024 + 3 + 5),
        ),
    ],
)
def test_a_recording_is_held_for_the_longest_that_it_can_be(price: Price, hold: int) -> None:
    assert spoken(price, prompt="hello").least_msat == hold


@pytest.mark.parametrize("price", [priced(image_made="9"), priced(character="1"), priced(cache_read="1")])
def test_a_model_without_a_price_for_sound_transcribes_nothing(price: Price) -> None:
    with pytest.raises(ModelNotFound):
        spoken(price)


def test_a_form_goes_up_anew_under_a_boundary_of_ours_and_its_file_is_the_clients() -> None:
    made = spoken(priced(second="1"), language="de", max_tokens="1", known_speaker_names="x", stream=True)
    up = orders.sent_body(made, made.fit(10**9))
    assert made.dropped == ("max_tokens", "known_speaker_names") and made.stream
    assert "routstr" in made.content_type and made.content_type.partition("boundary=")[2].encode() in up
    form = family("/v1/audio/transcriptions").form
    assert form is not None
    assert forms.read(up, made.content_type, form) == {
        "model": "whisper-1", "file": File("audio/mpeg", ".mp3", b"\0\xff\r\n--"), "language": "de", "stream": True,
    }  # fmt: skip


@pytest.mark.parametrize("fields", [{"n": "2"}, {"chunking_strategy": '{"type":"server_vad"}'}, {"Language": "de"}])
def test_what_a_form_may_not_say(fields: dict[str, str]) -> None:
    with pytest.raises(UnsupportedParameter):
        spoken(priced(second="1"), **fields)


def test_pictures_that_are_sent_are_held_by_the_piece_or_by_their_tokens() -> None:
    mask = {"mask": File("image/png", ".png", b""), "n": 3, "prompt": "x"}
    by_piece = spoken(priced(image_made="100", image_sent="7"), "image", "/v1/images/edits", **mask)
    assert by_piece.least_msat == 3 * 100 + 2 * 7
    by_token = priced(input="1", input_image="5")
    held = spoken(by_token, "image[]", "/v1/images/edits", prompt="x")
    assert held.least_msat > 5 * 16_384
    with pytest.raises(UnsupportedParameter):
        spoken(by_token, "image", "/v1/images/edits", n="11")


REFUSED = (
    ("/v1/images/generations", {"n": 11}),
    ("/v1/images/generations", {"n": True}),
    ("/v1/images/generations", {"quality": "hd"}),
    ("/v1/images/generations", {"size": "1792x1024"}),
    ("/v1/audio/speech", {"speed": 0.01}),
    ("/v1/audio/speech", {"input": ["x"]}),
    ("/v1/rerank", {"query": "x", "documents": [{"image": "http://x/y.png"}]}),
    ("/api/embed", {"input": [{"image": "AA"}]}),
    ("/v1/messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("/v1/messages", {"speed": "fast"}),
    ("/v1/messages", {"service_tier": "priority"}),
    ("/v1/messages", {"mcp_servers": [{"url": "http://x"}]}),
    ("/v1/responses", {"tools": [{"type": "web_search"}]}),
    ("/v1/responses", {"tools": [{"type": "code_interpreter"}]}),
    ("/v1/responses", {"background": True}),
    ("/v1/responses", {"previous_response_id": "resp_1"}),
    ("/v1/responses", {"conversation": "conv_1"}),
    ("/v1/responses", {"prompt": {"id": "pmpt_1"}}),
    ("/v1/embeddings", {"input": [{"image": "http://x/y.png"}]}),
    ("/v1/embeddings", {"input": [[[1]]]}),
)


@pytest.mark.parametrize(("path", "field"), REFUSED)
def test_what_has_no_price_is_refused_by_name_in_every_family(path: str, field: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        order(ASK | {"input": "hi"} | field, path)
    assert refused.value.fields["param"] in field


@pytest.mark.parametrize(
    ("path", "question"),
    [
        ("/v1/chat/completions", {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
        ("/v1/messages", {"messages": [{"content": [{"type": "document", "source": {"type": "url", "url": "x"}}]}]}),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("/v1/responses", {"input": [{"content": [{"type": "input_file", "file_id": "x"}]}]}),
    ],
)
def test_what_a_body_only_refers_to_is_held_for_the_whole_context(path: str, question: dict[str, Any]) -> None:
    """(Incident 22.)"""
    assert order({"model": "small"} | question, path).bounds.input_tokens == 8192


def test_several_caps_become_one_of_their_largest() -> None:
    body = sent(ASK | {"max_completion_tokens": 5, "n_predict": 90})
    assert {cap: body[cap] for cap in CAPS if cap in body} == {"max_tokens": 90}


def test_a_request_without_a_cap_gets_one_unless_its_server_stops_by_itself() -> None:
    assert sent(ASK)["max_tokens"] == 256
    assert not set(CAPS) & set(sent(ASK | {"model": "open"}))


def test_a_small_balance_lowers_the_cap_and_says_so() -> None:
    made = order(ASK | {"max_tokens": 250}, min_output_tokens=16)
    rich, poor = made.fit(10**9), made.fit(4000)
    assert orders.told_cap(made, rich) is None
    assert 16 <= (orders.told_cap(made, poor) or 0) < 250
    assert json.loads(orders.sent_body(made, poor))["max_tokens"] == orders.told_cap(made, poor)
    with pytest.raises(InsufficientBalance):
        made.fit(made.least_msat - 1)


def test_usage_is_asked_for_in_streams_only_and_the_rest_of_the_options_stays() -> None:
    assert sent(ASK | {"stream": True})["stream_options"] == {"include_usage": True}
    assert sent(ASK | {"stream": True, "stream_options": {"include_usage": False}})["stream_options"] == {
        "include_usage": True
    }
    assert "stream_options" not in sent(ASK | {"stream_options": {"include_usage": True}})
    assert order(ASK | {"stream": True}).hide_usage
    assert not order(ASK | {"stream": True, "stream_options": {"include_usage": True}}).hide_usage
    assert not order(ASK).hide_usage


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2}, {"n": "1"}, {"best_of": 3}, {"service_tier": "priority"}, {"web_search_options": {}}, {"models": ["x"]},
        {"plugins": []}, {"audio": {}}, {"modalities": ["text", "audio"]}, {"prediction": {}}, {"prompt_logprobs": 5},
        {"background": True}, {"tools": [{"type": "web_search"}]}, {"use_beam_search": True}, {"echo": True}, {"n_cmpl": 2},
    ],
)  # fmt: skip
def test_what_multiplies_the_price_is_refused_by_name(field: dict[str, object]) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        order(ASK | field)
    assert refused.value.fields["param"] in field


def test_a_list_of_prompts_is_refused_and_a_single_one_is_not() -> None:
    """(metering: fifty prompts were reported as one.)"""
    path = "/v1/completions"
    for prompt in ("a", ["a"], [1, 2, 3]):
        assert sent({"model": "small", "prompt": prompt}, path=path)["prompt"] == prompt
    for prompts in (["a", "b"], [[1], [2]], [["a"]], 5):
        with pytest.raises(UnsupportedParameter):
            order({"model": "small", "prompt": prompts}, path)


def test_unknown_fields_are_dropped_and_named_or_refused_or_passed() -> None:
    odd = ASK | {"keep_alive": -1, "id_slot": 1, "temperature": 0.5}
    made = order(odd)
    assert set(made.dropped) == {"keep_alive", "id_slot"}
    assert not {"keep_alive", "id_slot"} & set(sent(odd)) and sent(odd)["temperature"] == 0.5
    assert sent(odd, unknown_fields="pass")["id_slot"] == 1
    with pytest.raises(UnsupportedParameter):
        order(odd, unknown_fields="refuse")


def test_a_known_field_in_other_case_is_refused_not_dropped() -> None:
    """(Go servers match it all the same.)"""
    with pytest.raises(UnsupportedParameter):
        order(ASK | {"Max_Tokens": 12000})


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[1]", b"null", b'"x"', b"\xff\xfe{}", b'{"a":1}x', b'{"model":"small","model":"open"}',
        b'{"a":1,"A":2}', b'{"a":NaN}', b'{"a":1e999}', b'{"a":' + b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}",
        b'{"max_tokens":5,"max\\u005ftokens":12}', b'{"messages":[{"role":"a","role":"b"}]}',
    ],
)  # fmt: skip
def test_a_body_that_two_readers_could_read_differently_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJson):
        order(raw)


@pytest.mark.parametrize("model", [None, 5, "", ["small"], "nope", "SMALL", "small "])
def test_an_unknown_model_is_never_given_a_default_price(model: object) -> None:
    """(Incident 29.)"""
    with pytest.raises(ModelNotFound):
        order(ASK | {"model": model})


@pytest.mark.parametrize(
    "field", [{"stream": "yes"}, {"stream": 1}, {"stream_options": []}, {"stream_options": {"include_usage": 3}}]
)
def test_a_stream_switch_that_is_none_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        order(ASK | field)


def test_images_are_held_for_the_whole_context() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    made = order({"model": "small", "messages": [{"role": "user", "content": [picture]}]})
    assert made.bounds.input_tokens == 8192


def test_the_upstream_is_asked_for_its_own_name_of_a_model() -> None:
    sold = Offers({"small": Offer(Model("small", 8192, 256, forwarded_id="llama3:8b"), PRICE, False)})
    made = orders.read(family(), json.dumps(ASK | {"max_tokens": 5}).encode(), sold, Settings())
    assert json.loads(orders.sent_body(made, made.fit(10**9))) == ASK | {"max_tokens": 5, "model": "llama3:8b"}


def test_images_that_are_priced_by_the_piece_are_held_each() -> None:
    tariff = Tariff(Decimal(0), Decimal(1), Decimal(2), image_sent=Decimal(500))
    sold = Offers({"small": Offer(Model("small", 8192, 256), Price(tariff, Fraction(1)), False)})
    picture = {"type": "image_url", "image_url": {"url": "https://x/y.png"}}
    body = ASK | {"messages": [{"role": "user", "content": [picture, picture]}], "max_tokens": 10}
    made = orders.read(family(), json.dumps(body).encode(), sold, Settings())
    assert made.fit(10**9).hold_msat == 8192 + 20 + 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_a_strict_body_says_what_json_says(body: dict[str, Any]) -> None:
    try:
        parsed = parse_body(json.dumps(body).encode())
    except InvalidJson:
        assert len({key.lower() for key in body}) != len(body) or any(len(str(v)) > 300 for v in body.values())
    else:
        assert parsed == body


@given(
    st.fixed_dictionaries({}, optional={cap: st.integers(-5, 10**6) | st.none() for cap in CAPS}),
    st.integers(0, 10**5),
    st.booleans(),
)
def test_what_goes_up_is_never_more_than_what_is_held(caps: dict[str, Any], available: int, stream: bool) -> None:
    """(Incidents 22, 23: aliased and negative caps; a cap stripped after the hold was sized.)"""
    try:
        made = order(ASK | caps | {"stream": stream})
        fitted = made.fit(available)
    except ClientError:
        return
    body = json.loads(orders.sent_body(made, fitted))
    written = [body[cap] for cap in CAPS if cap in body]
    assert written == [fitted.output_tokens]
    assert fitted.hold_msat >= 11 + 7 * written[0] and fitted.hold_msat <= available


@pytest.mark.parametrize("dialect", ["mistral", "transformers", "llama-cpp-python"])
def test_an_upstream_that_refuses_to_be_asked_for_figures_is_not_asked(dialect: str) -> None:
    streamed = ASK | {"stream": True, "stream_options": {"include_usage": True}}
    assert "stream_options" not in sent(streamed, upstream_dialect=dialect)
    assert not order(streamed, upstream_dialect=dialect).hide_usage
    assert sent(ASK | {"stream": True})["stream_options"] == {"include_usage": True}


def test_options_of_a_stream_that_needs_no_asking_pass_as_they_are() -> None:
    asked = {"model": "small", "input": "hi", "stream": True, "stream_options": {"include_obfuscation": False}}
    assert sent(asked, path="/v1/responses")["stream_options"] == {"include_obfuscation": False}
