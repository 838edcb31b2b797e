"""Which fields of a body may reach an upstream: the known harmless ones. What multiplies the price is refused.

A field that is not known is dropped and told, since it may be a server's own switch: a second cap under
another name, a longer context, a second answer, state that somebody else pays for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from addon.errors import InvalidParameter, UnsupportedParameter

Unknown = Literal["drop", "refuse", "pass"]

_SAMPLING: Final = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "presence_penalty"),
        *("frequency_penalty", "repetition_penalty", "repeat_penalty", "logit_bias", "user", "metadata"),
        *("safety_identifier", "prompt_cache_key", "n", "best_of", "stream", "stream_options", "model"),
    )
)


def _is_one(value: object) -> bool:
    return value == 1 and not isinstance(value, bool)


def _single_prompt(value: object) -> bool:
    """A text, one text in a list, or one list of token numbers."""
    if not isinstance(value, list):
        return isinstance(value, str)
    tokens = all(isinstance(item, int) and not isinstance(item, bool) for item in value)
    return tokens or (len(value) == 1 and isinstance(value[0], str))


def _client_tools(*kinds: str | None) -> Callable[[object], bool]:
    """Tools that the client itself runs; those that run at the upstream bring input that nobody has priced."""

    def check(value: object) -> bool:
        return isinstance(value, list) and all(isinstance(t, dict) and t.get("type") in kinds for t in value)

    return check


def _texts(value: object) -> bool:
    """A text, or a list of texts, token numbers, or lists of these: no reference to anything else."""
    if isinstance(value, list):
        return all(isinstance(item, str | int) or (isinstance(item, list) and _texts(item)) for item in value)
    return isinstance(value, str)


def _never(_: object) -> bool:
    return False


MULTIPLIERS: Final[Mapping[str, Callable[[object], bool]]] = {
    "n": _is_one,
    "n_cmpl": _is_one,
    "best_of": _is_one,
    "prompt": _single_prompt,
    "tools": _client_tools("function", "custom"),
    "service_tier": lambda value: value in ("auto", "default"),
    "modalities": lambda value: value == ["text"],
    "use_beam_search": lambda value: value is False,
    "echo": lambda value: value is False,
    "background": lambda value: value is False,
    "web_search_options": _never,
    "audio": _never,
    "prediction": _never,
    "models": _never,
    "plugins": _never,
    "prompt_logprobs": _never,
}
"""Fields that multiply the price in any family, and the values of each that do not."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a family's bodies: those that are `known` to be harmless, those of which only some values
    are. `inner`: those of a field that holds others, the output cap among them (Ollama: `options`)."""

    known: frozenset[str]
    limits: Mapping[str, Callable[[object], bool]]
    inner: Mapping[str, Fields] = field(default_factory=dict)


CHAT_FIELDS: Final = Fields(
    _SAMPLING
    | {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "reasoning_effort", "verbosity", "logprobs", "top_logprobs", "service_tier"),
        "modalities",
    },
    MULTIPLIERS,
)
COMPLETION_FIELDS: Final = Fields(_SAMPLING | {"prompt", "suffix", "logprobs", "service_tier"}, MULTIPLIERS)
EMBEDDING_FIELDS: Final = Fields(
    frozenset(("model", "input", "encoding_format", "dimensions", "user")),
    {**MULTIPLIERS, "input": _texts},
)
MESSAGE_FIELDS: Final = Fields(
    frozenset(
        (
            *("model", "messages", "system", "stop_sequences", "stream", "temperature", "top_k", "top_p", "tools"),
            *("tool_choice", "thinking", "metadata", "service_tier", "output_config", "output_format"),
            "cache_control",
        )
    ),
    {
        **MULTIPLIERS,
        "tools": _client_tools(None, "custom"),
        "service_tier": lambda value: value in ("auto", "standard_only"),
        "speed": lambda value: value == "standard",
        "inference_geo": _never,
        "mcp_servers": _never,
        "container": _never,
    },
)
RESPONSE_FIELDS: Final = Fields(
    frozenset(
        (
            *("model", "input", "instructions", "stream", "stream_options", "temperature", "top_p", "tools", "text"),
            *("tool_choice", "parallel_tool_calls", "reasoning", "metadata", "store", "include", "truncation"),
            *("user", "safety_identifier", "prompt_cache_key", "service_tier", "top_logprobs", "background"),
        )
    ),
    {
        **MULTIPLIERS,
        "tools": _client_tools("function", "custom", "local_shell", "apply_patch"),
        "previous_response_id": _never,  # what somebody stored, of a length that the body does not show
        "conversation": _never,
        "prompt": _never,
    },
)


_OLLAMA_OPTIONS: Final = Fields(
    frozenset(
        (
            *("temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "stop", "repeat_last_n", "repeat_penalty"),
            *("presence_penalty", "frequency_penalty", "mirostat", "mirostat_eta", "mirostat_tau", "tfs_z"),
        )
    ),
    {},
)
OLLAMA_CHAT_FIELDS: Final = Fields(
    frozenset(("model", "messages", "tools", "format", "options", "stream", "think")),
    MULTIPLIERS,
    {"options": _OLLAMA_OPTIONS},
)
OLLAMA_GENERATE_FIELDS: Final = Fields(
    frozenset(
        (
            *("model", "prompt", "suffix", "images", "system", "context", "raw", "format", "options", "stream"),
            "think",
        )
    ),
    MULTIPLIERS,
    {"options": _OLLAMA_OPTIONS},
)
OLLAMA_EMBED_FIELDS: Final = Fields(
    frozenset(("model", "input", "truncate", "dimensions")), {**MULTIPLIERS, "input": _texts}
)


def _documents(value: object) -> bool:
    """Texts, bare or as an object's `text`."""
    return isinstance(value, list) and all(
        isinstance(d, str) or (isinstance(d, dict) and set(d) == {"text"} and isinstance(d["text"], str)) for d in value
    )


