"""Hosts of Lightning addresses that mean no good: nothing is paid but the invoice that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.wallet.payee import Payees
from addon.wallet.strangers import BODY_LIMIT, Strangers, Unpayable
from tests.parts.lnurl import METADATA, Payee, invoice, response

pytestmark = pytest.mark.anyio


@pytest.fixture
async def payee() -> AsyncIterator[Payee]:
    made = await Payee().up()
    yield made
    made.down()


@pytest.fixture
def payees() -> Payees:
    return Payees(Strangers(""), allow_private=True)


async def test_an_honest_host_is_paid_what_was_asked_for_in_whole_sats(payee: Payee, payees: Payees) -> None:
    """(A callback's own query is kept: the host knows by it whom it is asked for.)"""
    found, amount = await payees.invoice(payee.address, 98_765)
    assert amount == 98_000
    assert found.description_hash == hashlib.sha256(METADATA.encode()).hexdigest()
    assert payee.paths[-1] == "/pay?u=someone&amount=98000"


async def test_bounds_of_the_host_are_kept(payee: Payee, payees: Payees) -> None:
    payee.offer = lambda told: told | {"maxSendable": 50_999}
    assert (await payees.invoice(payee.address, 98_000))[1] == 50_000
    payee.offer = lambda told: told | {"minSendable": 98_001}
    with pytest.raises(Unpayable, match="no less than"):
        await payees.invoice(payee.address, 98_000)


OFFERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another kind": lambda told: told | {"tag": "withdrawRequest"},
    "an error": lambda told: {"status": "ERROR", "reason": "not today"},
    "no callback": lambda told: {name: told[name] for name in told if name != "callback"},
    "a callback that is none": lambda told: told | {"callback": "javascript:alert(1)"},
    "a callback with a user": lambda told: told | {"callback": "http://me@127.0.0.1/"},
    "negative bounds": lambda told: told | {"minSendable": -1},
    "absurd bounds": lambda told: told | {"maxSendable": 10**30},
    "half a character": lambda told: told | {"metadata": "\ud800"},
    "half a character in the callback": lambda told: told | {"callback": told["callback"] + "\ud800"},
    "a callback without a host": lambda told: told | {"callback": "http:///pay"},
    "metadata that is no text": lambda told: told | {"metadata": {}},
    "a list": lambda told: [told],
}


@pytest.mark.parametrize("edit", OFFERS.values(), ids=OFFERS.keys())
async def test_offers_that_are_none(payee: Payee, payees: Payees, edit: Callable[..., Any]) -> None:
    payee.offer = edit
    with pytest.raises(Unpayable):
        await payees.invoice(payee.address, 98_000)
    assert payee.asked == []


INVOICES: dict[str, Callable[[int], str]] = {
    "over more": lambda amount: invoice(amount + 1000),
    "over less": lambda amount: invoice(amount - 1),
    "for something else": lambda amount: invoice(amount, metadata="[]"),
    "for nothing that it says": lambda amount: invoice(amount, metadata=None),
    "of a test network": lambda amount: invoice(amount, network="tb"),
    "of a private network": lambda amount: invoice(amount, network="bcrt"),
    "expired": lambda amount: invoice(amount, made_at=time.time() - 7200),
    "about to expire": lambda amount: invoice(amount, expires_s=30),
    "for ever": lambda amount: invoice(amount, expires_s=2**33),
    "half a character": lambda amount: "lnbc\ud800",
    "no invoice": lambda amount: "lnbc1notaninvoice",
    "mistyped": lambda amount: invoice(amount)[:-1] + "q",
    "too long": lambda amount: "lnbc" + "q" * 100_000,
    "empty": lambda amount: "",
}


@pytest.mark.parametrize("make", INVOICES.values(), ids=INVOICES.keys())
async def test_invoices_that_are_not_paid(payee: Payee, payees: Payees, make: Callable[[int], str]) -> None:
    payee.make = make
    with pytest.raises(Unpayable):
        await payees.invoice(payee.address, 98_000)
    assert payee.asked == [98_000]


