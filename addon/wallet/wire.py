"""Asking a mint over HTTP: bounded, and with typed answers. What an answer means for money: `swap.py`.

    NoAnswer
    ├── Unreachable    not connected: nothing was asked, nothing happened
    ├── RateLimited    429: nothing happened; the mint is left alone for a while
    ├── Coded          refused, with a code of the Cashu protocol: definite
    ├── Uncoded        refused without one (nutshell's catch-all 0, a web server's 4xx): look before believing
    └── Unknown        asked, no usable answer: it may have happened

Nothing here is logged with its content: requests and answers hold coins.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import httpx

CONNECT_S: Final = 5.0
READ_S: Final = 15.0
CALL_S: Final = 15.0
BODY_LIMIT: Final = 4 << 20
CODES: Final = range(10_000, 40_000)
"""Error codes of the protocol; others are an implementation's own and say nothing definite."""


class NoAnswer(Exception):
    """The mint did not do, or did not confirm, what it was asked."""


class Unreachable(NoAnswer):
    """No connection: the mint has not seen the request."""


class RateLimited(NoAnswer):
    """The mint asks for patience. `wait_s`: how long, when it said so."""

    def __init__(self, wait_s: float | None = None) -> None:
        super().__init__("rate limited")
        self.wait_s = wait_s


class Coded(NoAnswer):
    """A definite refusal. The mint's own words are not kept: they may quote coins."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with code {code}")
        self.code = code


class Uncoded(NoAnswer):
    """A refusal of no definite kind. `by_mint`: in the protocol's own form; else a gateway may have made it up."""

    def __init__(self, words: str = "", *, by_mint: bool = False) -> None:
        super().__init__(words)
        self.by_mint = by_mint


class Unknown(NoAnswer):
    """Asked; what happened is not known."""


def new_client() -> httpx.AsyncClient:
    """One client for all mints: one TLS context, no proxy from the environment, no redirects."""
    return httpx.AsyncClient(
        verify=httpx.create_ssl_context(),
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=16),
        trust_env=False,
        follow_redirects=False,
        headers={"user-agent": "routstr-mitmproxy", "accept": "application/json", "accept-encoding": "identity"},
    )


async def ask(client: httpx.AsyncClient, url: str, body: Mapping[str, Any] | None = None) -> Any:
    """The JSON of a 200: GET without a body, POST with one. Raises NoAnswer."""
    try:
        async with asyncio.timeout(CALL_S):
            status, retry_after, content = await _exchange(client, url, body)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol):
        raise Unreachable("no connection to the mint") from None
    except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
        raise Unknown(type(error).__name__) from None
    return _read(status, retry_after, content)


async def _exchange(client: httpx.AsyncClient, url: str, body: Mapping[str, Any] | None) -> tuple[int, str, bytes]:
    method = "GET" if body is None else "POST"
    async with client.stream(method, url, json=body) as response:
        content = bytearray()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > BODY_LIMIT:
                raise Unknown("the answer is too long")
        return response.status_code, response.headers.get("retry-after", ""), bytes(content)


def _read(status: int, retry_after: str, content: bytes) -> Any:
    if status == 429:
        raise RateLimited(_seconds(retry_after))
    if not (status == 200 or 400 <= status < 500):
        raise Unknown(f"status {status}")
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        words = f"status {status} without JSON"
        raise (Unknown(words) if status == 200 else Uncoded(words, by_mint=False)) from None
    if status == 200:
        return parsed
    code = parsed.get("code") if isinstance(parsed, dict) else None
    if isinstance(code, int) and code in CODES:
        raise Coded(code)
    raise Uncoded(f"status {status} without a code", by_mint=True)


def _seconds(text: str) -> float | None:
    try:
        wait_s = float(text)
    except ValueError:
        return None
    return wait_s if math.isfinite(wait_s) and wait_s >= 0 else None
