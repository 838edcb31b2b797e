"""The readers of the dialects that are not OpenAI's chat: Anthropic's messages, Responses, Ollama's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from addon.metering.figures import Asked, Course, Figures, OpenAiReader, Source, objects, scanned
from addon.metering.usage import (
    TOKEN_NAMES,
    Usage,
    bounded,
    read_counts,
    read_openai,
    read_timings,
)

_INPUT: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_PICTURE_DONE: Final = ("image_generation.completed", "image_edit.completed")
_OLLAMA: Final = ("prompt_eval_count", "eval_count", "prompt_eval_cached_count")


class AnthropicReader:
    """Messages: figures at the start, then cumulative ones, per field the last that is told.

    `input_tokens` leaves out what was read from or written to a cache. An input side of nothing but zeros is
    unknown (some gateways send one at the end); the output told at the start is a placeholder.
    """

    def __init__(self, asked: Asked, *, has_output: bool) -> None:
        self._input: dict[str, int] = {}
        self._written_1h = 0
        self._searches = 0
        self._output: int | None = None
        self._raw: Mapping[str, Any] | None = None

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        kind = payload.get("type")
        course.failed |= kind == "error" or bool(payload.get("error"))
        if kind == "message_start" and isinstance(payload.get("message"), dict):
            self._take(payload["message"].get("usage"), is_start=True)
        elif kind in ("message_delta", "message"):
            self._take(payload.get("usage"), is_start=False)
            delta = payload.get("delta")
            stopped = delta if isinstance(delta, dict) else payload
            course.ended |= bool(stopped.get("stop_reason"))
        elif kind == "message_stop":
            course.ended = True

    def scan(self, raw: bytes) -> None:
        for reported in scanned(raw, "usage"):
            self._take(reported, is_start=False)
            break

    def figures(self, *, ended: bool) -> Figures:
        if self._raw is None:
            return Figures(None, "missing", None)
        written, read = (self._input.get(name, 0) for name in _INPUT[1:])
        usage = Usage(
            sum(self._input.values()) if any(self._input.values()) else None,
            self._output,
            cached_input=read,
            cache_write=written,
            cache_write_1h=self._written_1h,
            searches=self._searches,
        )
        if not (usage.input or usage.output):
            return Figures(None, "missing", None)
        return Figures(bounded(usage), "reported" if usage.output is not None else "partial", self._raw)

    def _take(self, reported: object, *, is_start: bool) -> None:
        told = read_counts(reported, (*_INPUT, "output_tokens"))
        if told is None or not isinstance(reported, dict):
            return
        self._raw = reported
        if any(told.get(name) for name in _INPUT):
            self._input |= {name: told[name] for name in _INPUT if name in told}
        if not is_start and "output_tokens" in told:
            self._output = told["output_tokens"]
        split = read_counts(reported.get("cache_creation"), ("ephemeral_1h_input_tokens",))
        self._written_1h = self._written_1h if split is None else split["ephemeral_1h_input_tokens"]
        searched = read_counts(reported.get("server_tool_use"), ("web_search_requests",))
        self._searches = self._searches if searched is None else searched["web_search_requests"]


class ResponsesReader:
    """Responses: `response.usage` in the event that ends the stream, or the answer's own; llama.cpp: timings
    beside it."""

    def __init__(self, asked: Asked, *, has_output: bool) -> None:
        self._has_output = has_output
        self._found = Figures(None, "missing", None)
        self._timings = self._found

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        kind, inner = payload.get("type"), payload.get("response")
        response = inner if isinstance(inner, dict) else payload
        status = response.get("status")
        course.failed |= kind in ("error", "response.failed") or status == "failed" or bool(response.get("error"))
        course.ended |= status in ("completed", "incomplete", "failed")
        if isinstance(number := payload.get("sequence_number"), int):
            course.ids = {"sequence_number": number}
        reported = response.get("usage")
        usage = read_openai(reported, has_output=self._has_output, names=TOKEN_NAMES)
        if usage is not None and isinstance(reported, dict):
            tools = response.get("tool_usage")
            searched = read_counts(tools.get("web_search") if isinstance(tools, dict) else None, ("num_requests",))
            usage = usage if searched is None else dataclasses.replace(usage, searches=searched["num_requests"])
            self._found = Figures(usage, "reported", reported)
        timings = payload.get("timings")
        if (timed := read_timings(timings)) is not None and isinstance(timings, dict):
            self._timings = Figures(timed, "timings", timings)

    def scan(self, raw: bytes) -> None:
        for reported in scanned(raw, "usage"):
            usage = read_openai(reported, has_output=self._has_output, names=TOKEN_NAMES)
            if usage is not None:
                self._found = Figures(usage, "reported", reported)
                break

    def figures(self, *, ended: bool) -> Figures:
        return self._timings if self._found.usage is None else self._found


class OllamaReader:
    """Ollama's own API: the object that says `done`. A count that it leaves out is unknown, not zero."""

    def __init__(self, asked: Asked, *, has_output: bool) -> None:
        self._has_output = has_output
        self._found = Figures(None, "missing", None)

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        course.failed |= bool(payload.get("error"))
        if payload.get("done") is not True and self._has_output:
            return
        course.ended = True
        told = read_counts(payload, _OLLAMA)
        if told is None or not any(told.values()):
            return
        made = told.get("eval_count") if self._has_output else 0
        usage = Usage(told.get("prompt_eval_count"), made, told.get("prompt_eval_cached_count", 0))
        source: Source = "partial" if usage.input is None or usage.output is None else "reported"
        self._found = Figures(bounded(usage), source, {name: payload.get(name) for name in _OLLAMA})

    def scan(self, raw: bytes) -> None:
        """Its counts stand at the end of the object, which can be long where a tool is called."""

    def figures(self, *, ended: bool) -> Figures:
        return self._found


class RerankReader(OpenAiReader):
    """Scores: tokens as a chat names them (Jina, vLLM, llama.cpp), or searches (Cohere: `meta.billed_units`)."""

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        super().read(payload, course)
        meta = payload.get("meta")
        billed = meta.get("billed_units") if isinstance(meta, dict) else None
        told = read_counts(billed, ("search_units",))
        if told is not None and told["search_units"] and isinstance(billed, dict):
            self.keep_final(Usage(0, 0, searches=told["search_units"]), billed)


class MediaReader:
    """Images and speech: the `usage` of the answer, or of the event that ends its stream; else the pictures that
    came are counted. What is made is output, though no cap bounds it."""

    def __init__(self, asked: Asked, *, has_output: bool) -> None:
        self._found: tuple[Usage, Mapping[str, Any]] | None = None
        self._images = 0

    def read(self, payload: Mapping[str, Any], course: Course) -> None:
        kind = payload.get("type")
        course.failed |= kind == "error" or bool(payload.get("error"))
        course.ended |= isinstance(kind, str) and kind.endswith((".completed", ".done"))
        self._images += len(objects(payload.get("data"))) + (kind in _PICTURE_DONE)
        self._take(payload.get("usage"))

    def scan(self, raw: bytes) -> None:
        for reported in scanned(raw, "usage"):
            self._take(reported)
            break

    def figures(self, *, ended: bool) -> Figures:
        if self._found is not None:
            usage, raw = self._found
            return Figures(dataclasses.replace(usage, images=self._images), "reported", raw)
        if self._images:
            return Figures(Usage(None, None, images=self._images), "partial", None)
        return Figures(None, "missing", None)

    def _take(self, reported: object) -> None:
        usage = read_openai(reported, has_output=True, names=TOKEN_NAMES)
        if usage is not None and isinstance(reported, dict):
            self._found = usage, reported
