"""One usage object in a normal form: what the servers of each dialect write into it, read by exact paths.

`None` is unknown, never zero. Nothing is searched for: text inside an answer can imitate anything.
Sources: the API references of OpenAI, Anthropic and Ollama, and what vLLM, SGLang, llama.cpp, DeepSeek, xAI,
OpenRouter, Groq, Mistral, Moonshot, Perplexity, Cohere and Jina send, as the vectors in `tests/data/usage` record
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_COUNT: Final = 1 << 53
_NONE: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer used. `input` and `output` are all tokens; the figures of tokens behind them are parts of
    these: `cached_input`, `cache_write` (of it `cache_write_1h`), `input_audio` and `input_image` of the input,
    `reasoning`, `output_audio` and `output_image` of the output. The rest is counted by the piece.
    """

    input: int | None
    output: int | None
    cached_input: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    input_audio: int = 0
    input_image: int = 0
    output_audio: int = 0
    output_image: int = 0
    searches: int = 0
    images: int = 0
    seconds: int = 0


class Implausible(ValueError):
    """A figure that cannot be: the whole usage object counts as missing."""


@dataclass(frozen=True, slots=True)
class Names:
    """How a dialect names the two sides and their details."""

    input: str
    output: str
    input_details: tuple[str, ...]
    output_details: str


CHAT_NAMES: Final = Names("prompt_tokens", "completion_tokens", ("prompt_tokens_details",), "completion_tokens_details")
TOKEN_NAMES: Final = Names(
    "input_tokens", "output_tokens", ("input_tokens_details", "input_token_details"), "output_tokens_details"
)


def read_openai(reported: object, *, has_output: bool, names: Names = CHAT_NAMES) -> Usage | None:
    """An OpenAI-style `usage` object; None where it is missing, implausible, or says nothing but zeros.

    DeepSeek: `prompt_cache_hit_tokens`. OpenRouter: `cache_write_tokens`. SGLang: top-level
    `reasoning_tokens`. Where the total is more than its parts (xAI, Gemini), the rest is output.
    """
    if not isinstance(reported, dict):
        return None
    try:
        usage = _openai(reported, names)
        total = _count(reported, "total_tokens")
    except Implausible:
        return None
    given, made = usage.input, usage.output
    if not has_output:
        usage = dataclasses.replace(usage, input=total if given is None else given, output=0)
    elif total is not None and given is not None and (unnamed := total - given - (made or 0)) > 0:
        usage = dataclasses.replace(usage, output=total - given, reasoning=usage.reasoning or unnamed)
    return bounded(usage) if usage.input or usage.output else None


def _openai(reported: Mapping[str, Any], names: Names) -> Usage:
    """The figures as they stand. Raises Implausible."""
    given = next((d for name in names.input_details if (d := _details(reported, name))), _NONE)
    made = _details(reported, names.output_details)
    return Usage(
        _count(reported, names.input),
        _count(reported, names.output),
        cached_input=_first(given, "cached_tokens") or _first(reported, "prompt_cache_hit_tokens"),
        cache_write=_first(given, "cache_write_tokens"),
        reasoning=_first(made, "reasoning_tokens") or _first(reported, "reasoning_tokens"),
        input_audio=_first(given, "audio_tokens"),
        input_image=_first(given, "image_tokens"),
        output_audio=_first(made, "audio_tokens"),
        output_image=_first(made, "image_tokens"),
        searches=_first(reported, "num_search_queries") or searches_of(reported),
    )


def read_timings(timings: object) -> Usage | None:
    """llama.cpp's `timings`: cache_n + prompt_n went in, predicted_n came out."""
    if not isinstance(timings, dict):
        return None
    try:
        cached, fresh, made = (_count(timings, name) for name in ("cache_n", "prompt_n", "predicted_n"))
    except Implausible:
        return None
    if fresh is None or made is None or not (fresh or made):
        return None
    return Usage((cached or 0) + fresh, made, cached or 0)


def read_counts(figures: object, names: Sequence[str]) -> dict[str, int] | None:
    """The counts among these names that are told; None: they cannot be, or none is told."""
    if not isinstance(figures, dict):
        return None
    try:
        told = {name: count for name in names if (count := _count(figures, name)) is not None}
    except Implausible:
        return None
    return told or None


def searches_of(reported: Mapping[str, Any]) -> int:
    """Searches that ran at the upstream (Anthropic, OpenRouter). Raises Implausible."""
    return _first(_details(reported, "server_tool_use"), "web_search_requests")


def added(usages: Sequence[Usage], *, told_again: int) -> Usage:
    """The usage of several answers that were asked for together. `told_again`: so many of them have the same
    input, and each tells it."""
    given = [u.input for u in usages if u.input is not None]
    made = [u.output for u in usages if u.output is not None]
    return Usage(
        -(-sum(given) // told_again) if given else None,
        sum(made) if made else None,
        cached_input=sum(u.cached_input for u in usages) // told_again,
        cache_write=sum(u.cache_write for u in usages) // told_again,
        reasoning=sum(u.reasoning for u in usages),
        input_audio=sum(u.input_audio for u in usages) // told_again,
        input_image=sum(u.input_image for u in usages) // told_again,
        output_audio=sum(u.output_audio for u in usages),
        output_image=sum(u.output_image for u in usages),
        searches=sum(u.searches for u in usages),
    )


def bounded(usage: Usage) -> Usage:
    """Parts are never more than what they are part of."""
    given, made = usage.input or 0, usage.output or 0
    cached = min(usage.cached_input, given)
    written = min(usage.cache_write, given - cached)
    return dataclasses.replace(
        usage,
        cached_input=cached,
        cache_write=written,
        cache_write_1h=min(usage.cache_write_1h, written),
        reasoning=min(usage.reasoning, made),
    )


def _details(reported: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = reported.get(name)
    return value if isinstance(value, dict) else _NONE


def _first(figures: Mapping[str, Any], name: str) -> int:
    return _count(figures, name) or 0


def _count(figures: Mapping[str, Any], name: str) -> int | None:
    """A count: an integer, or a float that is one. Raises Implausible for anything else."""
    value = figures.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value < MAX_COUNT:
        raise Implausible(name)
    return int(value)
