"""How a body may come: folded, in chunks, announced with Expect; and answers that do not wait for all of it."""

from __future__ import annotations

import functools
import gzip
import json
import socket
import zlib
from collections.abc import Callable
from contextlib import closing
from typing import Any

import brotli
import pytest
import zstandard

from tests.e2e.conftest import COST, Business, Node

ASKED = {"model": "small", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
PLAIN = json.dumps(ASKED).encode()
FOLDED = {
    "gzip": gzip.compress(PLAIN),
    "GZIP": gzip.compress(PLAIN),
    "deflate": zlib.compress(PLAIN),
    "br": brotli.compress(PLAIN),
    "zstd": zstandard.compress(PLAIN),
}


@pytest.mark.parametrize("encoding", FOLDED)
def test_a_folded_body_is_read_priced_and_sent_on_plain(business: Business, encoding: str) -> None:
    key = business.account()
    answer = business.node.call(
        "POST", "/v1/chat/completions", FOLDED[encoding], [("Content-Encoding", encoding)], key=key
    )
    assert answer.status == 200 and answer.cost == COST
    sent = business.upstream.received[-1]
    assert sent.json() == ASKED and sent.header("content-encoding") is None
    assert sent.header("content-length") == str(len(sent.body))


def test_a_folded_body_without_a_credential_is_told_its_price(business: Business) -> None:
    path, headers = "/v1/chat/completions", [("Content-Encoding", "zstd")]
    folded = business.node.call("POST", path, FOLDED["zstd"], headers)
    plain = business.node.call("POST", path, PLAIN)
    assert folded.status == plain.status == 402
    assert folded.header("x-cashu") == plain.header("x-cashu")


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_a_bomb_costs_nobody_anything(own: Callable[..., Node], business: Business, encoding: str) -> None:
    node = own(MAX_BODY_BYTES="100000").start()
    key, before = business.account(5, node), business.forwarded()
    folders: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress, "br": functools.partial(brotli.compress, quality=4), "zstd": zstandard.compress,
    }  # fmt: skip
    bomb, headers = folders[encoding](bytes(50 << 20)), [("Content-Encoding", encoding)]
    answer = node.call("POST", "/v1/chat/completions", bomb, headers, key=key)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert business.forwarded() == before and node.info(key)["balance"] == 5000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_body_that_is_not_what_it_says_is_named(business: Business, encoding: str) -> None:
    key = business.account(5)
    answer = business.node.call("POST", "/v1/chat/completions", PLAIN, [("Content-Encoding", encoding)], key=key)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "invalid_parameter") and encoding in error["message"]


@pytest.mark.parametrize("encoding", ["gzip, gzip", "compress", "identity, br"])
def test_folded_twice_or_otherwise_is_not_supported(business: Business, encoding: str) -> None:
    answer = business.node.call("POST", "/v1/chat/completions", b"x", [("Content-Encoding", encoding)], key="sk-x")
    assert (answer.status, answer.json()["error"]["code"]) == (415, "unsupported_encoding")


def test_a_folded_token_opens_an_account(business: Business) -> None:
    body = gzip.compress(json.dumps({"initial_balance_token": business.buyer.token(3)}).encode())
    answer = business.node.call("POST", "/v1/wallet/create", body, [("Content-Encoding", "gzip")])
    assert answer.status == 200 and answer.json()["balance"] == 3000


# --- chunks, Expect, early answers ------------------------------------------------------------------


def exchange(node: Node, head: str, body: bytes, *, wait_for: bytes = b"") -> bytes:
    """Everything that came back; the body is sent once `wait_for` was read, if it is given."""
    with closing(socket.create_connection(("127.0.0.1", node.port), timeout=20)) as line:
        line.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        got = b""
        while wait_for and wait_for not in got and (piece := line.recv(65536)):
            got += piece
        if not wait_for or wait_for in got:
            line.sendall(body)
        try:
            while piece := line.recv(65536):
                got += piece
        except ConnectionError:
            pass
        return got


def head_of(key: str, *more: str) -> str:
    fields = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Authorization: Bearer {key}",
        *more,
    ]
    return "\n".join(fields)


def test_a_chunked_upload_is_served(business: Business) -> None:
    pieces = [PLAIN[:10], PLAIN[10:30], PLAIN[30:]]
    body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"
    answer = exchange(business.node, head_of(business.account(), "Transfer-Encoding: chunked"), body)
    assert answer.startswith(b"HTTP/1.1 200") and business.upstream.received[-1].json() == ASKED


def test_a_client_that_expects_a_hundred_gets_it_and_is_served(business: Business) -> None:
    head = head_of(business.account(), f"Content-Length: {len(PLAIN)}", "Expect: 100-continue")
    answer = exchange(business.node, head, PLAIN, wait_for=b"100 Continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 100") and b"HTTP/1.1 200" in answer


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (("Authorization: Bearer sk-other", "Content-Length: 900000"), b"400"),
        (("Content-Length: 900000",), b"401"),
        (("Transfer-Encoding: chunked",), b"401"),
        (("Content-Length: 900000000",), b"413"),
        (("Content-Encoding: zz", "Content-Length: 900000"), b"415"),
    ],
)
@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)])
def test_a_large_body_that_will_be_refused_is_not_waited_for(
    business: Business, more: tuple[str, ...], expect: tuple[str, ...], status: bytes
) -> None:
    answer = exchange(business.node, head_of("sk-x", *more, *expect), b"")
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
    told: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["error"]["message"]


def test_without_a_credential_a_large_upload_is_answered_before_it_is_sent(business: Business) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\nHost: x\nContent-Length: 9000000\nExpect: 100-continue"
    answer = exchange(business.node, head, b"")
    assert answer.startswith(b"HTTP/1.1 402") and b"x-cashu: creqA" in answer
