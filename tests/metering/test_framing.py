"""The same parts at every cut, whatever the framing and whatever it is declared to be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.metering.framing import WHOLE_LIMIT, Event, Splitter

VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(['"', "\\", "}\n{", "[{", "\u2028", "\r\n\r\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), min_size=1, max_size=6)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
CUTS = st.lists(st.integers(0, 2000), max_size=30)


def pieces(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(c % (len(body) + 1) for c in cuts)})
    return [body[a:b] for a, b in pairwise(edges)]


def split(chunks: Sequence[bytes]) -> list[Event]:
    splitter = Splitter()
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    last = splitter.end()
    return events if last is None else [*events, last]


def parsed(events: Sequence[Event]) -> list[Any]:
    return [json.loads(event.data) for event in events if event.data.strip()]


def lean(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


@given(values=OBJECTS, end=ENDS, space=st.sampled_from([b"", b" "]), bom=st.booleans(), cuts=CUTS)
def test_event_stream(values: list[Any], end: bytes, space: bytes, bom: bool, cuts: list[int]) -> None:
    body = b"".join(b": ping" + end + b"data:" + space + lean(v) + end + end for v in values)
    body = (b"\xef\xbb\xbf" if bom else b"") + body
    events = split(pieces(body, cuts))
    assert parsed(events) == values
    assert b"".join(event.raw for event in events) == body


@given(values=OBJECTS, end=st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n  \n"]), last=st.booleans(), cuts=CUTS)
def test_lines_of_json(values: list[Any], end: bytes, last: bool, cuts: list[int]) -> None:
    body = end.join(lean(v) for v in values) + (end if last else b"")
    assert parsed(split(pieces(body, cuts))) == values


@given(values=OBJECTS, indent=st.sampled_from([None, 2]), bom=st.booleans(), cuts=CUTS)
def test_array_in_pieces_comes_out_by_elements(
    values: list[Any], indent: int | None, bom: bool, cuts: list[int]
) -> None:
    body = (b"\xef\xbb\xbf" if bom else b"") + json.dumps(values, indent=indent).encode()
    assert parsed(split(pieces(body, cuts))) == values


@given(values=OBJECTS, indent=st.sampled_from([None, 2]), bom=st.booleans(), cuts=CUTS)
def test_one_document_stays_one(values: list[Any], indent: int | None, bom: bool, cuts: list[int]) -> None:
    document = {"choices": values, "more": [{}, {}]}
    body = (b"\xef\xbb\xbf" if bom else b"") + json.dumps(document, indent=indent).encode()
    assert [json.loads(event.raw.removeprefix(b"\xef\xbb\xbf")) for event in split(pieces(body, cuts))] == [document]


@given(body=st.binary(max_size=200), cuts=CUTS)
def test_no_bytes_are_lost_or_read_in_two_ways(body: bytes, cuts: list[int]) -> None:
    events = split(pieces(body, cuts))
    assert b"".join(event.raw for event in events) == body
    assert events == split([body] if body else [])


SHAPES = {
    "sse": (b"data: ", b"\n\n"),
    "lines": (b'{"a":', b"}\n{}"),
    "array": (b'[{"a":', b"},{}]"),
    "document": (b'{"a":', b"}"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "size", [WHOLE_LIMIT - 40, WHOLE_LIMIT - 3, WHOLE_LIMIT + 30_000, WHOLE_LIMIT + 90_000, 1 << 20]
)
@pytest.mark.parametrize("step", [1000, 65_536, 100_000, 1 << 21])
def test_whether_a_long_event_is_kept_whole_does_not_depend_on_the_cuts(shape: str, size: int, step: int) -> None:
    before, after = SHAPES[shape]
    body = before + b'"' + b"x" * size + b'"' + after
    events = split(pieces(body, range(0, len(body), step)))
    assert events == split([body])
    assert events[0].whole == (events[0].size <= WHOLE_LIMIT)
    assert sum(event.size for event in events) == len(body)
    assert events[0].raw.startswith(body[:1000])
