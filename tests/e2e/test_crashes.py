"""Deaths and departures in the middle of a paid request: every hold is closed once, and the books prove."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import COST, Business, Node
from tests.parts.upstream import stream, until

FUNDS = 50_000
"""msat on each account here."""


class Client:
    """A streaming client that decides itself how far it reads and when it leaves."""

    def __init__(self, node: Node, key: str, do: str) -> None:
        message = [{"role": "user", "content": do}]
        body = json.dumps({"model": "small", "messages": message, "max_tokens": 50, "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {key}\r\n"
        self._socket = socket.create_connection(("127.0.0.1", node.port), timeout=20)
        self._socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        self.got = b""

    def read_until(self, mark: bytes) -> None:
        while mark not in self.got:
            piece = self._socket.recv(65536)
            assert piece, self.got
            self.got += piece

    def request_id(self) -> str:
        head = self.got.partition(b"\r\n\r\n")[0].decode().lower()
        return head.partition("x-routstr-request-id: ")[2].partition("\r\n")[0]

    def leave(self) -> None:
        self._socket.close()


def held_stream(business: Business) -> tuple[str, str, threading.Event]:
    """The name of a stream that stops after its first word until told, and how it is asked for."""
    name, go = business.name(), threading.Event()
    first, *rest = stream()
    return name, business.upstream.on(name, first, go, *rest, kind="text/event-stream", chunked=True), go


def receipt(node: Node, key: str, request_id: str) -> dict[str, Any]:
    answer = node.call("GET", f"/v1/receipts/{request_id}", key=key)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def test_a_proxy_killed_before_the_answer_gives_the_hold_back(own: Callable[..., Node], business: Business) -> None:
    """(Incident 15: funds frozen by a hold that nobody released.)"""
    node = own().start()
    key, name, go = business.account(50, node), business.name(), threading.Event()
    client = Client(node, key, business.upstream.on(name, go, *stream(), kind="text/event-stream", chunked=True))
    business.upstream.wait_for(name)
    assert node.info(key)["reserved"] > 0
    node.kill()
    go.set()
    client.leave()
    info = node.restart().info(key)
    assert (info["balance"], info["reserved"]) == (FUNDS, 0) and node.proves()
    assert node.chat(key).cost == COST


def test_a_proxy_killed_in_a_stream_takes_nothing_and_holds_nothing(
    own: Callable[..., Node], business: Business
) -> None:
    node = own().start()
    key, (_, do, go) = business.account(50, node), held_stream(business)
    client = Client(node, key, do)
    client.read_until(b"w0")
    node.kill()
    go.set()
    client.leave()
    info = node.restart().info(key)
    assert (info["balance"], info["reserved"]) == (FUNDS, 0) and node.proves()
    assert receipt(node, key, client.request_id())["total_msats"] == 0


def test_a_proxy_killed_at_the_end_of_a_stream_took_what_it_told_or_nothing(
    own: Callable[..., Node], business: Business
) -> None:
    """(Incident 20: charged twice when the booking was tried again.)"""
    node = own().start()
    key, (_, do, go) = business.account(50, node), held_stream(business)
    client = Client(node, key, do)
    go.set()
    client.read_until(b'"remaining_balance_msats"')
    node.kill()
    client.leave()
    info = node.restart().info(key)
    assert info["reserved"] == 0 and info["balance"] in (FUNDS, FUNDS - COST) and node.proves()


def test_a_stopping_node_serves_a_running_stream_to_its_end(own: Callable[..., Node], business: Business) -> None:
    node = own().start()
    key, (_, do, go) = business.account(50, node), held_stream(business)
    client, codes = Client(node, key, do), list[int]()
    client.read_until(b"w0")
    stopping = threading.Thread(target=lambda: codes.append(node.stop()))
    stopping.start()
    until(lambda: refuses(node), "no new clients")
    go.set()
    client.read_until(b'"remaining_balance_msats"')
    client.leave()
    stopping.join()
    assert codes == [0] and node.proves()
    assert node.restart().info(key)["balance"] == FUNDS - COST


def refuses(node: Node) -> bool:
    """Whether a new client finds no one listening, or is told that the node stops."""
    try:
        return node.call("GET", "/v1/info", timeout_s=2).status == 503
    except OSError:
        return True


def test_a_client_that_leaves_in_a_stream_pays_for_what_it_got(business: Business) -> None:
    """(Incidents 15 and 37: the hold stayed; leaving early was free.)"""
    key, (_, do, go) = business.account(50), held_stream(business)
    client = Client(business.node, key, do)
    client.read_until(b"w0")
    client.leave()
    charged = FUNDS - business.node.settled(key)["balance"]
    go.set()
    told = receipt(business.node, key, client.request_id())
    assert told["end"] == "client_left" and told["total_msats"] == charged
    assert 0 < charged <= told["held_msats"] and business.node.proves()


def test_a_client_that_leaves_behind_the_upstreams_end_pays_the_exact_price(business: Business) -> None:
    """(Incident 37: a disconnect at the end was free.)"""
    key, (_, do, go) = business.account(50), held_stream(business)
    client = Client(business.node, key, do)
    go.set()
    client.read_until(b"[DONE]")
    client.leave()
    assert business.node.settled(key)["balance"] == FUNDS - COST


def test_a_client_that_leaves_before_the_answer_leaves_no_hold(business: Business) -> None:
    key, name, go = business.account(50), business.name(), threading.Event()
    client = Client(
        business.node, key, business.upstream.on(name, go, *stream(), kind="text/event-stream", chunked=True)
    )
    business.upstream.wait_for(name)
    held = business.node.info(key)["reserved"]
    client.leave()
    assert FUNDS - held <= business.node.settled(key)["balance"] <= FUNDS and business.node.proves()
    go.set()


@pytest.mark.parametrize("end", ["cut", "quiet"])
def test_an_upstream_that_dies_in_a_stream_is_paid_for_what_came(
    own: Callable[..., Node], business: Business, end: str
) -> None:
    """(Incident 15.) Quiet: the upstream says nothing more, and the node's own patience ends."""
    node = business.node if end == "cut" else own(UPSTREAM_IDLE_TIMEOUT="1").start()
    key, name = business.account(50, node), business.name()
    pieces = (*stream()[:2], "cut" if end == "cut" else "hang")
    client = Client(node, key, business.upstream.on(name, *pieces, kind="text/event-stream", chunked=True))
    client.read_until(b"w1")
    charged = FUNDS - node.settled(key)["balance"]
    told = receipt(node, key, client.request_id())
    client.leave()
    assert told["total_msats"] == charged and 0 < charged <= told["held_msats"]
    assert node.proves()
