"""Which fields of a body may reach an upstream: the known harmless ones. What multiplies the price is refused.

A field that is not known is dropped and told, since it may be a server's own switch: a second cap under
another name, a longer context, a second answer, state that somebody else pays for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from addon.errors import InvalidParameter, UnsupportedParameter

Unknown = Literal["drop", "refuse", "pass"]


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a family's bodies: those that are `known` to be harmless, those of which only some values
    are. `inner`: those of a field that holds others, the output cap among them (Ollama: `options`)."""

    known: frozenset[str]
    limits: Mapping[str, Callable[[object], bool]]
    inner: Mapping[str, Fields] = field(default_factory=dict)


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
