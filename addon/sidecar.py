"""The sidecar's pages, through the node's own port: discovery for everyone. The node sells on without it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import httpx
from mitmproxy import http

from addon.calls import Call, Handler
from addon.errors import PathNotFound, SidecarUnavailable
from addon.settings import Settings

SOCKET_NAME: Final = "sidecar.sock"
PROVIDERS: Final = "/v1/providers/"
ADMIN: Final = "/admin"
LIMIT_S: Final = 5.0
LIMIT_BYTES: Final = 4 << 20
_OFF: Final = "off"


class Sidecar:
    """A client of the sidecar, at its socket in STATE_DIR or at SIDECAR_URL."""

    def __init__(self, settings: Settings) -> None:
        self._off = settings.sidecar_url == _OFF
        self._url = settings.sidecar_url or "http://sidecar"
        self._socket: Path | None = None if settings.sidecar_url else settings.state_dir.resolve() / SOCKET_NAME
        self._has_admin = bool(settings.admin_password.get_secret_value())

    def route(self, method: str, path: str) -> Handler | None:
        """The handler of a call; None: not one of the sidecar's."""
        if method in ("GET", "HEAD") and path in (PROVIDERS, PROVIDERS.rstrip("/")):
            return self._providers
        if path == ADMIN or path.startswith(f"{ADMIN}/"):
            return self._admin
        return None

    async def _providers(self, call: Call) -> http.Response:
        if self._off:
            raise PathNotFound("This node keeps no list of providers.")
        status, body = await self._ask(PROVIDERS, urlencode(call.query))
        headers = {"content-type": "application/json", "cache-control": "no-store", **dict(call.caller.headers)}
        return http.Response.make(status, body, headers)

    async def _admin(self, _: Call) -> http.Response:
        if self._off or not self._has_admin:
            raise PathNotFound("This node has no admin pages.")
        raise SidecarUnavailable("The admin pages are served by the node's sidecar, which is not running.")

    async def _ask(self, path: str, query: str) -> tuple[int, bytes]:
        """Status and body, bounded in time and size. Raises SidecarUnavailable."""
        transport = httpx.AsyncHTTPTransport(uds=None if self._socket is None else str(self._socket))
        try:
            async with (
                asyncio.timeout(LIMIT_S),
                httpx.AsyncClient(transport=transport, trust_env=False) as client,
                client.stream("GET", f"{self._url}{path}?{query}") as response,
            ):
                if response.status_code != 200:
                    raise SidecarUnavailable("This node's sidecar failed; try again in a moment.")
                return response.status_code, await _read(response)
        except (httpx.HTTPError, OSError, TimeoutError):
            raise SidecarUnavailable("This node's sidecar is not running; the node sells all the same.") from None


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > LIMIT_BYTES:
            raise SidecarUnavailable("This node's sidecar answered too much.")
    return bytes(body)
