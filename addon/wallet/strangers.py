"""Asking a host that a stranger chose: https on a public address, or an onion service; bounded in bytes and time.

A name is resolved here, its address judged, and the connection made to that very address, so that a name which
leads elsewhere a moment later leads nowhere. Nothing is followed to another place. What the operator chose, or
allowed, may be any host.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import httpx

from addon import lnurl

CALL_S: Final = 8.0
"""For one question, from the name's resolution to the last byte."""
BODY_LIMIT: Final = 64 << 10

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to its addresses, as text. Raises OSError."""


class Unpayable(Exception):
    """Nothing can be paid there now; says why, in words for who chose the address. Nothing was spent."""


class Strangers:
    """The way to such hosts. `tor_proxy_url`: a SOCKS proxy that knows onion services, or ''."""

    def __init__(self, tor_proxy_url: str, resolve: Resolve | None = None) -> None:
        self._tor_proxy_url = tor_proxy_url
        self._resolve = resolve or _resolved
        self._context: ssl.SSLContext | None = None
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def json(self, url: httpx.URL, *, allow_private: bool) -> Any:
        """The JSON of a 200. Raises Unpayable, in words that tell nothing of what stands there."""
        try:
            lnurl.check(str(url), allow_private=allow_private)
            async with asyncio.timeout(CALL_S):
                return json.loads(await self._get(url, allow_private))
        except TimeoutError:
            raise Unpayable("its host takes too long to answer") from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError):
            raise Unpayable("its host cannot be reached") from None
        except (ValueError, RecursionError):
            raise Unpayable("its host does not answer as the host of a Lightning address") from None

    async def _get(self, url: httpx.URL, allow_private: bool) -> bytes:
        if url.host.endswith(".onion"):
            if not self._tor_proxy_url:
                raise Unpayable("its host is an onion service, and this node has no way there")
            return await self._read(self._client(self._tor_proxy_url), httpx.Request("GET", url))
        if allow_private:
            return await self._read(self._client(""), httpx.Request("GET", url))
        addresses = await self._resolve(url.host, url.port or 443)
        public = [address for address in addresses if lnurl.is_public(address)]
        if not public:
            raise Unpayable("its host is not a public one")
        pinned = httpx.Request(
            "GET", url.copy_with(host=public[0]), headers={"host": url.netloc.decode("ascii")},
            extensions={"sni_hostname": url.host},
        )  # fmt: skip
        return await self._read(self._client(""), pinned)

    async def _read(self, client: httpx.AsyncClient, request: httpx.Request) -> bytes:
        """The body as it is sent: what is encoded is not unfolded."""
        request.headers.update(client.headers)
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            content = bytearray()
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > BODY_LIMIT:
                    raise ValueError("too long")
        finally:
            await response.aclose()
        if response.status_code != 200:
            raise ValueError("no 200")
        return bytes(content)

    def _client(self, proxy_url: str) -> httpx.AsyncClient:
        """One per way, made when it is first needed; no connection is kept for the next stranger."""
        if proxy_url not in self._clients:
            self._context = self._context or httpx.create_ssl_context()
            transport = httpx.AsyncHTTPTransport(
                verify=self._context,
                trust_env=False,
                limits=httpx.Limits(max_connections=32, max_keepalive_connections=0),
                proxy=httpx.Proxy(proxy_url) if proxy_url else None,
            )
            headers = {"user-agent": "routstr-mitmproxy", "accept": "application/json", "accept-encoding": "identity"}
            self._clients[proxy_url] = httpx.AsyncClient(
                transport=transport, trust_env=False, timeout=CALL_S, headers=headers
            )
        return self._clients[proxy_url]


async def _resolved(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]
