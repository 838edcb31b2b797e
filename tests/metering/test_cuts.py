"""Streams made of everything that servers send: the client gets them whole, but for the one event that exists
because we asked for it, and neither that nor any figure depends on the cuts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from addon.metering import FAMILIES, Family, Meter, Metered

BY_NAME = {family.name: family for family in FAMILIES}
CHAT = BY_NAME["chat"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
USAGE = {"prompt_tokens": 7, "completion_tokens": 300}


def chunk(**more: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"} | more


def choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


SAID = st.builds(lambda text, key: chunk(**choice({key: text})), TEXT, st.sampled_from(["content", "reasoning"]))
EVENTS = st.one_of(
    SAID,
    SAID,
    st.builds(lambda said: said | {"usage": None}, SAID),
    st.builds(lambda said: said | {"usage": USAGE}, SAID),
    st.just(chunk(choices=[], usage=USAGE)),
    st.just(chunk(choices=[], usage=USAGE, prompt_filter_results=[{"index": 0}])),
    st.just(chunk(**choice({}, "stop"))),
    st.just({"error": {"message": "no"}}),
    st.sampled_from(["[DONE]", "not json", "null", ""]),
)
END = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])
BEFORE = st.sampled_from(["", "", "", ": ping\n", "id: 7\n", "event: message\n", ": ping\n\n", "\n"])


def line(event: object) -> str:
    return event if isinstance(event, str) else json.dumps(event, ensure_ascii=False, separators=(",", ":"))


FRAMED = st.builds(
    lambda event, end, before, space: before.replace("\n", end) + f"data:{space}{line(event)}{end}{end}",
    EVENTS, END, BEFORE, st.sampled_from([" ", ""]),
)  # fmt: skip
CUTS = st.lists(st.integers(0, 10**4), max_size=40)


def run(body: bytes, cuts: list[int], *, family: Family = CHAT, hide: bool = False) -> tuple[bytes, Metered]:
    meter, seen = Meter(family, hide_usage=hide), bytearray()
    for start, stop in pairwise(sorted({0, len(body), *(c % (len(body) + 1) for c in cuts)})):
        out = meter.feed(body[start:stop])
        assert out != b""
        seen += out if isinstance(out, bytes) else b"".join(out)
    seen += meter.end()
    return bytes(seen), meter.finish()


@given(parts=st.lists(FRAMED, min_size=1, max_size=14), cuts=CUTS, hide=st.booleans(), whole_events=st.booleans())
def test_nothing_depends_on_the_cuts(parts: list[str], cuts: list[int], hide: bool, whole_events: bool) -> None:
    pieces = [part.encode() for part in parts]
    body = b"".join(pieces)
    if whole_events:
        cuts = [sum(map(len, pieces[:at])) for at in range(len(pieces))]
    assert run(body, cuts, hide=hide) == run(body, [], hide=hide) == run(body, list(range(len(body))), hide=hide)


@given(parts=st.lists(FRAMED, min_size=1, max_size=14), cuts=CUTS)
def test_only_the_event_that_was_asked_for_is_hidden(parts: list[str], cuts: list[int]) -> None:
    body = "".join(parts).encode()
    shown, figures = run(body, cuts)
    hidden, same = run(body, cuts, hide=True)
    assert shown == body
    assert replace(figures, open_end=b"") == replace(same, open_end=b"")
    ours = line(chunk(choices=[], usage=USAGE)).encode()
    assert ours not in hidden
    if ours not in body:
        assert hidden == body


ANSWERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "messages": lambda text: {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
    "responses": lambda text: {"type": "response.output_text.delta", "delta": text, "sequence_number": 3},
    "ollama chat": lambda text: {"message": {"role": "assistant", "content": text}, "done": False},
    "ollama generate": lambda text: {"response": text, "done": False},
}
LAST: dict[str, dict[str, Any]] = {
    "messages": {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 7, "output_tokens": 99}},
    "responses": {"type": "response.completed", "response": {"status": "completed", "usage": {"input_tokens": 7, "output_tokens": 99}}},
    "ollama chat": {"message": {"content": "!"}, "done": True, "prompt_eval_count": 7, "eval_count": 99},
    "ollama generate": {"response": "!", "done": True, "prompt_eval_count": 7, "eval_count": 99},
}  # fmt: skip


@given(name=st.sampled_from(sorted(ANSWERS)), texts=st.lists(TEXT, max_size=12), spaced=st.booleans(), cuts=CUTS)
def test_every_family_counts_text_and_reads_figures_at_every_cut(
    name: str, texts: list[str], spaced: bool, cuts: list[int]
) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    made = [*(ANSWERS[name](text) for text in texts), LAST[name]]
    lines = [json.dumps(event, ensure_ascii=False, separators=separators) for event in made]
    framing = "{}\n" if name.startswith("ollama") else "event: x\ndata: {}\n\n"
    body = "".join(framing.replace("{}", text) for text in lines).encode()
    seen, answer = run(body, cuts, family=BY_NAME[name])
    assert seen == body
    assert answer.usage is not None
    assert (answer.usage.input, answer.usage.output, answer.source, answer.complete) == (7, 99, "reported", True)
    assert answer.text_bytes == sum(len(text.encode()) for text in texts) + name.startswith("ollama")