REPLIES: dict[str, bytes] = {
    "a redirect": response({}, "302 Found", "location: http://127.0.0.1:1/\r\n"),
    "an error": response({"tag": "payRequest"}, "500 Oops"),
    "no JSON": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n<html",
    "nested without end": response({}) + b"[" * 30_000,
    "nothing": b"",
    "half an answer": b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{",
    "too much": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b" " * (BODY_LIMIT + 1),
    "a bomb": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\nconnection: close\r\n\r\n\x1f\x8b\x08\x00",
}


@pytest.mark.parametrize("raw", REPLIES.values(), ids=REPLIES.keys())
async def test_answers_that_are_none(payee: Payee, payees: Payees, raw: bytes) -> None:
    payee.raw = raw
    with pytest.raises(Unpayable):
        await payees.invoice(payee.address, 98_000)


async def test_an_answer_that_drips_is_not_waited_for(
    payee: Payee, payees: Payees, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(Incident 55.) Each byte comes in time, all of them never do."""
    monkeypatch.setattr("addon.wallet.strangers.CALL_S", 0.3)
    payee.drip_s = 0.05
    with pytest.raises(Unpayable, match="too long"):
        await payees.invoice(payee.address, 98_000)


# --- where we go ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["someone@127.0.0.1", "someone@localhost", "someone@10.0.0.1", "someone@[::1]", "someone@node.local"]
)
async def test_private_hosts_are_not_asked(address: str) -> None:
    """(Incident 66.)"""
    with pytest.raises(Unpayable, match="not a public one"):
        await Payees(Strangers("")).invoice(address, 98_000)


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.1.2.3", "169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], ["fd00::1"],
                  ["64:ff9b::7f00:1"], ["2002:7f00:1::"], []],
)  # fmt: skip
async def test_a_public_name_that_leads_to_a_private_address_is_not_asked(addresses: Sequence[str]) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("ln.example", 443)
        return addresses

    with pytest.raises(Unpayable, match="not a public one"):
        await Payees(Strangers("", resolve)).invoice("someone@ln.example", 98_000)


async def test_the_connection_is_made_to_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolved once: the name may lead elsewhere a moment later. Certificate and Host are still the name's."""
    seen: list[httpx.Request] = []
    asked = 0

    async def resolve(host: str, port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return ["10.0.0.1", "93.184.216.34"]

    async def handle(self: object, request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    with pytest.raises(Unpayable):
        await Payees(Strangers("", resolve)).invoice("someone@ln.example", 98_000)
    assert (str(seen[0].url), seen[0].headers["host"], seen[0].extensions["sni_hostname"], asked) == (
        "https://93.184.216.34/.well-known/lnurlp/someone", "ln.example", "ln.example", 1,
    )  # fmt: skip


async def test_a_public_host_cannot_send_us_to_a_private_one(monkeypatch: pytest.MonkeyPatch, payee: Payee) -> None:
    """(Incident 66.)"""
    offer = {"tag": "payRequest", "callback": f"http://127.0.0.1:{payee.port}/pay?u=someone", "minSendable": 1,
             "maxSendable": 10**9, "metadata": METADATA}  # fmt: skip

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["93.184.216.34"]

    async def handle(self: object, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body())

    async def body() -> AsyncIterator[bytes]:
        yield json.dumps(offer).encode()

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    with pytest.raises(Unpayable, match="nothing is paid"):
        await Payees(Strangers("", resolve)).invoice("someone@ln.example", 98_000)
    assert payee.paths == []


ONION = "someone@" + "a" * 56 + ".onion"


async def test_an_onion_service_without_a_way_there_is_told_so() -> None:
    with pytest.raises(Unpayable, match="onion"):
        await Payees(Strangers("")).invoice(ONION, 98_000)


async def test_an_onion_service_is_asked_through_the_proxy_by_its_name() -> None:
    """SOCKS5 with the name in it: nobody here resolves it."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(b"\x05\x00")
        head = await reader.readexactly(5)
        asked.append(head[:4] + await reader.readexactly(head[4] + 2))
        writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response({"status": "ERROR"}))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unpayable, match="does not answer as"):
        await Payees(Strangers(f"socks5://127.0.0.1:{port}")).invoice(ONION, 98_000)
    server.close()
    assert asked == [b"\x05\x01\x00\x03" + b"a" * 56 + b".onion" + b"\x00\x50"]


# --- anything at all --------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
HONEST = {"tag": "payRequest", "callback": "https://ln.example/pay", "minSendable": 1, "maxSendable": 10**9,
          "metadata": METADATA}  # fmt: skip


class Saying(Strangers):
    """A host that answers the first question with one thing, and the second with another."""

    def __init__(self, *answers: object) -> None:
        super().__init__("")
        self._answers = list(answers)

    async def json(self, url: httpx.URL, *, allow_private: bool) -> Any:
        return self._answers.pop(0)


@given(st.dictionaries(st.sampled_from(list(HONEST)), VALUES | st.text(max_size=40).map("https://".__add__)), VALUES)
def test_whatever_a_host_says_it_is_paid_or_it_is_not(said: dict[str, Any], then: object) -> None:
    """Never anything but an invoice as it was asked for, or words for who chose the address."""
    for second in (then, {"pr": then}):
        with contextlib.suppress(Unpayable):
            found, amount = asyncio.run(Payees(Saying(HONEST | said, second)).invoice("me@ln.example", 98_000))
            assert (found.description_hash, amount) == (hashlib.sha256(METADATA.encode()).hexdigest(), 98_000)
