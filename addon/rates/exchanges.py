"""Asking the three exchanges, all at once, bounded in time and size. Knows nothing of what follows from it.

The one client that goes through `HTTPS_PROXY` and trusts `SSL_CERT_FILE` in place of the usual authorities:
what strangers or the upstream are asked must never leave by a proxy that was meant for the web. Both come from
the environment, as for any other program; an address of the proxy may hold a password and is never told.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import httpx

from addon.rates.quotes import EXCHANGES, Exchange, QuoteError

LIMIT_S: Final = 10.0
LIMIT_BYTES: Final = 16 << 10
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Answers:
    """What was said: the prices that count, in USD per bitcoin, and per exchange why the others do not."""

    quotes: Mapping[str, Decimal] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Route:
    """How the exchanges are reached: whom to trust, and through which proxy."""

    trust: ssl.SSLContext
    proxy: httpx.Proxy | None


class Exchanges:
    """Kraken, Coinbase and Binance, as they can be reached from here."""

    def __init__(self, environment: Mapping[str, str], *, limit_s: float = LIMIT_S) -> None:
        self._environment = environment
        self._limit_s = limit_s
        self._route: _Route | None = None

    async def ask(self) -> Answers:
        """One question to each, none of which takes longer than the limit. Never raises for what they say."""
        try:
            if self._route is None:  # it takes 55 ms: not on the loop, and once
                self._route = await asyncio.to_thread(_route, self._environment)
        except QuoteError as error:
            return Answers(faults={"settings": str(error)})
        transport = httpx.AsyncHTTPTransport(verify=self._route.trust, proxy=self._route.proxy, trust_env=False)
        async with httpx.AsyncClient(
            transport=transport, trust_env=False, headers=_HEADERS, timeout=self._limit_s
        ) as client:
            told = await asyncio.gather(*(self._ask_one(client, exchange) for exchange in EXCHANGES))
        pairs = [(exchange.name, said) for exchange, said in zip(EXCHANGES, told, strict=True)]
        return Answers(
            quotes={name: said for name, said in pairs if isinstance(said, Decimal)},
            faults={name: said for name, said in pairs if isinstance(said, str)},
        )

    async def _ask_one(self, client: httpx.AsyncClient, exchange: Exchange) -> Decimal | str:
        """The price, or why there is none."""
        try:
            async with asyncio.timeout(self._limit_s), client.stream("GET", exchange.url) as response:
                if response.status_code != 200:
                    return f"answers {response.status_code}"
                return exchange.read(await _read(response))
        except QuoteError as error:
            return str(error)
        except (TimeoutError, httpx.TimeoutException):
            return "no whole answer in time"
        except (httpx.HTTPError, OSError) as error:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            return "its certificate is not trusted" if untrusted else f"not reached ({type(error).__name__})"


async def _read(response: httpx.Response) -> bytes:
    """The body, as it was sent: what was compressed all the same is no JSON, and cannot grow in memory."""
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > LIMIT_BYTES:
            raise QuoteError("its answer is too long")
    return body


def _route(environment: Mapping[str, str]) -> _Route:
    """Raises QuoteError, which names the variable that cannot be used."""
    bundle = environment.get("SSL_CERT_FILE", "")
    try:
        trust = httpx.create_ssl_context(verify=bundle or True, trust_env=False)
    except OSError:
        raise QuoteError("SSL_CERT_FILE cannot be read as a file of certificates") from None
    return _Route(trust, _proxy(environment.get("HTTPS_PROXY") or environment.get("https_proxy") or ""))


def _proxy(address: str) -> httpx.Proxy | None:
    if not address:
        return None
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx.InvalidURL):
        raise QuoteError("HTTPS_PROXY is not the address of an http, https or socks5 proxy") from None
    if not proxy.url.host:
        raise QuoteError("HTTPS_PROXY names no host")
    return proxy