RERANK_FIELDS: Final = Fields(
    frozenset(("model", "query", "documents", "top_n", "return_documents", "max_tokens_per_doc")),
    {**MULTIPLIERS, "query": lambda value: isinstance(value, str), "documents": _documents},
)


IMAGE_FIELDS: Final = Fields(
    frozenset(
        (
            *("model", "prompt", "n", "size", "quality", "style", "response_format", "background", "moderation"),
            *("output_format", "output_compression", "user", "stream", "partial_images"),
        )
    ),
    {
        **MULTIPLIERS,
        "prompt": lambda value: isinstance(value, str),
        "n": lambda value: isinstance(value, int) and value is not True and 1 <= value <= 10,
        # dearer by the piece than what the price of a picture is for
        "size": lambda value: value in ("auto", "256x256", "512x512", "1024x1024"),
        "quality": lambda value: value in ("auto", "standard", "low", "medium"),
        "partial_images": lambda value: isinstance(value, int) and 0 <= value <= 3,
    },
)
SPEECH_FIELDS: Final = Fields(
    frozenset(("model", "input", "voice", "instructions", "response_format", "speed", "stream_format")),
    {
        **MULTIPLIERS,
        "input": lambda value: isinstance(value, str),
        "speed": lambda value: isinstance(value, int | float) and value is not True and 0.25 <= value <= 4,
    },
)


def admitted(
    body: Mapping[str, Any], fields: Fields, caps: tuple[str, ...], unknown: Unknown
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields that pass, and the names of those that were dropped. null means absent, for every field.

    Raises UnsupportedParameter for what multiplies the price, InvalidParameter for what cannot be right.
    """
    kept, dropped = _pass(body, fields, () if fields.inner else caps, unknown)
    for name, inner in fields.inner.items():
        if name not in kept:
            continue
        if not isinstance(kept[name], dict):
            raise InvalidParameter(f"{name} must be an object.", param=name)
        kept[name], more = _pass(kept[name], inner, caps, unknown)
        dropped += [f"{name}.{field}" for field in more]
    _check_stream(kept)
    return kept, tuple(dropped)


def _pass(
    body: Mapping[str, Any], fields: Fields, caps: tuple[str, ...], unknown: Unknown
) -> tuple[dict[str, Any], list[str]]:
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in body.items():
        if value is None:
            continue
        harmless = fields.limits.get(name)
        if harmless is not None and not harmless(value):
            raise UnsupportedParameter(
                f"{name[:64]}: this value is not offered here, since it would multiply the price. Leave it out.",
                param=name[:64],
            )
        if name in fields.known or name in caps or (unknown == "pass" and not _imitates(name, fields, caps)):
            kept[name] = value
        elif unknown == "refuse" or _imitates(name, fields, caps):
            raise UnsupportedParameter(f"{name[:64]} is not offered here. Leave it out.", param=name[:64])
        else:
            dropped.append(name)
    return kept, dropped


def _imitates(name: str, fields: Fields, caps: tuple[str, ...]) -> bool:
    """A known name in other case: some servers match it all the same."""
    lower = name.lower()
    return lower != name and (lower in fields.known or lower in caps or lower in fields.limits)


def _check_stream(kept: dict[str, Any]) -> None:
    if not isinstance(kept.get("stream", False), bool):
        raise InvalidParameter("stream must be true or false.", param="stream")
    options = kept.get("stream_options", {})
    if not isinstance(options, dict) or not isinstance(options.get("include_usage", False), bool | None):
        raise InvalidParameter("stream_options must be an object; include_usage true or false.", param="stream_options")
