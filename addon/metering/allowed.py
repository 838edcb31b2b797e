"""The fields of each family's bodies that may reach an upstream, and the values of those that could cost more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from addon.metering.fields import Fields

_SAMPLING: Final = frozenset(
    (
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "presence_penalty"),
        *("frequency_penalty", "repetition_penalty", "repeat_penalty", "logit_bias", "user", "metadata"),
        *("safety_identifier", "prompt_cache_key", "n", "best_of", "stream", "stream_options", "model"),
    )
)


def _is_one(value: object) -> bool:
    return value == 1 and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


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
    """A text, a list of texts, of token numbers, or of lists of these: no reference to anything else."""
    if not isinstance(value, list):
        return isinstance(value, str)
    flat = (part for item in value for part in (item if isinstance(item, list) else (item,)))
    return all(isinstance(part, str | int) for part in flat)


def _documents(value: object) -> bool:
    """Texts, bare or as an object's `text`."""
    return isinstance(value, list) and all(
        isinstance(d, str) or (isinstance(d, dict) and set(d) == {"text"} and isinstance(d["text"], str)) for d in value
    )


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


CHAT: Final = Fields(
    _SAMPLING
    | {
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
        *("response_format", "reasoning_effort", "verbosity", "logprobs", "top_logprobs", "service_tier"),
        "modalities",
    },
    MULTIPLIERS,
)
COMPLETION: Final = Fields(_SAMPLING | {"prompt", "suffix", "logprobs", "service_tier"}, MULTIPLIERS)
EMBEDDING: Final = Fields(
    frozenset(("model", "input", "encoding_format", "dimensions", "user")),
    {**MULTIPLIERS, "input": _texts},
)
MESSAGE: Final = Fields(
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
RESPONSE: Final = Fields(
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
OLLAMA_CHAT: Final = Fields(
    frozenset(("model", "messages", "tools", "format", "options", "stream", "think")),
    MULTIPLIERS,
    {"options": _OLLAMA_OPTIONS},
)
OLLAMA_GENERATE: Final = Fields(
    frozenset(
        (
            *("model", "prompt", "suffix", "images", "system", "context", "raw", "format", "options", "stream"),
            "think",
        )
    ),
    MULTIPLIERS,
    {"options": _OLLAMA_OPTIONS},
)
OLLAMA_EMBED: Final = Fields(frozenset(("model", "input", "truncate", "dimensions")), {**MULTIPLIERS, "input": _texts})


RERANK: Final = Fields(
    frozenset(("model", "query", "documents", "top_n", "return_documents", "max_tokens_per_doc")),
    {**MULTIPLIERS, "query": _is_text, "documents": _documents},
)


IMAGE: Final = Fields(
    frozenset(
        (
            *("model", "prompt", "n", "size", "quality", "style", "response_format", "background", "moderation"),
            *("output_format", "output_compression", "user", "stream", "partial_images"),
        )
    ),
    {
        **MULTIPLIERS,
        "prompt": _is_text,
        "background": _is_text,
        "n": lambda value: isinstance(value, int) and value is not True and 1 <= value <= 10,
        # dearer by the piece than what the price of a picture is for
        "size": lambda value: value in ("auto", "256x256", "512x512", "1024x1024"),
        "quality": lambda value: value in ("auto", "standard", "low", "medium"),
        "partial_images": lambda value: isinstance(value, int) and 0 <= value <= 3,
    },
)
IMAGE_EDIT: Final = Fields(
    (IMAGE.known - {"style"}) | {"image", "image[]", "mask", "input_fidelity"},
    IMAGE.limits,
)
TRANSCRIPTION: Final = Fields(
    frozenset(
        (
            *("model", "file", "language", "prompt", "response_format", "temperature", "timestamp_granularities[]"),
            *("include[]", "chunking_strategy", "stream"),
        )
    ),
    {
        **MULTIPLIERS,
        "prompt": _is_text,
        "chunking_strategy": lambda value: value == "auto",
    },
)
SPEECH: Final = Fields(
    frozenset(("model", "input", "voice", "instructions", "response_format", "speed", "stream_format")),
    {
        **MULTIPLIERS,
        "input": _is_text,
        "speed": lambda value: isinstance(value, int | float) and value is not True and 0.25 <= value <= 4,
    },
)
