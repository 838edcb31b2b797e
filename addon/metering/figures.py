"""One usage out of the figures of a whole answer: which of several count, and whether they can be.

Each dialect has a reader that is shown every event that may matter, in order, and asked at the end. Readers
follow exact paths, since text inside an answer can imitate anything. Nothing is ever added up but the parts
of answers that were asked for together (n, several prompts).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from addon.metering.usage import Usage, added, read_openai, read_timings

Source = Literal["reported", "partial", "timings", "missing"]

_DECODER: Final = json.JSONDecoder()
_VALUE_LIMIT: Final = 16 << 10
"""Characters of a usage object at most."""
_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class Asked:
    """What multiplies an answer: `n` answers to each of `prompts` prompts."""

    n: int = 1
    prompts: int = 1

    @property
    def answers(self) -> int:
        return self.n * self.prompts


@dataclass(frozen=True, slots=True)
class Figures:
    """What was reported. `raw`: the object it was read from. `suspect`: it cannot be all there was."""

    usage: Usage | None
    source: Source
    raw: Mapping[str, Any] | None
    suspect: bool = False


@dataclass(slots=True)
class Course:
    """How an answer goes. `ids`: of its chunks, for what is appended in their likeness."""

    failed: bool = False
    ended: bool = False
    """A proper end was seen."""
    ids: Mapping[str, Any] = field(default_factory=dict)


class Reader(Protocol):
    """Shown the events of one answer."""

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        """One parsed event, or the whole answer."""

    def scan(self, raw: bytes) -> None:
        """Both ends of one too long to keep."""

    def figures(self, *, ended: bool) -> Figures:
        """What holds at the end. `ended`: nothing was cut off."""


class ReaderMaker(Protocol):
    """Begins the reader of one answer."""

    def __call__(self, asked: Asked, /, *, has_output: bool) -> Reader: ...


class OpenAiReader:
    """Chat, legacy completions and embeddings.

    Figures in a chunk without choices, or with a finish_reason, are final, others a running total. The last
    final ones win (a repeat is no addition), unless each of several answers has its own; then running totals,
    the latest of each choice; then llama.cpp's timings. Groq: `x_groq.usage`. Moonshot: `choices[].usage`.
    """

    def __init__(self, asked: Asked, *, has_output: bool) -> None:
        self._asked = asked
        self._has_output = has_output
        self._finals: list[tuple[Usage, Mapping[str, Any]]] = []
        self._final_count = 0
        self._running: dict[int, tuple[Usage, Mapping[str, Any]]] = {}
        self._timings: tuple[Usage, Mapping[str, Any]] | None = None
        self._choices: set[int] = set()

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        choices = objects(payload.get("choices"))
        groq = payload.get("x_groq")
        groq = groq if isinstance(groq, dict) else {}
        done = any(c.get("finish_reason") for c in choices)
        course.failed |= bool(payload.get("error") or groq.get("error"))
        course.ended |= done
        if not course.ids and isinstance(payload.get("id"), str) and payload["id"]:
            course.ids = {k: payload[k] for k in ("id", "object", "created", "model") if k in payload}
        indexes = [i for c in choices if isinstance(i := c.get("index", 0), int)]
        if len(self._choices) <= self._asked.answers:
            self._choices.update(indexes)
        for reported in (payload.get("usage"), groq.get("usage"), *(c.get("usage") for c in choices)):
            usage = read_openai(reported, has_output=self._has_output)
            if usage is not None and isinstance(reported, dict):
                self._keep(usage, reported, final=done or not choices, choice=indexes[0] if indexes else 0)
                break  # the same figures again, in another place
        timings = payload.get("timings")
        if (timed := read_timings(timings)) is not None and isinstance(timings, dict):
            self._timings = timed, timings

    def scan(self, raw: bytes) -> None:
        for reported in scanned(raw, "usage"):
            usage = read_openai(reported, has_output=self._has_output)
            if usage is not None:
                self._keep(usage, reported, final=True, choice=0)
                break

    def figures(self, *, ended: bool) -> Figures:
        suspect = len(self._choices) > self._asked.answers
        if self._finals:
            usage, raw = self._finals[-1]
            if self._final_count == self._asked.answers > 1:
                usage = added([u for u, _ in self._finals], told_again=self._asked.n)
            return Figures(usage, "reported", raw, suspect)
        if self._running:
            totals = list(self._running.values())
            usage = added([u for u, _ in totals], told_again=len(totals))
            return Figures(usage, "reported" if ended else "partial", totals[-1][1], suspect)
        if self._timings is not None:
            return Figures(self._timings[0], "timings", self._timings[1], suspect)
        return Figures(None, "missing", None)

    def keep_final(self, usage: Usage, raw: Mapping[str, Any]) -> None:
        """Takes figures that are a whole answer's."""
        self._final_count += 1
        self._finals.append((usage, raw))
        del self._finals[: -self._asked.answers]

    def _keep(self, usage: Usage, raw: Mapping[str, Any], *, final: bool, choice: int) -> None:
        if not final:
            if choice in self._running or len(self._running) < self._asked.answers:
                self._running[choice] = usage, raw
            return
        self.keep_final(usage, raw)


def objects(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; none of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def scanned(raw: bytes, name: str) -> Iterator[Any]:
    """What objects stand behind `"name":` in a piece of JSON, the last one first, a few at most. Inside a string
    its quotes would be escaped."""
    text = raw.decode("utf-8", "replace")
    places = [match.end() for match in re.finditer(rf'(?<!\\)"{name}"[ \t\r\n]{{0,8}}:[ \t\r\n]{{0,8}}(?=\{{)', text)]
    for at in reversed(places[-_TRIES:]):
        try:
            yield _DECODER.raw_decode(text[at : at + _VALUE_LIMIT])[0]
        except (ValueError, RecursionError):
            continue
