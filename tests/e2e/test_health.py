"""What whoever restarts the node, or sends it clients, is told of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from tests.e2e.conftest import Business, Node, read
from tests.e2e.test_errors import told
from tests.parts.upstream import Upstream, chunk, stream, until

READY = {"ready": True, "ledger": True, "wallet": True, "upstream": True, "rate": True, "draining": False}


def ready(node: Node) -> dict[str, Any]:
    answer = node.call("GET", "/ready")
    told: dict[str, Any] = answer.json()
    assert (answer.status == 200) == told["ready"]
    assert told["ready"] or int(answer.header("retry-after") or 0) > 0
    return told


def test_a_node_that_can_sell_says_so(business: Business) -> None:
    before = business.forwarded()
    assert business.node.call("GET", "/health").status == 200
    assert until(lambda: ready(business.node) == READY, "ready")
    for path in ("/health", "/ready"):
        answer = business.node.call("HEAD", path)
        assert answer.status == 200 and answer.body == b""
    assert business.forwarded() == before


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_health_is_only_read(business: Business, method: str) -> None:
    assert business.node.call(method, "/health", {}).status == 404


def test_an_upstream_that_is_away_and_comes_back(own: Callable[..., Node]) -> None:
    upstream = Upstream()
    upstream.start()
    node = own(upstream=upstream.url).start()
    until(lambda: ready(node) == READY, "ready")
    upstream.stop()
    until(lambda: ready(node) == READY | {"ready": False, "upstream": False}, "the upstream is missed")
    assert node.call("GET", "/health").status == 200
    upstream.start()
    until(lambda: ready(node) == READY, "ready again")
    upstream.stop()


def test_a_wallet_that_died_is_started_again_unasked(own: Callable[..., Node]) -> None:
    """What it left open must be driven on, whether or not anybody sends a token."""
    node = own().start()
    until(lambda: ready(node) == READY, "ready")
    first = node.wallet_pid
    os.kill(first, signal.SIGKILL)
    until(lambda: ready(node)["wallet"] is False or node.wallet_pid != first, "its end is noticed")
    until(lambda: ready(node) == READY and node.wallet_pid != first, "another one serves")


def test_without_a_rate_a_node_with_usd_prices_is_not_ready(own: Callable[..., Node]) -> None:
    node = own(MODEL_BASED_PRICING="true", BTC_USD="", HTTPS_PROXY="http://127.0.0.1:9").start()
    until(lambda: ready(node) == READY | {"ready": False, "rate": False}, "the rate is missed")
    answer = node.call("GET", "/v1/models")
    assert answer.status == 200 and answer.json()["data"] == []


def test_a_node_that_drains_says_so(own: Callable[..., Node], business: Business) -> None:
    node = own().start()
    key, name, go_on = business.account(50, node), business.name(), threading.Event()
    asked = business.upstream.on(name, chunk("a "), go_on, *stream()[1:], kind="text/event-stream", chunked=True)
    with ThreadPoolExecutor() as pool, closing(http.client.HTTPConnection("127.0.0.1", node.port)) as line:
        answer = pool.submit(node.chat, key, asked, stream=True)
        business.upstream.wait_for(name)
        probe(line)
        os.kill(node.part.pid, signal.SIGTERM)
        until(lambda: probe(line) == (503, True), "it drains")
        line.request("GET", "/v1/models")
        told(read(line.getresponse()), 503, "api_error", "overloaded")
        go_on.set()
        assert answer.result(20).status == 200
    until(lambda: node.part.returncode is not None, "its end")
    assert node.part.returncode == 0


def probe(line: http.client.HTTPConnection) -> tuple[int, bool]:
    """Of a connection that was there before: a node that drains takes no new ones."""
    line.request("GET", "/ready")
    answer = line.getresponse()
    return answer.status, json.loads(answer.read())["draining"]
