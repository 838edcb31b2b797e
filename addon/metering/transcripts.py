"""Transcripts: what was heard is told in tokens or in seconds, in a JSON answer or at the end of a stream. A plain
text tells nothing.

Sources: OpenAI's API reference, audio; vLLM's and whisper servers' answers, which are theirs or a chat's chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from addon.metering.figures import Asked, Course, Figures, objects, scanned
from addon.metering.texts import chat_texts
from addon.metering.usage import CHAT_NAMES, MAX_COUNT, TOKEN_NAMES, Usage, read_openai

JSON_FORMATS: Final = (None, "json", "verbose_json", "diarized_json")
"""Formats of an answer that can hold figures. In others nothing is one, whatever it looks like."""


class TranscriptReader:
    """The `usage` of the answer, or of the event that ends its stream: of type tokens, or of type duration. Else
    the `duration` that a verbose answer has."""

    def __init__(self, asked: Asked, *, has_output: bool) -> None:
        self._found: tuple[Usage, Mapping[str, Any]] | None = None

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        kind = payload.get("type")
        course.failed |= kind == "error" or bool(payload.get("error"))
        course.ended |= kind == "transcript.text.done" or any(
            c.get("finish_reason") for c in objects(payload.get("choices"))
        )
        self._take(payload.get("usage"))
        seconds = _seconds(payload.get("duration"))
        if self._found is None and seconds is not None and kind is None:
            self._found = Usage(0, 0, seconds=seconds), {"duration": payload["duration"]}

    def scan(self, raw: bytes) -> None:
        for reported in scanned(raw, "usage"):
            self._take(reported)
            break

    def figures(self, *, ended: bool) -> Figures:
        if self._found is None:
            return Figures(None, "missing", None)
        usage, raw = self._found
        return Figures(usage, "reported", raw)

    def _take(self, reported: object) -> None:
        if not isinstance(reported, dict):
            return
        seconds = _seconds(reported.get("seconds"))
        tokens = [read_openai(reported, has_output=True, names=names) for names in (TOKEN_NAMES, CHAT_NAMES)]
        usage = next((u for u in tokens if u is not None), None if seconds is None else Usage(0, 0, seconds=seconds))
        if usage is not None:
            self._found = usage, reported


def transcript_texts(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The text of an answer, once, though segments and words repeat it; the deltas of a stream."""
    kind = payload.get("type")
    name = {"transcript.text.delta": "delta", None: "text"}.get(kind if isinstance(kind, str) else None)
    if name is not None and isinstance(payload.get(name), str):
        yield name, payload[name]
    yield from chat_texts(payload)


def _seconds(told: object) -> int | None:
    """Whole seconds, a begun one counted; None: not told, or it cannot be. Some tell a duration as text."""
    try:
        value = float(told) if isinstance(told, int | float | str) and not isinstance(told, bool) else 0.0
    except (ValueError, OverflowError):
        return None
    return math.ceil(value) if 0 < value < MAX_COUNT else None
