"""What two parsers could read in two ways gets a clear 4xx, and not a byte of it reaches the upstream."""

from __future__ import annotations

import json
import socket

import pytest

from tests.e2e.conftest import Business, Node

MARK = "/smuggled"
CHAT = "POST /v1/chat/completions HTTP/1.1"
BODY = json.dumps({"model": "small", "messages": [{"role": "user", "content": MARK}], "max_tokens": 5}).encode()
HIDDEN = f"GET {MARK} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def raw(node: Node, sent: bytes, heads: int = 1) -> bytes:
    """What comes back for exactly these bytes: up to as many heads, or the connection's end."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as client:
        client.sendall(sent)
        got = b""
        while got.count(b"HTTP/1.1 ") < heads or b"\r\n\r\n" not in got.rpartition(b"HTTP/1.1 ")[2]:
            piece = client.recv(65536)
            if not piece:
                break
            got += piece
        return got


def request(key: str, *fields: str, line: str = CHAT, body: bytes = BODY, length: bool = True) -> bytes:
    """A paid request as bytes, its fields as given."""
    sized = [f"Content-Length: {len(body)}"] if length else []
    lines = [line, "Host: node", f"Authorization: Bearer {key}", "Content-Type: application/json", *sized, *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def refused(business: Business, sent: bytes, *, key: str) -> int:
    """The status of the refusal; nothing was forwarded, nothing charged, and the node goes on selling."""
    before, balance = business.forwarded(), business.node.info(key)["balance"]
    status = int(raw(business.node, sent).split(b" ", 2)[1])
    assert business.node.call("GET", "/v1/info").status == 200
    assert business.forwarded() == before and business.node.info(key)["balance"] == balance
    assert not any(MARK.encode() in kept for kept in business.upstream.raw[-20:])
    return status


@pytest.mark.parametrize(
    "fields, body",
    [
        (("Transfer-Encoding: chunked", "Content-Length: 4"), b"0\r\n\r\n" + HIDDEN),
        (("Content-Length: 4", "Content-Length: 400"), BODY),
        (("Content-Length: +3",), BODY),
        (("Content-Length: -1",), BODY),
        (("Transfer-Encoding: xchunked",), b"0\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding : chunked",), b"0\r\n\r\n" + HIDDEN),
    ],
    ids=["both", "two-lengths", "plus", "negative", "odd-coding", "space-before-colon"],
)
def test_a_body_whose_end_is_ambiguous_is_refused(business: Business, fields: tuple[str, ...], body: bytes) -> None:
    key = business.account(5)
    assert 400 <= refused(business, request(key, *fields, body=body, length=False), key=key) < 500


@pytest.mark.parametrize("value", ["a\x00b", "a\rGET /smuggled HTTP/1.1", "a\r\n folded", "a\x0bb", "a\x7fb"])
def test_a_control_byte_in_a_header_is_refused(business: Business, value: str) -> None:
    key = business.account(5)
    assert refused(business, request(key, f"X-Note: {value}"), key=key) == 400


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT evil.example:443 HTTP/1.1",
        "POST http://evil.example/v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions HTTP/9.9",
        "POST /v1/chat/completions HTTP/0.9",
        "POST /v1/chat/completions /smuggled HTTP/1.1",
        "POST  HTTP/1.1",
        "TRACE /v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions\x00 HTTP/1.1",
    ],
)
def test_a_first_line_that_is_no_ordinary_one_is_refused(business: Business, line: str) -> None:
    key = business.account(5)
    assert 400 <= refused(business, request(key, line=line), key=key) < 500


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/v1/chat/completions/../../smuggled",
        "/v1/chat/completions/%2e%2e/models",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat%2fcompletions",
        "/V1/chat/completions",
        "/v1/chat/completions;x",
        "/v1/chat/completions%00",
    ],
)
def test_only_the_very_path_is_offered(business: Business, path: str) -> None:
    """(Incident 31: doors of the upstream that nobody bills.)"""
    key = business.account(5)
    assert refused(business, request(key, line=f"POST {path} HTTP/1.1"), key=key) == 404


@pytest.mark.parametrize("upgrade", ["websocket", "WebSocket", "websocket, h2c"])
def test_an_upgrade_is_refused_at_once(business: Business, upgrade: str) -> None:
    key = business.account(5)
    assert refused(business, request(key, "Connection: Upgrade", f"Upgrade: {upgrade}"), key=key) == 426


@pytest.mark.parametrize(
    "body",
    [b'{"model":"small","model":"vendor/Big","messages":[]}', b'{"model":"small","max_tokens":1,"Max_Tokens":9999,"messages":[]}',
     b'{"model":"small","max_tokens":-5,"messages":[]}', b'{"model":"small","max_tokens":1e400,"messages":[]}',
     b'{"model":"small","max_tokens":' + b"9" * 5000 + b',"messages":[]}', b"[" * 100_000],
    ids=["duplicate", "case-variant", "negative", "infinite", "huge", "deep"],
)  # fmt: skip
def test_a_body_that_two_parsers_read_in_two_ways_is_refused(business: Business, body: bytes) -> None:
    """(Incident 22: a negative or aliased cap drove the hold to nothing.)"""
    key = business.account(5)
    assert refused(business, request(key, body=body), key=key) == 400


def test_a_request_behind_a_paid_ones_body_is_a_request_of_its_own(business: Business) -> None:
    """Its own credential, its own refusal: the payment of the first does not cover it."""
    key = business.account(50)
    got = raw(business.node, request(key, body=BODY.replace(MARK.encode(), b"hello")) + HIDDEN, heads=2)
    first, second = (int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:])
    assert (first, second) == (200, 404)
    assert not any(f"GET {MARK}".encode() in kept for kept in business.upstream.raw)
