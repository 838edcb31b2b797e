"""One usage out of the figures that servers send: a normal form, and readers of exact paths.

`None` is unknown, never zero. Nothing is searched for: text inside an answer can imitate anything.
Sources: the OpenAI API reference, and what vLLM, SGLang, llama.cpp, DeepSeek, xAI, OpenRouter, Groq, Mistral
and Moonshot send, as the vectors in `tests/data/usage` record it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_COUNT: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. `cached_input` and `cache_write` are subsets of `input`, `reasoning` of `output`."""

    input: int | None
    output: int | None
    cached_input: int = 0
    cache_write: int = 0
    reasoning: int = 0


class Implausible(ValueError):
    """A figure that cannot be: the whole usage object counts as missing."""


def read_openai(reported: object, *, has_output: bool) -> Usage | None:
    """An OpenAI-style `usage` object; None where it is missing, implausible, or says nothing but zeros.

    DeepSeek: `prompt_cache_hit_tokens`. OpenRouter: `cache_write_tokens`. SGLang: top-level
    `reasoning_tokens`. Where the total is more than its parts (xAI, Gemini), the rest is output.
    """
    if not isinstance(reported, dict):
        return None
    try:
        given = _count(reported, "prompt_tokens")
        made = _count(reported, "completion_tokens")
        total = _count(reported, "total_tokens")
        details = _details(reported, "prompt_tokens_details")
        cached = _count(details, "cached_tokens") or _count(reported, "prompt_cache_hit_tokens") or 0
        written = _count(details, "cache_write_tokens") or 0
        thought = _count(_details(reported, "completion_tokens_details"), "reasoning_tokens")
        thought = thought or _count(reported, "reasoning_tokens") or 0
    except Implausible:
        return None
    if not has_output:
        made = 0
    elif total is not None and given is not None and (unnamed := total - given - (made or 0)) > 0:
        made, thought = total - given, thought or unnamed
    if not (given or made):
        return None
    return _bounded(Usage(given, made, cached, written, thought))


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


def added(usages: Sequence[Usage], *, told_again: int) -> Usage:
    """The usage of several answers that were asked for together. `told_again`: so many of them have the same
    input, and each tells it."""
    given = [u.input for u in usages if u.input is not None]
    made = [u.output for u in usages if u.output is not None]
    return Usage(
        -(-sum(given) // told_again) if given else None,
        sum(made) if made else None,
        sum(u.cached_input for u in usages) // told_again,
        sum(u.cache_write for u in usages) // told_again,
        sum(u.reasoning for u in usages),
    )


def _bounded(usage: Usage) -> Usage:
    """Subsets are never more than what they are part of."""
    given, made = usage.input or 0, usage.output or 0
    cached = min(usage.cached_input, given)
    written = min(usage.cache_write, given - cached)
    return Usage(usage.input, usage.output, cached, written, min(usage.reasoning, made))


def _details(reported: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = reported.get(name)
    return value if isinstance(value, dict) else {}


def _count(figures: Mapping[str, Any], name: str) -> int | None:
    """A token count: an integer, or a float that is one. Raises Implausible for anything else."""
    value = figures.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not 0 <= value < MAX_COUNT:
        raise Implausible(name)
    return int(value)
