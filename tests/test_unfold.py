"""Compressed request bodies: the same bytes come out, and no more than allowed (incident: decompression bombs)."""

from __future__ import annotations

import contextlib
import functools
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from addon.errors import BodyTooLarge, InvalidParameter
from addon.unfold import ENCODINGS, MOST_MEMBERS, unfolded


def raw_deflate(data: bytes) -> bytes:
    folder = zlib.compressobj(wbits=-15)
    return folder.compress(data) + folder.flush()


def in_two_members(data: bytes) -> bytes:
    return gzip.compress(data[:7]) + gzip.compress(data[7:])


FOLD: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [gzip.compress, in_two_members],
    "x-gzip": [gzip.compress],
    "deflate": [zlib.compress, raw_deflate],
    "br": [functools.partial(brotli.compress, quality=4)],
    "zstd": [zstandard.compress],
}


def test_every_encoding_has_a_folder_here() -> None:
    assert set(FOLD) == set(ENCODINGS)


@given(data=st.binary(max_size=3000), repeats=st.integers(1, 60))
def test_what_was_folded_comes_out(data: bytes, repeats: int) -> None:
    body = data * repeats
    for encoding, folders in FOLD.items():
        for fold in folders:
            assert unfolded(encoding, fold(body), most_bytes=len(body)) == body


@pytest.mark.parametrize("encoding", FOLD)
def test_a_bomb_is_refused_before_it_fills_the_memory(encoding: str) -> None:
    bomb = FOLD[encoding][0](bytes(100 << 20))
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        unfolded(encoding, bomb, most_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_members_without_end_are_refused_before_they_are_work() -> None:
    assert unfolded("gzip", gzip.compress(b"x") * MOST_MEMBERS, most_bytes=1000) == b"x" * MOST_MEMBERS
    with pytest.raises(InvalidParameter):
        unfolded("gzip", gzip.compress(b"") * 1_000_000, most_bytes=1000)


@pytest.mark.parametrize("encoding", FOLD)
def test_one_byte_too_many_is_too_large(encoding: str) -> None:
    with pytest.raises(BodyTooLarge):
        unfolded(encoding, FOLD[encoding][0](b"x" * 1001), most_bytes=1000)


@pytest.mark.parametrize("encoding", FOLD)
@pytest.mark.parametrize("body", [b'{"model": "tiny"}', b"\0" * 40, b"\xff" * 40])
def test_what_is_not_folded_is_named(encoding: str, body: bytes) -> None:
    with pytest.raises(InvalidParameter, match="Content-Encoding"):
        unfolded(encoding, body, most_bytes=1000)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
@given(body=st.binary(min_size=1, max_size=300), cut=st.integers(1, 10))
def test_what_is_cut_off_is_named(encoding: str, body: bytes, cut: int) -> None:
    folded = FOLD[encoding][0](body)
    with pytest.raises(InvalidParameter):
        unfolded(encoding, folded[: max(1, len(folded) - cut)], most_bytes=1000)


@given(body=st.binary(max_size=200), encoding=st.sampled_from(sorted(ENCODINGS)))
def test_noise_raises_nothing_else(body: bytes, encoding: str) -> None:
    with contextlib.suppress(BodyTooLarge, InvalidParameter):
        assert isinstance(unfolded(encoding, body, most_bytes=100_000), bytes)
