"""What a client could take, or lose, between the steps of a sale: each found by attacking a running node."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import realparts
from scripts.payer import Payer
from tests.e2e.conftest import Business, Node
from tests.parts.upstream import until


def _request(port: int, credential: str, *fields: str) -> socket.socket:
    """A chat request by hand, on its own connection."""
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": "hello"}]}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: node", f"Authorization: Bearer {credential}", *fields]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    connection = socket.create_connection(("127.0.0.1", port), timeout=15)
    connection.sendall(head.encode() + body)
    return connection


def _connected_to(url: str) -> bool:
    """Whether somebody has a connection open to this port of this machine."""
    port = f":{int(url.rsplit(':', 1)[1]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(port) and row[3] == "01" for row in rows)


def test_many_texts_in_one_embedding_are_held_and_charged_for_each(business: Business) -> None:
    """Together they may be far longer than the model's context, which bounds one of them only."""
    key = business.account(sats=300)
    figures = {"prompt_tokens": 20_000, "total_tokens": 20_000}
    do = business.upstream.on(business.name(), json.dumps({"object": "list", "data": [], "usage": figures}).encode())
    asked = {"model": "small", "input": [do, *["word " * 800] * 20]}
    answer = business.node.call("POST", "/v1/embeddings", asked, key=key)
    assert answer.cost == 11 + 3 * 20_000


def test_a_body_too_large_for_a_token_is_not_read(business: Business) -> None:
    """Anybody may send it unpaid: reading it would hold up every stream."""
    many = b'{"initial_balance_token": "x", "a": [' + b'{"a":1},' * 100_000 + b"1]}"
    answer = business.node.call("POST", "/v1/wallet/create", many)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("call", ["POST /v1/wallet/topup", "OPTIONS /v1/chat/completions", "GET /v1/models"])
def test_megabytes_that_nobody_pays_for_are_not_taken_in(business: Business, call: str) -> None:
    head = f"{call} HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", business.node.port), timeout=20) as connection:
        connection.sendall(head + b"100001\r\n" + b" " * 0x100001 + b"\r\n")  # no end: the answer comes before it
        answer = b""
        while b"body_too_large" not in answer and (piece := connection.recv(65536)):
            answer += piece
    assert b" 413 " in answer.split(b"\r\n")[0] and b"body_too_large" in answer


def test_a_client_that_leaves_before_the_upstream_is_asked_is_charged_nothing(
    own: Callable[..., Node], business: Business, tmp_path: Path
) -> None:
    mint, mint_url = realparts.mint(tmp_path / "mint")
    mint.start()
    try:
        mint.wait_until(f"{mint_url}/v1/info")
        node, buyer = own(CASHU_MINTS=mint_url).start(), Payer(mint_url)
        token = buyer.token(100)
        buyer.close()
        asked = business.forwarded()
        os.kill(mint.pid, signal.SIGSTOP)
        connection = _request(node.port, token)
        until(lambda: _connected_to(mint_url), "the wallet asks the mint")
        connection.close()
        os.kill(mint.pid, signal.SIGCONT)
        info = until(lambda: (a := node.call("GET", "/v1/wallet/info", key=token)).status == 200 and a.json(), "opened")
        settled = node.settled(info["api_key"])
        assert (settled["balance"], settled["total_spent"]) == (100_000, 0)
        assert business.forwarded() == asked and node.proves()
    finally:
        mint.end()


def test_a_connection_that_its_client_wants_closed_is_closed(business: Business) -> None:
    with _request(business.node.port, business.account(), "Connection: close") as connection:
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200") and b"\r\nconnection: close" in answer.lower()
