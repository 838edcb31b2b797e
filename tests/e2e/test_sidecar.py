"""What the sidecar serves through the node's port, and what is told while it is away."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.e2e.conftest import Business, Node
from tests.e2e.test_errors import told

LISTED = {"providers": [{"id": "1", "endpoint_url": "https://node.example"}]}


class Answering(BaseHTTPRequestHandler):
    """A sidecar that lists one provider, or as many bytes as it was told to."""

    bytes_told = 0

    def do_GET(self) -> None:
        body = b"x" * self.bytes_told or json.dumps(LISTED | {"asked": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def listening() -> Iterator[Callable[[Path, type[Answering]], None]]:
    servers: list[socketserver.BaseServer] = []

    def listen(path: Path, handler: type[Answering]) -> None:
        server = socketserver.ThreadingUnixStreamServer(str(path), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    yield listen
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_list_of_providers_is_the_sidecars(
    own: Callable[..., Node], listening: Callable[[Path, type[Answering]], None]
) -> None:
    node = own().start()
    listening(node.state / "sidecar.sock", Answering)
    for path in ("/v1/providers/", "/v1/providers"):
        answer = node.call("GET", f"{path}?include_json=true")
        assert answer.status == 200
        assert answer.json() == LISTED | {"asked": "/v1/providers/?include_json=true"}
        assert answer.header("access-control-allow-origin") == "*"


def test_while_the_sidecar_is_away_the_node_says_so(business: Business) -> None:
    told(business.node.call("GET", "/v1/providers/"), 503, "api_error", "sidecar_unavailable")


def test_a_sidecar_that_answers_without_end_is_given_up(
    own: Callable[..., Node], listening: Callable[[Path, type[Answering]], None]
) -> None:
    node = own().start()
    listening(node.state / "sidecar.sock", type("Endless", (Answering,), {"bytes_told": 9_000_000}))
    told(node.call("GET", "/v1/providers/"), 503, "api_error", "sidecar_unavailable")


def test_switched_off_there_is_nothing(own: Callable[..., Node]) -> None:
    node = own(SIDECAR_URL="off", ADMIN_PASSWORD="secret-of-admin").start()
    told(node.call("GET", "/v1/providers/"), 404, "not_found", "path_not_found")
    assert node.call("GET", "/admin").status == 404


def test_admin_pages_need_a_password_and_are_for_no_foreign_page(own: Callable[..., Node], business: Business) -> None:
    assert business.node.call("GET", "/admin").status == 404
    answer = (
        own(ADMIN_PASSWORD="secret-of-admin").start().call("GET", "/admin/login", headers=[("Origin", "https://a.b")])
    )
    assert (answer.status, answer.json()["error"]["code"]) == (503, "sidecar_unavailable")
    assert answer.header("access-control-allow-origin") is None
