"""Watches one answer go by: passes the bytes on at once, and knows at the end what they cost in tokens.

`feed` is called for every chunk of every stream: whole events in which only text can stand are counted and
returned as they came. Others are parsed: a word is a filter, the parsed shape decides. An event that exists
because *we* asked for usage is hidden, and nothing else, ever.

The result does not depend on how the bytes were cut: every figure is a sum over events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from addon.metering.families import Family
from addon.metering.figures import Asked, Course, Source
from addon.metering.framing import Event, Splitter
from addon.metering.inflate import Undecodable, inflater
from addon.metering.texts import TextCount
from addon.metering.usage import Usage

HELD_BACK_LIMIT: Final = 64 << 10
"""Bytes of an incomplete event that may wait while a usage event is expected; a longer one is not ours."""
BELIEVED_BYTES: Final = 40
"""Bytes of text that a token can have on average: more than that, and the tokens reported are too few."""
RULE_BYTES: Final = 256
"""A line of dashes or of blanks can be a token by itself."""
PIECE: Final = 64 << 10
_NOT_ONLY_USAGE: Final = ("error", "prompt_filter_results", "citations", "search_results")


@dataclass(frozen=True, slots=True)
class Metered:
    """What one answer was. `source` missing: no usable figures; the caller counts, or keeps the hold.

    `text_bytes`: UTF-8 bytes of generated text, as far as it could be read, and of what could not. `deltas`:
    events that carried text. `suspect`: what was delivered belies the output reported. `complete`: a proper
    end was seen. `failed`: the answer reports an error of the upstream. `readable` is False for an encoding
    that could not be undone. `is_stream`: the body was SSE, so an event may be appended, after `open_end` (the
    end that its last event lacks). `ids`: of this stream's chunks.
    """

    usage: Usage | None
    source: Source
    raw_usage: Mapping[str, Any] | None
    complete: bool
    failed: bool
    deltas: int
    text_bytes: int
    delivered_bytes: int
    suspect: bool = False
    readable: bool = True
    is_stream: bool = False
    open_end: bytes = b""
    ids: Mapping[str, Any] = field(default_factory=dict)


class Meter:
    """One answer's observer. `hide_usage`: the client did not ask for the usage event that we asked for."""

    def __init__(
        self, family: Family, *, content_encoding: str = "", hide_usage: bool = False, asked: Asked | None = None
    ) -> None:
        self._encoded = content_encoding not in ("", "identity")
        self._hide = hide_usage and not self._encoded
        self._readable = True
        self._splitter = Splitter()
        self._held = bytearray()
        self._ahead = 0  # bytes of the unfinished event that were let go already
        self._open_end = b""
        self._passed = 0
        self._between = False  # nothing incomplete waits, of an event stream that is not encoded
        self._text = TextCount(family.texts, family.word)
        self._course = Course()
        self._reader = family.reader(asked or Asked(), has_output=family.has_output)
        self._has_output = family.has_output
        try:
            self._unfold = inflater(content_encoding) if self._encoded else None
        except Undecodable:
            self._readable = False

    def feed(self, chunk: bytes) -> bytes | list[bytes]:
        """What the client may see of this chunk, now. Never b"", which would end the answer; never raises."""
        self._passed += len(chunk)
        if self._between and chunk[-1:] == b"\n" and self._skim(chunk):
            return chunk
        try:
            passed = self._look(chunk)
            self._between = not self._encoded and not self._held and self._readable and self._splitter.is_empty
        except Exception:  # an observer must never cost the client a byte
            self._readable = self._between = False
            return self._let_go(chunk)
        return passed

    @property
    def passed(self) -> int:
        """Bytes of the answer that came until now."""
        return self._passed

    @property
    def is_told(self) -> bool:
        """Whether a proper end came and the final figures with it: nothing that follows would say more."""
        return self._course.ended and self._reader.figures(ended=True).source == "reported"

    def end(self) -> bytes:
        """The answer ended properly: what was held back and is not ours. Never raises."""
        self._course.ended = True
        held = bytes(self._held)
        self._held.clear()
        try:
            last = self._splitter.end()
            if last is None:
                return held
            if self._splitter.is_stream:
                self._open_end = b"\n" if last.raw[-1:] in b"\r\n" else b"\n\n"
            if self._observe(last) and not self._ahead:
                self._open_end = b""
                return _comments(held)
        except Exception:
            self._readable = False
        return held

    def finish(self) -> Metered:
        """What was metered until now; for an answer that was cut, from what came."""
        last = self._splitter.end()
        if last is not None and self._readable:
            self._observe(last)
        figures, text = self._reader.figures(ended=self._course.ended), self._text
        made = figures.usage.output if figures.usage is not None and self._has_output else None
        return Metered(
            usage=figures.usage,
            source=figures.source,
            raw_usage=figures.raw,
            suspect=figures.suspect or (made is not None and text.exact > _believable_bytes(made)),
            complete=self._course.ended,
            failed=self._course.failed,
            deltas=text.deltas,
            text_bytes=text.exact + text.guessed,
            delivered_bytes=self._passed,
            readable=self._readable,
            is_stream=self._splitter.is_stream and not self._encoded,
            open_end=self._open_end,
            ids=self._course.ids,
        )

    # --- one chunk ----------------------------------------------------------------------------------

    def _skim(self, chunk: bytes) -> bool:
        """Whole events, in each of which nothing but text matters: counted, all or none. One event, of one line or
        two, is the usual case."""
        if chunk.find(b"\r") >= 0:
            return False
        text, end = self._text, len(chunk) - 2
        line = chunk.find(b"\n")
        if line == end or (line < end - 1 and chunk.find(b"\n", line + 1) == end):
            length = text.skim(chunk)
            if not length:
                return False
            text.deltas += 1
            text.exact += length
            return True
        if not chunk.endswith(b"\n\n"):
            return False
        total, events = 0, chunk[:-2].split(b"\n\n")
        for event in events:
            length = text.skim(event)
            if not length:
                return False
            total += length
        text.add(len(events), total)
        return True

    def _look(self, chunk: bytes) -> bytes | list[bytes]:
        if not self._readable:
            return self._let_go(chunk)
        if self._unfold is not None:
            for plain in self._unfold(chunk):
                self._observe_all(self._splitter.feed(plain))
            return chunk
        if self._hide:
            return self._sieve(chunk)
        self._observe_all(self._splitter.feed(chunk))
        return chunk

    def _sieve(self, chunk: bytes) -> bytes | list[bytes]:
        """Passes whole events on, but for the one that is ours; holds an unfinished one back, for a while."""
        out = bytearray()
        self._held += chunk
        for event in self._splitter.feed(chunk):
            unsent = event.size - self._ahead
            ours = self._observe(event) and not self._ahead
            out += _comments(bytes(self._held[:unsent])) if ours else self._held[:unsent]
            del self._held[:unsent]
            self._ahead = 0
        if len(self._held) > HELD_BACK_LIMIT or self._ahead or self._splitter.kind not in ("sse", None):
            self._ahead += len(self._held)
            out += self._held
            self._held.clear()
        return bytes(out) if out else []

    def _let_go(self, chunk: bytes) -> bytes:
        held = bytes(self._held)
        self._held.clear()
        return held if held.endswith(chunk) else held + chunk

    # --- one event ----------------------------------------------------------------------------------

    def _observe_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self._observe(event)

    def _observe(self, event: Event) -> bool:
        """Takes an event into account; whether it is the one that exists because we asked for usage."""
        if not event.whole:
            self._text.guess(event.size)
            self._reader.scan(event.raw)
            return False
        if length := self._text.skim(event.raw):
            self._text.add(1, length)
            return False
        self._course.failed |= event.is_error
        data = event.data.strip()
        if not data or data == b"[DONE]":
            self._course.ended |= bool(data)
            return False
        payload = _object(data)
        if payload is None:
            self._text.guess(event.size)
            return False
        self._text.read(payload, event.raw)
        self._reader.read(payload, self._course)
        return self._hide and _only_usage(payload)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):  # what nests too deep says nothing
        return None
    return payload if isinstance(payload, dict) else None


