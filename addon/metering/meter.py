"""Watches one answer go by: passes the bytes on at once, and knows at the end what they cost in tokens.

`feed` is called for every chunk of every stream: whole events in which nothing of interest can stand are
counted and returned as they came. An event is parsed only when a word in it says that it may matter; the word
is a filter, the parsed shape decides. An event that exists because *we* asked for usage is hidden.

The result does not depend on how the bytes were cut: every figure is a sum over events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from addon.metering.families import Family
from addon.metering.framing import Event, Splitter, Undecodable, inflater
from addon.metering.usage import Usage, read_openai, read_timings

Source = Literal["reported", "partial", "timings", "missing"]

HELD_BACK_LIMIT: Final = 64 << 10
"""Bytes of an incomplete event that may wait while a usage event is expected; a longer one is not ours."""
SAMPLED_EVENTS: Final = 4
"""So many of the first events are read in full, to learn how much of an event is text."""
PIECE: Final = 64 << 10
_WORDS: Final = (b'"usage"', b'"timings"', b"error", b"[DONE]")
_NOT_ONLY_USAGE: Final = ("error", "prompt_filter_results", "citations", "search_results")
_DECODER: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Metered:
    """What one answer was. `source` missing: no usable figures; the caller counts, or keeps the hold.

    `text_bytes`: UTF-8 bytes of generated text, estimated beyond the first events. `deltas`: events that
    carried data. `complete`: a proper end was seen. `failed`: the answer reports an error of the upstream.
    `readable` is False for an encoding that could not be undone. `is_stream`: the body was SSE, so an event
    may be appended, after `open_end` (the end that its last event lacks). `ids`: of this stream's chunks.
    """

    usage: Usage | None
    source: Source
    raw_usage: Mapping[str, Any] | None
    complete: bool
    failed: bool
    deltas: int
    text_bytes: int
    delivered_bytes: int
    readable: bool = True
    is_stream: bool = False
    open_end: bytes = b""
    ids: Mapping[str, Any] = field(default_factory=dict)


class Meter:
    """One answer's observer. `hide_usage`: the client did not ask for the usage event that we asked for."""

    def __init__(self, family: Family, *, content_encoding: str = "", hide_usage: bool = False) -> None:
        self._has_output = family.has_output
        self._encoded = content_encoding not in ("", "identity")
        self._hide = hide_usage and not self._encoded
        self._readable = True
        self._splitter = Splitter()
        self._held = bytearray()
        self._ahead = 0  # bytes of the unfinished event that were let go already
        self._open_end = b""
        self._passed = 0
        self._data_events = 0
        self._text = _TextCount()
        self._found = _Found()
        try:
            self._unfold = inflater(content_encoding) if self._encoded else None
        except Undecodable:
            self._readable = False

    def feed(self, chunk: bytes) -> bytes | list[bytes]:
        """What the client may see of this chunk, now. Never b"", which would end the answer; never raises."""
        self._passed += len(chunk)
        if not self._encoded and not self._held and self._is_dull(chunk):
            self._data_events += chunk.count(b"\n\n")
            self._text.unread(chunk, chunk.count(b"\n\n"))
            return chunk
        try:
            return self._look(chunk)
        except Exception:  # an observer must never cost the client a byte
            self._readable = False
            return self._let_go(chunk)

    def end(self) -> bytes:
        """The answer ended properly: what was held back and is not ours. Never raises."""
        self._found.proper_end = True
        held = bytes(self._held)
        self._held.clear()
        try:
            last = self._splitter.end()
            if last is None:
                return held
            self._open_end = b"" if self._splitter.is_json else b"\n" if last.raw[-1:] in b"\r\n" else b"\n\n"
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
        usage, source = self._found.usage()
        return Metered(
            usage=usage,
            source=source,
            raw_usage=self._found.raw,
            complete=self._found.proper_end,
            failed=self._found.failed,
            deltas=self._data_events,
            text_bytes=self._text.total,
            delivered_bytes=self._passed,
            readable=self._readable,
            is_stream=self._splitter.is_json is False and not self._encoded,
            open_end=self._open_end,
            ids=self._found.ids,
        )

    # --- one chunk ----------------------------------------------------------------------------------

    def _is_dull(self, chunk: bytes) -> bool:
        """Whole events of one data line each, after the sample, and no word of interest."""
        return (
            self._data_events >= SAMPLED_EVENTS
            and self._splitter.is_empty
            and chunk.endswith(b"\n\n")
            and chunk.startswith(b"data:")
            and b"\r" not in chunk
            and chunk.count(b"\ndata:") + 1 == chunk.count(b"\n\n") == chunk.count(b"\n") / 2
            and not any(word in chunk for word in _WORDS)
        )

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
        if len(self._held) > HELD_BACK_LIMIT or self._ahead or self._splitter.is_json:
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
        has_data = bool(event.data)
        wanted = self._data_events < SAMPLED_EVENTS or any(word in event.raw for word in _WORDS)
        self._data_events += has_data
        if not wanted:
            self._text.unread(event.raw, int(has_data), event.size)
            return False
        if event.data.strip() == b"[DONE]":
            self._found.proper_end = True
            return False
        if not event.whole:
            self._text.unread(event.raw, 1, event.size)
            self._found.scan(event.raw, has_output=self._has_output)
            return False
        payload = _object(event.data)
        if event.field == "error" or b"event: error" in event.raw:
            self._found.failed = True
        if payload is None:
            return False
        self._text.read(payload, len(event.raw))
        self._found.read(payload, has_output=self._has_output)
        return self._hide and _only_usage(payload)


