"""Encoded copies: read whatever way the bytes are cut, and never to more than is in proportion."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from addon.metering import FAMILIES, Meter
from addon.metering.inflate import FREE_BYTES, Undecodable, inflater

CHAT = FAMILIES[0]
FOLD: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda plain: gzip.compress(plain[:7]) + gzip.compress(plain[7:]),
    "deflate": zlib.compress,
    "br": lambda plain: brotli.compress(plain, quality=5),
    "zstd": lambda plain: zstandard.compress(plain[:7]) + zstandard.compress(plain[7:]),
}
MIB = 1 << 20


def unfolded(encoding: str, chunks: list[bytes]) -> bytes:
    pieces = inflater(encoding)
    return b"".join(plain for chunk in chunks for plain in pieces(chunk))


@given(encoding=st.sampled_from(sorted(FOLD)), plain=st.binary(max_size=3000), size=st.integers(1, 500))
def test_every_encoding_at_every_cut(encoding: str, plain: bytes, size: int) -> None:
    folded = FOLD[encoding](plain)
    assert unfolded(encoding, [folded[at : at + size] for at in range(0, len(folded), size)]) == plain


def test_deflate_without_its_header_is_read_too() -> None:
    raw = zlib.compressobj(wbits=-15)
    assert unfolded("deflate", [raw.compress(b"plain") + raw.flush()]) == b"plain"


@pytest.mark.parametrize("encoding", sorted(FOLD))
def test_bomb_takes_no_memory_and_passes_untouched(encoding: str) -> None:
    zeros = bytes(200 * MIB)
    bomb = FOLD[encoding](zeros)
    del zeros
    meter = Meter(CHAT, content_encoding=encoding)
    tracemalloc.start()
    seen = b"".join(
        out if isinstance(out, bytes) else b"".join(out)
        for out in (meter.feed(bomb[at : at + 65_536]) for at in range(0, len(bomb), 65_536))
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == bomb
    assert peak < 64 * MIB
    assert not meter.finish().readable


def test_honest_answers_may_unfold_to_much() -> None:
    long = b'{"choices":[{"message":{"content":"' + b"word " * (FREE_BYTES // 6) + b'"}}]}'
    assert unfolded("gzip", [gzip.compress(long)]) == long


def test_window_of_a_hundred_megabytes_is_not_made() -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    frame = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    with pytest.raises(Undecodable):
        unfolded("zstd", [frame.compress(b"x" * 100) + frame.flush()])


@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "x"])
def test_unknown_encoding_is_told(encoding: str) -> None:
    with pytest.raises(Undecodable):
        inflater(encoding)
