"""Cutting an answer into its parts, whatever way the bytes were cut: SSE events, or one JSON document.

Only a copy passes through here; memory is bounded, and the result does not depend on the cuts. Line ends are
LF, CRLF or CR (WHATWG HTML, server-sent events); U+2028 is none. What a body is, its first byte tells: some
servers send JSON as text/event-stream, and the other way round.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import brotli
import zstandard

WHOLE_LIMIT: Final = 256 << 10
"""Bytes: an event up to this is kept whole; of a longer one only its head and its tail."""
END_KEPT: Final = 64 << 10
"""Bytes of either end."""
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
_INFLATE_STEP: Final = 1024
"""Bytes inflated at a time: a bomb unfolds in small pieces, and each is dropped before the next."""


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE event, or a whole document. `raw` are its bytes, its end included, or both ends of a long one.

    `size`: how many bytes it had. `field`: `data`, or another field that carried JSON (llama.cpp: `error`).
    """

    raw: bytes
    data: bytes
    field: str
    size: int

    @property
    def whole(self) -> bool:
        return self.size == len(self.raw)


class Splitter:
    """Collects bytes and gives out what is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = b""
        self._dropped = 0
        self.is_json: bool | None = None

    @property
    def is_empty(self) -> bool:
        """An event stream in which nothing incomplete is waiting."""
        return not self._buffer and self.is_json is False

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes."""
        start = max(0, len(self._buffer) - 3)
        self._buffer += chunk
        if self.is_json is None:
            self.is_json = _looks_like_json(self._buffer)
        events = self._cut(start) if self.is_json is False else []
        if len(self._buffer) > WHOLE_LIMIT + END_KEPT:
            self._shorten()
        return events

    def end(self) -> Event | None:
        """What was left without its end, as if it had one."""
        if not self._buffer:
            return None
        return self._take(len(self._buffer), is_json=bool(self.is_json))

    def _cut(self, start: int) -> list[Event]:
        events: list[Event] = []
        while (match := _BLANK_LINE.search(self._buffer, start)) is not None:
            events.append(self._take(match.end(), is_json=False))
            start = 0
        return events

    def _take(self, length: int, *, is_json: bool) -> Event:
        raw = self._head + bytes(self._buffer[:length])
        size = self._dropped + length
        del self._buffer[:length]
        self._head, self._dropped = b"", 0
        if is_json or size != len(raw):
            return Event(raw, raw, "data", size)
        return _event(raw)

    def _shorten(self) -> None:
        if not self._head:
            self._head = bytes(self._buffer[:END_KEPT])
        self._dropped += len(self._buffer) - END_KEPT
        del self._buffer[:-END_KEPT]


def _looks_like_json(begun: bytearray) -> bool | None:
    """By the first byte that is not blank; None: not come yet."""
    text = bytes(begun[:END_KEPT]).removeprefix(_BOM).lstrip(b" \t\r\n")
    return text[:1] in (b"{", b"[") if text else None


def _event(raw: bytes) -> Event:
    """The joined data of an event, or of llama.cpp's `error:` field."""
    data: list[bytes] = []
    failure = b""
    for line in _LINE_END.split(raw.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"error":
            failure = value
    if failure and not data:
        return Event(raw, failure, "error", len(raw))
    return Event(raw, b"\n".join(data), "data", len(raw))


# --- encoded copies ---------------------------------------------------------------------------------


class Undecodable(ValueError):
    """An encoding that is not known, or bytes that are not of it."""


class _Inflater(Protocol):
    def __call__(self, piece: bytes, /) -> bytes: ...


def inflater(encoding: str) -> Callable[[bytes], list[bytes]]:
    """A function that unfolds a copy, in bounded pieces. Raises Undecodable, then or later."""
    makers: dict[str, Callable[[], _Inflater]] = {
        "gzip": _gzip,
        "x-gzip": _gzip,
        "deflate": _deflate,
        "br": _brotli,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
    }
    if encoding not in makers:
        raise Undecodable(encoding)
    unfold = makers[encoding]()

    def pieces(chunk: bytes) -> list[bytes]:
        steps = range(0, len(chunk), _INFLATE_STEP)
        try:
            return [plain for at in steps if (plain := unfold(chunk[at : at + _INFLATE_STEP]))]
        except (zlib.error, zstandard.ZstdError, brotli.error) as error:
            raise Undecodable(encoding) from error

    return pieces


def _brotli() -> _Inflater:
    state: Any = brotli.Decompressor()
    return lambda piece: bytes(state.process(piece))


def _gzip() -> _Inflater:
    """gzip, one member after the other (RFC 1952)."""
    state = zlib.decompressobj(31)

    def unfold(piece: bytes) -> bytes:
        nonlocal state
        out = state.decompress(piece)
        while state.eof and state.unused_data:
            rest, state = state.unused_data, zlib.decompressobj(31)
            out += state.decompress(rest)
        return out

    return unfold


def _deflate() -> _Inflater:
    """zlib's format, as the RFC says, or raw deflate, as some servers send."""
    state = None

    def unfold(piece: bytes) -> bytes:
        nonlocal state
        if state is None:
            state = zlib.decompressobj(15 if piece[:1] in (b"\x78", b"\x58", b"\x48", b"\x08") else -15)
        return state.decompress(piece)

    return unfold
