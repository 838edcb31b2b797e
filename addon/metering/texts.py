"""The generated text in an answer, by the exact paths of each dialect, and how many bytes it has.

Where an upstream tells no figures, its text is what is charged for; and figures that the text belies are not
believed. So text counts once, however often an answer repeats it, and what no model wrote is none: log
probabilities, ids, signatures, padding. Tool calls are text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

Texts = Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]
"""The pieces of generated text in one event or answer, each with the key that it stands under."""

ENVELOPE: Final = 256
"""Bytes that an event has around its text, where none has been read yet."""
USAGE: Final = b'"usage"'


class TextCount:
    """How much text was generated. Most events have theirs under one key: it is found there without parsing."""

    def __init__(self, texts: Texts, word: bytes = USAGE) -> None:
        self._texts = texts
        self._word, self._nothing = word, word + b":null"
        self._mark = b""
        self._find: Callable[[bytes], re.Match[bytes] | None] | None = None
        self._envelope: int | None = None
        self.deltas = 0
        """Events that carried text."""
        self.exact = 0
        """Bytes of text that was read."""
        self.guessed = 0
        """Bytes of what could not be read, less an envelope each: it may be text."""

    def skim(self, raw: bytes) -> int:
        """Bytes of text of one event in which nothing but plain text under the usual key matters; else 0.

        An error beside text is none to look for: text was delivered.
        """
        if self._find is None:
            return 0
        word = self._word
        at = raw.find(word)
        if at >= 0 and (not raw.startswith(self._nothing, at) or raw.find(word, at + 1) >= 0):
            return 0
        match = self._find(raw)
        return 0 if match is None else match.end() - match.start() - len(self._mark) - 1

    def add(self, deltas: int, text_bytes: int) -> None:
        """Takes events into account that were skimmed."""
        self.deltas += deltas
        self.exact += text_bytes

    def read(self, payload: Mapping[str, Any], raw: bytes) -> None:
        """Takes one parsed event or answer into account, and learns where its text stands."""
        found = [(key, text) for key, text in self._texts(payload) if text]
        if not found:
            return
        length = sum(len(text.encode("utf-8", "replace")) for _, text in found)
        self.add(1, length)
        self._envelope = min(self._envelope or len(raw), len(raw) - length)
        if len(found) == 1:
            self._learn(found[0][0].encode(), raw)

    def guess(self, size: int) -> None:
        """Takes an event of so many bytes into account that cannot be read."""
        self.guessed += max(0, size - (ENVELOPE if self._envelope is None else self._envelope))

    def _learn(self, key: bytes, raw: bytes) -> None:
        for mark in (b'"%s":"' % key, b'"%s": "' % key):
            if mark != self._mark and raw.count(mark) == 1:
                self._mark, self._find = mark, re.compile(re.escape(mark) + rb'[^"\\]+"').search


# --- paths ------------------------------------------------------------------------------------------


def chat_texts(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Chat and legacy completions, streamed or whole. Where a choice has a delta, its message repeats
    (Perplexity)."""
    for choice in _objects(payload.get("choices")):
        part = next((p for p in (choice.get("delta"), choice.get("message")) if isinstance(p, dict)), {})
        yield from _named(choice, "text")
        yield from _content(part)
        yield from _named(part, "refusal")
        yield from _reasoning(part)
        for call in (*_objects(part.get("tool_calls")), {"function": part.get("function_call")}):
            yield from _call(call)
        if isinstance(part.get("audio"), dict):
            yield from _named(part["audio"], "transcript")


def _content(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A text, or a list of parts (Mistral's thinking models: parts of parts)."""
    yield from _named(part, "content")
    for piece in _objects(part.get("content")):
        yield from _named(piece, "text", "thinking", "refusal")
        for inner in _objects(piece.get("thinking")):
            yield from _named(inner, "text")


def _reasoning(part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The reasoning, once: DeepSeek and vLLM say reasoning_content, vLLM and OpenRouter reasoning; some say both,
    and OpenRouter repeats it in reasoning_details."""
    for name in ("reasoning_content", "reasoning", "reasoning_text", "thinking"):
        if isinstance(part.get(name), str) and part[name]:
            yield name, part[name]
            return
    for detail in _objects(part.get("reasoning_details")):
        yield from _named(detail, "text", "summary")


def _call(call: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A function's name and arguments, or a custom tool's input."""
    for kind in ("function", "custom"):
        asked = call.get(kind)
        if isinstance(asked, dict):
            yield from _named(asked, "name", "arguments", "input")
            if isinstance(asked.get("arguments"), dict):  # Ollama
                yield "arguments", json.dumps(asked["arguments"], ensure_ascii=False)


def message_texts(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Anthropic's messages: blocks, each at its start, then by deltas; or all of them in the answer."""
    begun, delta = payload.get("content_block"), payload.get("delta")
    for block in (*_objects(payload.get("content")), *(b for b in (begun, delta) if isinstance(b, dict))):
        yield from _named(block, "text", "thinking", "partial_json")
        if block.get("type") == "tool_use":
            yield from _named(block, "name")
            if block.get("input"):
                yield "input", json.dumps(block["input"], ensure_ascii=False)


def response_texts(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Responses: deltas of any kind but sound, or the items of the answer. What a stream says again at the end of
    each item, and in its last event, is no more text."""
    kind = payload.get("type")
    if isinstance(kind, str):
        if kind.endswith(".delta") and not kind.startswith("response.audio.delta"):
            yield from _named(payload, "delta")
        elif kind == "response.output_item.added" and isinstance(payload.get("item"), dict):
            yield from _named(payload["item"], "name")
        return
    for item in _objects(payload.get("output")):
        yield from _named(item, "name", "arguments", "input")
        for part in (*_objects(item.get("content")), *_objects(item.get("summary"))):
            yield from _named(part, "text", "refusal")


def ollama_texts(payload: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Ollama's own API, streamed or whole."""
    message = payload.get("message")
    part = message if isinstance(message, dict) else payload
    yield from _named(part, "content", "response", "thinking")
    for call in _objects(part.get("tool_calls")):
        yield from _call(call)


def no_texts(_: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Answers in which nothing is generated: embeddings, scores."""
    return iter(())


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _named(part: Mapping[str, Any], *names: str) -> Iterator[tuple[str, str]]:
    return ((name, part[name]) for name in names if isinstance(part.get(name), str))
