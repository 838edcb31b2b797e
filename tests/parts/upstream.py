"""An upstream that does as it is told: byte for byte, pause for pause. Every byte it receives is kept.

A request whose body holds `DO:name;` is answered as `name` was scripted; others get a plain answer of 7 tokens
in and 3 out. It runs on an event loop of its own, in a thread.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

Piece = bytes | float | threading.Event | str
"""Bytes; seconds to wait; an event to wait for; `cut` (the connection breaks), `hang`; both before any byte:
`cut-head`, `hang-head`."""

DONE: Final = b"data: [DONE]\n\n"
WAIT_S: Final = 20.0


def usage(given: int, made: int) -> dict[str, int]:
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}


def whole(given: int = 7, made: int = 3, text: str = "hello", **more: Any) -> bytes:
    """A chat completion in one piece."""
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    told = {"id": "c1", "object": "chat.completion", "created": 1, "model": "up", "choices": [message]}
    return json.dumps(told | {"usage": usage(given, made)} | more).encode()


def chunk(text: str | None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a streamed chat completion."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    told = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": [choice]}
    return b"data: " + json.dumps(told | more).encode() + b"\n\n"


def stream(given: int = 7, made: int = 3) -> tuple[bytes, ...]:
    """A whole streamed answer, its usage event and its end included."""
    words = [chunk(f"w{n} ") for n in range(made)]
    return (*words, chunk(None, "stop"), chunk(None, choices=[], usage=usage(given, made)), DONE)


@dataclass
class Script:
    """How one request is answered."""

    pieces: tuple[Piece, ...] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    kind: str = "application/json"
    chunked: bool = False
    raw: bytes | None = None


@dataclass
class Received:
    """One request as it came: its head's lines and its body."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((v for k, v in self.headers if k.lower() == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Upstream:
    """Listens on loopback from `start()` to `stop()`; started again, at the same port."""

    scripts: dict[str, Script] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    raw: list[bytearray] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        opened: Future[int] = asyncio.run_coroutine_threadsafe(self._open(), self._loop)
        self.port = opened.result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def on(self, name: str, *pieces: Piece, **how: Any) -> str:
        """Scripts the answer to requests that hold `DO:name;`."""
        self.scripts[name] = Script(pieces, **how)
        return f"DO:{name};"

    def seen(self, name: str) -> list[Received]:
        mark = f"DO:{name};".encode()
        return [r for r in list(self.received) if mark in r.body]

    def wait_for(self, name: str) -> Received:
        """Until a request of this name has come."""
        found: list[Received] = until(lambda: self.seen(name), f"the request {name} at the upstream")
        return found[0]

    async def _open(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26)
        return int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._server.close()
        await _end_tasks()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self.raw.append(kept)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                kept += head
                request = _parse(head)
                length = int(request.header("content-length") or 0)
                request.body = await reader.readexactly(length)
                kept += request.body
                self.received.append(request)
                if not await self._answer(self._script(request), writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    def _script(self, request: Received) -> Script:
        named = re.search(rb"DO:([\w.-]+);", request.body)
        if named is not None and named[1].decode() in self.scripts:
            return self.scripts[named[1].decode()]
        if request.line.startswith("GET"):
            return Script((json.dumps({"object": "list", "data": []}).encode(),))
        streams = request.body and request.json().get("stream") is True
        return Script(stream(), kind="text/event-stream", chunked=True) if streams else Script((whole(),))

    async def _answer(self, script: Script, writer: asyncio.StreamWriter) -> bool:
        if script.raw is not None:
            writer.write(script.raw)
            await writer.drain()
            return False
        fixed = not script.chunked and all(isinstance(p, bytes) for p in script.pieces)
        length = sum(len(p) for p in script.pieces if isinstance(p, bytes))
        framing = ("Content-Length", str(length)) if fixed else ("Transfer-Encoding", "chunked")
        fields = (("Content-Type", script.kind), *script.headers, framing)
        lines = [f"HTTP/1.1 {script.status} Said"] + [f"{k}: {v}" for k, v in fields]
        pending = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        for piece in script.pieces:
            if piece in ("cut-head", "hang-head"):
                await asyncio.sleep(WAIT_S if piece == "hang-head" else 0)
                writer.transport.abort()
                return False
            writer.write(pending)
            pending = b""
            if not await _send(piece, writer, fixed=fixed):
                return False
        writer.write(pending + (b"" if fixed else b"0\r\n\r\n"))
        await writer.drain()
        return True


async def _end_tasks() -> None:
    """Connections that still wait end in order, and quietly."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _send(piece: Piece, writer: asyncio.StreamWriter, *, fixed: bool) -> bool:
    await writer.drain()
    match piece:
        case bytes():
            writer.write(piece if fixed else b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
        case threading.Event():
            await asyncio.to_thread(piece.wait, WAIT_S)
        case "cut":
            writer.transport.abort()
            return False
        case "hang":
            await asyncio.sleep(WAIT_S)
        case float():
            await asyncio.sleep(piece)
    return True


def _parse(head: bytes) -> Received:
    line, *rest = head[:-4].decode("latin-1").split("\r\n")
    pairs = [field_.partition(":") for field_ in rest]
    return Received(line, [(k.strip(), v.strip()) for k, _, v in pairs], b"")


def until(found: Callable[[], Any], what: str, limit_s: float = 15.0) -> Any:
    """What `found` returns, as soon as it is something."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {limit_s:g} s")
