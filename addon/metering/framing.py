"""Cutting an answer into its parts, whatever way the bytes were cut: SSE events, lines of JSON, the elements of
a JSON array, or one JSON document.

Only a copy passes through here; memory is bounded, and the result does not depend on the cuts. What a body is,
its first byte tells, not its Content-Type: some servers send JSON as text/event-stream, and the other way
round. SSE's line ends are LF, CRLF or CR (WHATWG HTML, server-sent events); U+2028 is none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

WHOLE_LIMIT: Final = 256 << 10
"""Bytes: an event up to this is kept whole; of a longer one only its head and its tail."""
END_KEPT: Final = 64 << 10
"""Bytes of either end."""
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BETWEEN_LINES: Final = re.compile(rb"\}[ \t\r\n]*\n[ \t\r]*(?=\{)")
"""Between two JSON objects on lines of their own. Inside one document a comma must stand between them."""
_STRUCTURE: Final = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)
_BLANK: Final = b" \t\r\n"
_BETWEEN_ELEMENTS: Final = b"[], \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"

Kind = Literal["sse", "json", "array"]


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE event, one line or element, or a whole document. `raw` are its bytes, its end included, or both
    ends of a long one.

    `size`: how many bytes it had. `is_error`: it is named one (`event: error`), or its data stands in a field of
    that name (llama.cpp).
    """

    raw: bytes
    data: bytes
    size: int
    is_error: bool = False

    @property
    def whole(self) -> bool:
        return self.size == len(self.raw)


class Splitter:
    """Collects bytes and gives out what is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = b""
        self._dropped = 0
        self._scanned = 0
        """Where to look on in the buffer: before it nothing can end."""
        self._depth = 0
        self._in_text = False
        self.kind: Kind | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream; False also while nothing tells."""
        return self.kind == "sse"

    @property
    def is_empty(self) -> bool:
        """An event stream in which nothing incomplete is waiting."""
        return not self._buffer and self.kind == "sse"

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that this chunk completes."""
        self._buffer += chunk
        if self.kind is None:
            self.kind = _kind(self._buffer)
        events: list[Event] = []
        while (length := self._next_end()) is not None:
            events.append(self._take(length))
        if len(self._buffer) > WHOLE_LIMIT + END_KEPT:
            self._shorten()
        return events

    def end(self) -> Event | None:
        """What was left without its end, as if it had one."""
        return self._take(len(self._buffer)) if self._buffer else None

    def _next_end(self) -> int | None:
        """The length of the first complete event in the buffer."""
        if self.kind == "array":
            return self._element_end()
        if self.kind is None:
            return None
        pattern = _BLANK_LINE if self.kind == "sse" else _BETWEEN_LINES
        match = pattern.search(self._buffer, self._scanned)
        if match is not None:
            return match.end()
        # what was seen of a boundary is looked at again: its first line end, or its brace and the blanks behind
        last = len(self._buffer) - 3 if self.kind == "sse" else len(self._buffer.rstrip(_BLANK)) - 1
        self._scanned = max(0, last)
        return None

    def _element_end(self) -> int | None:
        """The end of the next object or list directly inside an array."""
        for mark in _STRUCTURE.finditer(self._buffer, self._scanned):
            self._scanned = mark.end()
            byte = mark[0]
            if self._in_text or byte == b'"':
                self._in_text = (byte != b'"') if self._in_text else True
            elif byte in (b"[", b"{"):
                self._depth += 1
            elif byte in (b"]", b"}"):
                self._depth -= 1
                if self._depth == 1:
                    return mark.end()
        if not self._buffer.endswith(b"\\"):  # what it escapes has not come
            self._scanned = len(self._buffer)
        return None

    def _take(self, length: int) -> Event:
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        size, head = self._dropped + len(self._head) + length, self._head
        self._head, self._dropped, self._scanned = b"", 0, 0
        if size > WHOLE_LIMIT:
            raw = (head or taken[:END_KEPT]) + taken[-END_KEPT:]
            return Event(raw, raw, size)
        if self.kind == "sse":
            return _event(taken)
        return Event(taken, taken.removeprefix(_BOM).lstrip(_BETWEEN_ELEMENTS), size)

    def _shorten(self) -> None:
        cut = len(self._buffer) - END_KEPT
        if not self._head:
            self._head = bytes(self._buffer[:END_KEPT])
            self._dropped -= END_KEPT
        self._dropped += cut
        self._scanned = max(0, self._scanned - cut)
        del self._buffer[:cut]


def _kind(begun: bytearray) -> Kind | None:
    """By the first byte that is not blank; None: not come yet."""
    text = bytes(begun[:END_KEPT]).removeprefix(_BOM).lstrip(_BLANK)
    if not text or _BOM.startswith(text):
        return "sse" if len(begun) > END_KEPT else None
    if text[:1] == b"{":
        return "json"
    return "array" if text[:1] == b"[" else "sse"


def _event(raw: bytes) -> Event:
    """The joined data of an event, or of llama.cpp's `error:` field."""
    data: list[bytes] = []
    failure, is_error = b"", False
    for line in _LINE_END.split(raw.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"error":
            failure, is_error = value, True
        elif name == b"event":
            is_error |= value.strip() == b"error"
    return Event(raw, b"\n".join(data) if data else failure, len(raw), is_error)
