"""A connection that the node ends is closed, whatever its client still sends: an idle gateway keeps no socket.

Python 3.12 and later run tasks eagerly, and mitmproxy then forgot to close such a connection: sixty bad heads with
a megabyte each left sixty open sockets until a garbage collection.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Business, Node
from tests.parts.upstream import until

MANY = 12
MEGABYTE = 1_000_000
LISTENING = "0A"
TOO_LARGE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: node\r\nContent-Length: 99999999\r\n\r\n"
CONTROL_BYTE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: node\r\nX-Bad: a\x01b\r\nContent-Length: 2000000\r\n\r\n"
BAD_LINE = b"POST /v1 chat HTTP/1.1\r\nHost: node\r\nContent-Length: 2000000\r\n\r\n"


def kept(node: Node) -> int:
    """How many of its clients' connections the proxy holds open."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    clients = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{node.port:04X}") and row[3] != LISTENING}
    held = 0
    for descriptor in Path(f"/proc/{node.part.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed just now
            held += os.readlink(descriptor) in clients
    return held


def send(node: Node, head: bytes) -> socket.socket:
    """A request whose client is in the middle of its body, and does not go."""
    opened = socket.create_connection(("127.0.0.1", node.port), timeout=30)
    with contextlib.suppress(ConnectionError):  # it may be sent away before all of this is written
        opened.sendall(head + b"x" * MEGABYTE)
    return opened


def read_all(opened: socket.socket) -> bytes:
    """Everything until the node closes the connection; a reset counts as its end."""
    told = b""
    try:
        while piece := opened.recv(65536):
            told += piece
    except ConnectionResetError:
        pass
    return told


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts sockets in /proc")
@pytest.mark.parametrize(
    "head, status", [(TOO_LARGE, b" 413 "), (CONTROL_BYTE, b" 400 "), (BAD_LINE, b" 400 ")],
    ids=["too large", "control byte", "bad line"],
)  # fmt: skip
def test_a_client_that_still_sends_is_answered_and_its_socket_closed(
    business: Business, own: Callable[..., Node], head: bytes, status: bytes
) -> None:
    node = own().start()
    clients = [send(node, head) for _ in range(MANY)]
    try:
        for client in clients:
            assert status in read_all(client).split(b"\r\n")[0]
        until(lambda: kept(node) == 0, "no socket is kept for clients that were sent away")
    finally:
        for client in clients:
            client.close()