class _TextCount:
    """How much text was generated: exactly where events were read, by their overhead where not."""

    def __init__(self) -> None:
        self._exact = 0
        self._unread_bytes = 0
        self._unread_events = 0
        self._overhead: int | None = None

    def read(self, payload: Mapping[str, Any], size: int) -> None:
        length = sum(len(text.encode("utf-8", "replace")) for text in _texts(payload))
        self._exact += length
        if length and (self._overhead is None or size - length < self._overhead):
            self._overhead = size - length

    def unread(self, raw: bytes, events: int, size: int | None = None) -> None:
        if events:
            self._unread_bytes += len(raw) if size is None else size
            self._unread_events += events

    @property
    def total(self) -> int:
        return self._exact + max(0, self._unread_bytes - self._unread_events * (self._overhead or 0))


class _Found:
    """The figures, and how the answer went."""

    def __init__(self) -> None:
        self._final: Usage | None = None
        self._latest: Usage | None = None
        self._timings: Usage | None = None
        self.raw: Mapping[str, Any] | None = None
        self.ids: Mapping[str, Any] = {}
        self.failed = False
        self.proper_end = False

    def usage(self) -> tuple[Usage | None, Source]:
        """The last final figures win, then running totals, then llama.cpp's timings."""
        if self._final is not None:
            return self._final, "reported"
        if self._latest is not None:
            return self._latest, "reported" if self.proper_end else "partial"
        return self._timings, "missing" if self._timings is None else "timings"

    def read(self, payload: Mapping[str, Any], *, has_output: bool) -> None:
        choices = payload.get("choices")
        parts = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
        ended = any(c.get("finish_reason") for c in parts)
        groq = payload.get("x_groq")
        groq = groq if isinstance(groq, dict) else {}
        self.failed |= bool(payload.get("error") or groq.get("error"))
        self.proper_end |= ended
        if not self.ids and isinstance(payload.get("id"), str):
            self.ids = {k: payload[k] for k in ("id", "object", "created", "model") if k in payload}
        for reported in (payload.get("usage"), groq.get("usage"), *(c.get("usage") for c in parts)):
            self._take(reported, final=ended or not parts, has_output=has_output)
        self._timings = read_timings(payload.get("timings")) or self._timings

    def scan(self, raw: bytes, *, has_output: bool) -> None:
        """Both ends of an answer too long to keep: a `"usage":` that no string holds (there quotes are
        escaped), followed by an object."""
        at = -1
        text = raw.decode("utf-8", "replace")
        while (at := text.find('"usage"', at + 1)) >= 0:
            colon = text.find(":", at)
            if text[at - 1 : at] == "\\" or text[at + 7 : colon].strip():
                continue
            try:
                reported, _ = _DECODER.raw_decode(text[colon + 1 :].lstrip())
            except (ValueError, RecursionError):
                continue
            self._take(reported, final=True, has_output=has_output)

    def _take(self, reported: object, *, final: bool, has_output: bool) -> None:
        usage = read_openai(reported, has_output=has_output)
        if usage is None or not isinstance(reported, dict):
            return
        self.raw = reported
        if final:
            self._final = usage
        else:
            self._latest = usage


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):  # what nests too deep says nothing
        return None
    return payload if isinstance(payload, dict) else None


def _only_usage(payload: Mapping[str, Any]) -> bool:
    """The event that `include_usage` brings: no choices, a usage object, and nothing else that matters."""
    return (
        not payload.get("choices")
        and isinstance(payload.get("usage"), dict)
        and not any(payload.get(name) for name in _NOT_ONLY_USAGE)
    )


def _texts(payload: Mapping[str, Any]) -> Iterable[str]:
    """Every piece of generated text of a chunk or an answer."""
    choices = payload.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        for part in (choice, choice.get("delta"), choice.get("message")):
            if isinstance(part, dict):
                yield from _texts_of(part)


def _texts_of(part: Mapping[str, Any]) -> Iterable[str]:
    for name in ("text", "content", "reasoning_content", "reasoning", "refusal"):
        if isinstance(part.get(name), str):
            yield part[name]
    calls = part.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from (v for v in (function.get("name"), function.get("arguments")) if isinstance(v, str))


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


def receipt_event(metered: Metered, cost: Mapping[str, Any]) -> bytes:
    """The event that may follow a chat's or a completion's stream: a chunk without choices, so that no client
    chokes on it."""
    told = {"id": "", "object": "chat.completion.chunk", "created": 0, "model": ""} | dict(metered.ids)
    told |= {"choices": [], "cost": cost}
    return metered.open_end + b"data: " + json.dumps(told, separators=(",", ":")).encode() + b"\n\n"
