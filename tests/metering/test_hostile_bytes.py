"""Whatever an upstream sends: the client gets just that, nothing raises, and memory stays bounded."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.metering import FAMILIES, Meter

CHAT = next(f for f in FAMILIES if f.name == "chat")
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
TOO_DEEP = b'data: {"usage":' + b"[" * 100_000 + b"\n\n"
MIB = 1 << 20


def passed(meter: Meter, *chunks: bytes) -> bytes:
    """What the client saw of these chunks, and of the end."""
    seen = bytearray()
    for chunk in chunks:
        out = meter.feed(chunk)
        seen += out if isinstance(out, bytes) else b"".join(out)
    return bytes(seen) + meter.end()


@pytest.mark.parametrize("hide", [True, False])
def test_event_that_nests_too_deep_reaches_the_client_unchanged(hide: bool) -> None:
    meter = Meter(CHAT, hide_usage=hide)
    assert passed(meter, WORD + TOO_DEEP + WORD) == WORD + TOO_DEEP + WORD
    assert meter.finish().usage is None


def test_stream_cut_inside_a_deep_event_is_still_metered() -> None:
    meter = Meter(CHAT)
    meter.feed(WORD + TOO_DEEP[:-2])
    assert meter.finish().text_bytes > 0


@given(chunks=st.lists(st.binary(min_size=1, max_size=60), max_size=20), encoding=st.sampled_from(["", "gzip", "x"]))
def test_arbitrary_bytes_pass_unchanged(chunks: list[bytes], encoding: str) -> None:
    meter = Meter(CHAT, content_encoding=encoding)
    assert passed(meter, *chunks) == b"".join(chunks)
    meter.finish()


@pytest.mark.parametrize("hide", [True, False])
def test_endless_line_is_passed_on_in_bounded_memory_and_its_usage_found(hide: bool) -> None:
    meter = Meter(CHAT, hide_usage=hide)
    piece = b"x" * 65_535
    meter.feed(b'data: {"choices":[{"index":0,"finish_reason":"stop","delta":{"content":"')
    tracemalloc.start()
    for _ in range(300):
        meter.feed(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * MIB
    meter.feed(b'"}}],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n')
    usage = meter.finish().usage
    assert usage is not None
    assert (usage.input, usage.output) == (7, 3)
