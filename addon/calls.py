"""One call of a client to the node itself, as its handlers see it: no flow, no socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from mitmproxy import http

from addon.credentials import Credentials
from addon.replies import Caller


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `body` is read already, bounded."""

    method: str
    path: str
    query: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    credentials: Credentials = field(repr=False)
    terms: Mapping[str, str] = field(repr=False)
    """The headers that open an account on conditions, by lower-case name."""
    caller: Caller


Handler = Callable[[Call], Awaitable[http.Response]]
"""Answers a call, or raises a Failure."""
