"""What a client leaves behind at an upstream that goes on: read to its figures, within bounds, and charged whole."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import COST, Business, Node
from tests.e2e.test_single import recall
from tests.e2e.test_sockets import kept
from tests.parts.upstream import Piece, chunk, stream, until, whole

FUNDS = 50_000
"""msat on each account here."""


@pytest.fixture(scope="module")
def node(business: Business, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node whose upstream is said to go on."""
    home = tmp_path_factory.mktemp("goes-on")
    own = {"STATE_DIR": str(home / "state"), "NSEC": os.urandom(32).hex(), "UPSTREAM_GOES_ON": "true"}
    made = Node(home, business.upstream.url, business.settings | own)
    yield made.start()
    made.stop()


def leave_behind(business: Business, node: Node, key: str, *pieces: Piece) -> str:
    """A stream whose client leaves at its first word; the request's id. The node knows that it left."""
    do = business.upstream.on(business.name(), *pieces, kind="text/event-stream", chunked=True)
    answer = node.chat(key, do, stream=True, until_bytes=b"w0")
    until(lambda: not kept(node), "the client's connection is closed")
    return str(answer.header("x-routstr-request-id"))


def end_of(node: Node, key: str, request_id: str) -> dict[str, Any]:
    """The receipt of a request, once nothing is held any more."""
    charged = FUNDS - node.settled(key)["balance"]
    told: dict[str, Any] = node.call("GET", f"/v1/receipts/{request_id}", key=key).json()
    assert told["total_msats"] == charged and node.proves()
    return told


def test_a_client_that_leaves_early_pays_for_the_whole_answer(business: Business, node: Node) -> None:
    """(Incident 37: leaving early was free.)"""
    key, go = business.account(50, node), threading.Event()
    first, *rest = stream()
    left = leave_behind(business, node, key, first, go, *rest)
    assert node.info(key)["reserved"] > 0, "held as long as it is read on"
    go.set()
    told = end_of(node, key, left)
    assert (told["end"], told["usage_source"], told["total_msats"]) == ("client_left", "reported", COST)


def test_where_it_does_not_go_on_the_upstream_is_left_at_once(business: Business) -> None:
    key, go = business.account(50), threading.Event()
    first, *rest = stream()
    do = business.upstream.on(business.name(), first, go, *rest, kind="text/event-stream", chunked=True)
    answer = business.node.chat(key, do, stream=True, until_bytes=b"w0")
    told = end_of(business.node, key, str(answer.header("x-routstr-request-id")))
    go.set()
    assert (told["end"], told["usage_source"]) == ("client_left", "counted")


def test_a_whole_answer_that_nobody_waits_for_is_charged(business: Business, node: Node) -> None:
    key, name, go = business.account(50, node), business.name(), threading.Event()
    body = {"model": "small", "messages": [{"role": "user", "content": business.upstream.on(name, go, whole())}]}
    with ask(node, body, headers=bearer(key)):
        business.upstream.wait_for(name)
    until(lambda: not kept(node), "the client's connection is closed")
    go.set()
    assert node.settled(key)["balance"] == FUNDS - COST and node.proves()


@pytest.mark.parametrize("live", [True, False], ids=["live", "held back"])
def test_a_single_payment_that_is_left_behind_leaves_its_exact_change(
    business: Business, node: Node, live: bool
) -> None:
    token, name, go = business.buyer.token(50), business.name(), threading.Event()
    do = business.upstream.on(name, *stream()[:1], go, *stream()[1:], kind="text/event-stream", chunked=True)
    headers = [("X-Cashu", token), ("X-Cashu-Change", "event" if live else "header")]
    with ask(node, {"model": "small", "messages": [{"role": "user", "content": do}], "stream": True}, headers=headers):
        business.upstream.wait_for(name)
    until(lambda: not kept(node), "the client's connection is closed")
    go.set()
    change = until(lambda: (a := recall(node, token)).status == 200 and a, "the change")
    assert business.buyer.receive(change.json()["token"]) == 49 and node.proves()


