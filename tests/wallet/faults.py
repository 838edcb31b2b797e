"""A mint's network, as bad as one likes: stands before a real mint and follows rules, one per request.

Rules are queued per path and used once each; a request without a rule passes. What the mint does is real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

Reply = bytes | None
"""A whole HTTP response, or None: the connection is closed without one."""
Forward = Callable[[], Awaitable[bytes]]
Rule = Callable[[Forward], Awaitable[Reply]]


async def lose_reply(forward: Forward) -> Reply:
    """The mint does it; nobody hears of it."""
    await forward()
    return None


async def lose_request(_: Forward) -> Reply:
    """The mint never sees it, and nobody can know that."""
    return None


def answer(status: int, body: object, **headers: str) -> Rule:
    """Something else answers in the mint's place."""

    async def rule(_: Forward) -> Reply:
        return _response(status, json.dumps(body).encode() if not isinstance(body, bytes) else body, headers)

    return rule


def change(edit: Callable[[Any], Any]) -> Rule:
    """The mint does it and answers; the answer is changed on its way."""

    async def rule(forward: Forward) -> Reply:
        head, _, body = (await forward()).partition(b"\r\n\r\n")
        return _response(int(head.split(b" ")[1]), json.dumps(edit(json.loads(body))).encode(), {})

    return rule


@dataclass
class Hold:
    """Stops a request before the mint, or its reply after it, until `release` is set."""

    executed_first: bool = False
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, forward: Forward) -> Reply:
        reply = await forward() if self.executed_first else None
        self.reached.set()
        await self.release.wait()
        return reply if reply is not None else await forward()


class FaultyMint:
    """A real mint behind a bad network. `asked`: what reached this place, (method, path, body), in order."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._rules: dict[str, deque[Rule]] = defaultdict(deque)
        self._always: dict[str, Rule] = {}
        self._server: asyncio.Server | None = None
        self._port = 0
        self.asked: list[tuple[str, str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def up(self) -> None:
        """Listens, at the same address every time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def down(self) -> None:
        """Refuses connections."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def next(self, path: str, *rules: Rule) -> None:
        """The next requests of a path follow these rules, one each."""
        self._rules[path].extend(rules)

    def always(self, path: str, rule: Rule | None) -> None:
        """Every request of a path without a rule of its own follows this one."""
        self._always.pop(path, None)
        if rule is not None:
            self._always[path] = rule

    def count(self, path: str) -> int:
        return sum(asked.startswith(path) for _, asked, _ in self.asked)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path = head.split(b" ", 2)[:2]
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            body = await reader.readexactly(int(sizes[0].split(b":")[1])) if sizes else b""
            reply = await self._ruled(method.decode(), path.decode(), body)
            if reply is not None:
                writer.write(reply)
                await writer.drain()
        writer.close()

    async def _ruled(self, method: str, path: str, body: bytes) -> Reply:
        self.asked.append((method, path, json.loads(body) if body else None))
        queue = next((rules for name, rules in self._rules.items() if path.startswith(name) and rules), None)
        rule = queue.popleft() if queue else next((r for n, r in self._always.items() if path.startswith(n)), None)

        async def forward() -> bytes:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                sent = await client.request(method, self._target + path, content=body,
                                            headers={"content-type": "application/json"})  # fmt: skip
            return _response(sent.status_code, sent.content, {})

        return await (rule(forward) if rule else forward())


def _response(status: int, body: bytes, headers: dict[str, str]) -> bytes:
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{extra}connection: close\r\n\r\n".encode() + body
