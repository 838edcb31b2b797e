"""Unfolding a copy of an encoded answer: gzip, deflate, br, zstd (RFC 9110 §8.4.1, RFC 8878).

The client's bytes are never touched; this is for the meter alone. A few bytes can unfold to gigabytes, so the
input goes in by steps too short to unfold to much, each step's output is dropped before the next, and an
answer that unfolds out of all proportion is given up: it then counts as one that cannot be read.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import brotli
import zstandard

FREE_BYTES: Final = 8 << 20
"""Any answer may unfold to this."""
MOST_TIMES: Final = 200
"""Beyond it, to so many times its size: streamed text stays far below, as every event is flushed."""
_STEP: Final = 64
"""Bytes: at most 64 KiB of deflate (RFC 1951: 1032 times), 2 MiB of zstd (a block of 128 KiB takes 4)."""
_BROTLI_STEP: Final = 16
"""Bytes: no two metablocks, of 16 MiB at most each, end in one (RFC 7932)."""
_ZSTD_WINDOW: Final = 8 << 20
"""Bytes that a decoder should support (RFC 8878 §3.1.1.1.2); more would be memory that a stranger asks for."""


class Undecodable(ValueError):
    """An encoding that is not known, bytes that are not of it, or far too many of them."""


class _Member(Protocol):
    """One gzip member or zstd frame: `eof` once it is whole, `unused_data` what came behind it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_Unfold = Callable[[bytes], bytes]


def inflater(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """A function that unfolds a copy chunk by chunk, in bounded pieces. It raises Undecodable, and so does this
    for an encoding that is not known."""
    if encoding not in _MAKERS:
        raise Undecodable(encoding)
    make, step = _MAKERS[encoding]
    unfold = make()
    left = FREE_BYTES

    def pieces(chunk: bytes) -> Iterator[bytes]:
        nonlocal left
        for at in range(0, len(chunk), step):
            taken = chunk[at : at + step]
            try:
                plain = unfold(taken)
            except (zlib.error, zstandard.ZstdError, brotli.error) as error:
                raise Undecodable(encoding) from error
            left += MOST_TIMES * len(taken) - len(plain)
            if left < 0:
                raise Undecodable(f"{encoding}: unfolds out of all proportion")
            if plain:
                yield plain

    return pieces


def _brotli() -> _Unfold:
    state: Any = brotli.Decompressor()
    return lambda taken: bytes(state.process(taken))


def _members(begin: Callable[[], _Member]) -> _Unfold:
    """One member behind the other, as one text."""
    member = begin()

    def unfold(taken: bytes) -> bytes:
        nonlocal member
        if member.eof:
            member = begin()
        plain = member.decompress(taken)
        while member.eof and (rest := member.unused_data):
            member = begin()
            plain += member.decompress(rest)
        return plain

    return unfold


def _gzip() -> _Unfold:
    return _members(lambda: zlib.decompressobj(31))


def _zstd() -> _Unfold:
    frames = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    return _members(frames.decompressobj)


def _deflate() -> _Unfold:
    """zlib's format, as the RFC says, or raw deflate, as some servers send."""
    state = None

    def unfold(taken: bytes) -> bytes:
        nonlocal state
        if state is None:
            state = zlib.decompressobj(15 if taken[:1] in (b"\x78", b"\x58", b"\x48", b"\x08") else -15)
        return state.decompress(taken)

    return unfold


_MAKERS: Final[dict[str, tuple[Callable[[], _Unfold], int]]] = {
    "gzip": (_gzip, _STEP),
    "x-gzip": (_gzip, _STEP),
    "deflate": (_deflate, _STEP),
    "br": (_brotli, _BROTLI_STEP),
    "zstd": (_zstd, _STEP),
}