def test_what_a_client_sent_ahead_and_left_is_not_asked(business: Business, node: Node) -> None:
    """Its second request would be made for nobody."""
    key, name, second, go = business.account(50, node), business.name(), business.name(), threading.Event()
    do = business.upstream.on(name, go, whole())
    bodies = [{"model": "small", "messages": [{"role": "user", "content": c}]} for c in (do, f"DO:{second};")]
    with ask(node, *bodies, headers=bearer(key)):
        business.upstream.wait_for(name)
    until(lambda: not kept(node), "the client's connection is closed")
    go.set()
    assert node.settled(key)["balance"] == FUNDS - COST and not business.upstream.seen(second)


def bearer(key: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key}")]


def ask(node: Node, *bodies: dict[str, Any], headers: Sequence[tuple[str, str]]) -> socket.socket:
    """Requests one behind the other on one connection."""
    connection = socket.create_connection(("127.0.0.1", node.port), timeout=20)
    for body in bodies:
        data = json.dumps(body | {"max_tokens": 50})
        fields = [("Host", "node"), *headers, ("Content-Length", str(len(data)))]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n{data}".encode())
    return connection


def test_a_client_that_leaves_behind_the_upstreams_end_has_its_whole_answer(business: Business, node: Node) -> None:
    key, go = business.account(50, node), threading.Event()
    do = business.upstream.on(business.name(), *stream(), go, kind="text/event-stream", chunked=True)
    answer = node.chat(key, do, stream=True, until_bytes=b"[DONE]")
    told = end_of(node, key, str(answer.header("x-routstr-request-id")))
    go.set()
    assert (told["end"], told["usage_source"], told["total_msats"]) == ("complete", "reported", COST)


def test_an_upstream_that_breaks_after_its_client_left_is_paid_for_what_came(business: Business, node: Node) -> None:
    key, go = business.account(50, node), threading.Event()
    left = leave_behind(business, node, key, *stream()[:1], go, *stream()[1:3], "cut")
    go.set()
    told = end_of(node, key, left)
    assert (told["end"], told["usage_source"], told["output_tokens"]) == ("client_left", "counted", 3)


FLOOD = chunk("x" * 60_000)
ENDLESS: dict[str, tuple[dict[str, str], tuple[Piece, ...]]] = {
    "quiet": ({"UPSTREAM_IDLE_TIMEOUT": "1"}, ("hang",)),
    "slow": ({"UPSTREAM_TIMEOUT": "1"}, (chunk("more"), 0.2) * 100),
    "much": ({"MAX_BUFFER_BYTES": "65536"}, (*(FLOOD,) * 20, "hang")),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_upstream_that_never_ends_is_given_up(own: Callable[..., Node], business: Business, kind: str) -> None:
    bound, pieces = ENDLESS[kind]
    node = own(UPSTREAM_GOES_ON="true", **bound).start()
    key = business.account(50, node)
    told = end_of(node, key, leave_behind(business, node, key, chunk("w0"), *pieces))
    assert told["end"] == "client_left" and 0 < told["total_msats"] <= told["held_msats"]


def test_a_stopping_node_reads_on_to_the_figures(own: Callable[..., Node], business: Business) -> None:
    node = own(UPSTREAM_GOES_ON="true").start()
    key, go, codes = business.account(50, node), threading.Event(), list[int]()
    first, *rest = stream()
    leave_behind(business, node, key, first, go, *rest)
    stopping = threading.Thread(target=lambda: codes.append(node.stop()))
    stopping.start()
    until(lambda: not listens(node), "no new clients")
    go.set()
    stopping.join()
    assert codes == [0] and node.proves()
    assert node.restart().info(key)["balance"] == FUNDS - COST


def listens(node: Node) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{node.port:04X}") and row[3] == "0A" for row in rows)


def test_a_node_killed_while_it_reads_on_gives_the_hold_back(own: Callable[..., Node], business: Business) -> None:
    """(Incident 15: funds frozen by a hold that nobody released.)"""
    node = own(UPSTREAM_GOES_ON="true").start()
    key, go = business.account(50, node), threading.Event()
    leave_behind(business, node, key, *stream()[:1], go)
    node.kill()
    go.set()
    info = node.restart().info(key)
    assert (info["reserved"], info["balance"]) == (0, FUNDS) and node.proves()
