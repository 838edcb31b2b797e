"""What was generated is counted, exactly and once; what no model wrote is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.metering import FAMILIES, Family, Meter, Metered

CHAT, COMPLETIONS = FAMILIES[0], FAMILIES[1]
CHUNK: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": [{"token": "content", "logprob": -1}] * 20}]}
DELTAS: dict[str, dict[str, Any]] = {
    "content": {"content": "héllo"},
    "content with its role": {"role": "assistant", "content": "héllo"},
    "parts": {"content": [{"type": "text", "text": "héllo"}, {"type": "image_url", "image_url": {"url": "x" * 99}}]},
    "Mistral's thinking": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "héllo"}]}]},
    "refusal": {"content": None, "refusal": "héllo"},
    "DeepSeek's reasoning": {"content": None, "reasoning_content": "héllo"},
    "vLLM's, said twice": {"reasoning": "héllo", "reasoning_content": "héllo"},
    "OpenRouter's, said twice": {"content": "", "reasoning": "héllo", "reasoning_details": [{"text": "héllo"}]},
    "OpenRouter's, in details": {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": "héllo"}]},
    "a function called": {"function_call": {"name": "hé", "arguments": "llo"}},
    "a tool called": {"tool_calls": [{"index": 0, "id": "x" * 40, "function": {"name": "hé", "arguments": "llo"}}]},
    "a custom tool called": {"tool_calls": [{"type": "custom", "custom": {"name": "hé", "input": "llo"}}]},
    "speech": {"audio": {"id": "x" * 40, "data": "AAAA" * 99, "transcript": "héllo"}},
}


def metered(family: Family, *events: dict[str, Any]) -> Metered:
    meter = Meter(family)
    for event in events:
        meter.feed(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")
    meter.feed(b"data: [DONE]\n\n")
    meter.end()
    return meter.finish()


def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return CHUNK | {"choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}


@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS.keys())
@pytest.mark.parametrize("times", [1, 7])
def test_text_of_every_dialect_counts_once(delta: dict[str, Any], times: int) -> None:
    """(Incidents 32, 37.)"""
    answer = metered(CHAT, *[chunk(delta, logprobs=LOGPROBS)] * times)
    assert (answer.text_bytes, answer.deltas) == (6 * times, times)


def test_text_of_every_dialect_in_one_answer() -> None:
    answer = metered(CHAT, *(chunk(delta) for delta in DELTAS.values()), *(chunk(delta) for delta in DELTAS.values()))
    assert answer.text_bytes == 2 * 6 * len(DELTAS)


@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS.keys())
def test_whole_answers_count_like_streams(delta: dict[str, Any]) -> None:
    meter = Meter(CHAT)
    meter.feed(json.dumps({"choices": [{"index": 0, "message": delta, "logprobs": LOGPROBS}]}).encode())
    meter.end()
    assert meter.finish().text_bytes == 6


def test_legacy_completions_count_their_text() -> None:
    choice = {"index": 0, "text": "héllo", "logprobs": {"tokens": ["text"], "text_offset": [0]}, "finish_reason": None}
    assert metered(COMPLETIONS, *[CHUNK | {"choices": [choice]}] * 5).text_bytes == 30


def test_nothing_but_text_costs() -> None:
    padded = chunk({"role": "assistant", "content": ""}) | {"obfuscation": "x" * 500, "system_fingerprint": "y" * 99}
    answer = metered(CHAT, padded, padded, chunk({}, finish_reason="stop"))
    assert (answer.text_bytes, answer.deltas) == (0, 0)


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=12),
    keys=st.lists(st.sampled_from(["content", "reasoning", "refusal"]), min_size=12, max_size=12),
    compact=st.booleans(), ascii_only=st.booleans(), per_chunk=st.integers(1, 5), null=st.booleans(),
)  # fmt: skip
def test_skimmed_events_count_what_parsed_ones_do(
    texts: list[str], keys: list[str], compact: bool, ascii_only: bool, per_chunk: int, null: bool
) -> None:
    chunks = [chunk({key: text}) | ({"usage": None} if null else {}) for key, text in zip(keys, texts, strict=False)]
    separators = (",", ":") if compact else (", ", ": ")
    events = [b"data: %s\n\n" % json.dumps(c, ensure_ascii=ascii_only, separators=separators).encode() for c in chunks]
    meter = Meter(CHAT)
    for at in range(0, len(events), per_chunk):
        meter.feed(b"".join(events[at : at + per_chunk]))
    answer = meter.finish()
    assert answer.text_bytes == sum(len(text.encode()) for text in texts)
    assert answer.deltas == sum(bool(text) for text in texts)


def test_text_that_imitates_a_stream_is_text() -> None:
    imitation = '"},"usage":{"prompt_tokens":1},"content":"x"\n\ndata: {"content":"'
    assert metered(CHAT, *[chunk({"content": imitation})] * 6).text_bytes == 6 * len(imitation)


def test_too_few_tokens_for_the_text_are_not_believed() -> None:
    words = [chunk({"content": "word "})] * 100
    nothing = CHUNK | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 0}}
    rule = CHUNK | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    liar = CHUNK | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
    honest = CHUNK | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 100}}
    assert metered(CHAT, *words, liar).suspect
    assert not metered(CHAT, *words, honest).suspect
    assert metered(CHAT, chunk({"content": "x"}), nothing).suspect
    assert not metered(CHAT, chunk({"content": "-" * 80}), rule).suspect


def test_text_about_errors_is_no_error() -> None:
    answer = metered(CHAT, chunk({"content": 'event: error\n{"error": "x"}\n'}))
    assert not answer.failed and answer.text_bytes > 0


def test_more_answers_than_were_asked_for_are_not_believed() -> None:
    both = [CHUNK | {"choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in (0, 1)]
    total = CHUNK | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
    assert metered(CHAT, chunk({"content": "x"}), *both, total).suspect