def _believable_bytes(made: int) -> int:
    """How much text so many tokens can be; none at all can be none."""
    return BELIEVED_BYTES * made + RULE_BYTES if made else 0


def _only_usage(payload: Mapping[str, Any]) -> bool:
    """The event that `include_usage` brings: no choices, a usage object, and nothing else that matters."""
    return (
        not payload.get("choices")
        and isinstance(payload.get("usage"), dict)
        and not any(payload.get(name) for name in _NOT_ONLY_USAGE)
    )


def _comments(raw: bytes) -> bytes:
    """The comment lines of an event that is hidden: they are not ours."""
    return b"".join(line for line in raw.splitlines(keepends=True) if line.startswith(b":"))


def measure(family: Family, body: bytes, *, content_encoding: str = "") -> Metered:
    """A whole answer, metered in small pieces."""
    meter = Meter(family, content_encoding=content_encoding)
    for at in range(0, len(body), PIECE):
        meter.feed(body[at : at + PIECE])
    meter.end()
    return meter.finish()


def sift(family: Family, body: bytes, *, content_encoding: str = "") -> tuple[Metered, bytes]:
    """The same for a whole stream, and its bytes without the event that it has only because we asked."""
    meter, out = Meter(family, content_encoding=content_encoding, hide_usage=True), bytearray()
    for at in range(0, len(body), PIECE):
        passed = meter.feed(body[at : at + PIECE])
        out += passed if isinstance(passed, bytes) else b"".join(passed)
    out += meter.end()
    return meter.finish(), bytes(out)


def receipt_event(family: Family, metered: Metered, cost: Mapping[str, Any]) -> bytes:
    """The event that may follow this stream, behind the end that its last event may lack; b"": none may."""
    if family.receipt is None or not metered.is_stream:
        return b""
    return metered.open_end + family.receipt(metered.ids, cost)
