"""What may follow the end of a stream, in a shape that no client of its family chokes on.

Tried on the SDKs of OpenAI and Anthropic, on the Vercel AI SDK, and on what is built on them: a chat's chunk must
have `choices`, a message's event must be one that clients skip, an event of Responses one they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

Receipt = Callable[[Mapping[str, Any], Mapping[str, Any]], bytes]
"""The event, of the ids of a stream's own events and of the cost."""


def chunk(ids: Mapping[str, Any], cost: Mapping[str, Any]) -> bytes:
    """Behind a chat or a legacy completion: a chunk of this stream without choices."""
    told = {"id": "", "object": "chat.completion.chunk", "created": 0, "model": ""} | dict(ids)
    return b"data: " + _json(told | {"choices": [], "cost": cost})


def ping(_: Mapping[str, Any], cost: Mapping[str, Any]) -> bytes:
    """Behind a message of Anthropic's."""
    return b"event: ping\ndata: " + _json({"type": "ping", "cost": cost})


def numbered(ids: Mapping[str, Any], cost: Mapping[str, Any]) -> bytes:
    """Behind a response: the next event by number."""
    number = ids.get("sequence_number", -1) + 1
    return b"event: routstr.cost\ndata: " + _json({"type": "routstr.cost", "sequence_number": number, "cost": cost})


def _json(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode() + b"\n\n"
