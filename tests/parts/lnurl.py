"""The host of a Lightning address (LUD-06, LUD-16): makes real, signed invoices, and misbehaves as it is told.

Whoever asks a mint with FakeWallet to pay one of its invoices has it paid.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import bolt11
from bolt11.models.tags import TagChar, Tags

METADATA = json.dumps([["text/plain", "for a test"]])
Edit = Callable[[dict[str, Any]], dict[str, Any]]


def invoice(
    amount_msat: int, *, metadata: str | None = METADATA, expires_s: int = 3600, network: str = "bc",
    made_at: float | None = None,
) -> str:  # fmt: skip
    """A signed invoice that nobody has to pay."""
    tags = Tags()
    tags.add(TagChar.payment_hash, hashlib.sha256(secrets.token_bytes(32)).hexdigest())
    tags.add(TagChar.payment_secret, secrets.token_hex(32))
    if metadata is None:
        tags.add(TagChar.description, "anything")
    else:
        tags.add(TagChar.description_hash, hashlib.sha256(metadata.encode()).hexdigest())
    tags.add(TagChar.expire_time, expires_s)
    made = bolt11.Bolt11(
        currency=network, amount_msat=bolt11.MilliSatoshi(amount_msat), date=int(made_at or time.time()), tags=tags
    )
    return bolt11.encode(made, secrets.token_hex(32))


@dataclass
class Payee:
    """`asked`: the amounts (msat) of the invoices it made, in order; `paths`: all that it was asked for."""

    asked: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    offer: Edit = lambda told: told
    made: Edit = lambda told: told
    make: Callable[[int], str] = invoice
    raw: bytes | None = None
    """Sent in place of any answer."""
    drip_s: float = 0.0
    """Between two bytes of an answer."""
    port: int = 0
    _server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"someone@127.0.0.1:{self.port}"

    async def up(self) -> Payee:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def down(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            self.paths.append(path)
            for piece in self._pieces(self.raw if self.raw is not None else self._answer(path)):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(self.drip_s)
        writer.close()

    def _pieces(self, reply: bytes) -> list[bytes]:
        return [reply[n : n + 1] for n in range(len(reply))] if self.drip_s else [reply]

    def _answer(self, path: str) -> bytes:
        parts = urlsplit(path)
        if parts.path == "/.well-known/lnurlp/someone":
            callback = f"http://127.0.0.1:{self.port}/pay?u=someone"
            told = {"tag": "payRequest", "callback": callback, "minSendable": 1000, "maxSendable": 10**12,
                    "metadata": METADATA}  # fmt: skip
            return response(self.offer(told))
        query = parse_qs(parts.query)
        if parts.path != "/pay" or query.get("u") != ["someone"]:
            return response({"status": "ERROR", "reason": "no such address"})
        amount = int(query["amount"][0])
        self.asked.append(amount)
        return response(self.made({"pr": self.make(amount), "routes": []}))


def response(told: object, status: str = "200 OK", extra: str = "") -> bytes:
    """A whole HTTP response."""
    body = json.dumps(told).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}"
    return f"{head}connection: close\r\n\r\n".encode() + body
