"""The real parts without the product: what the other tests build on does what they believe it does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from addon.tokens import decode, encode
from scripts import realparts
from scripts.payer import Payer
from tests.parts.upstream import Upstream, stream
from tests.wallet import independent
from tests.wallet.faults import FaultyMint, answer, lose_reply, lose_request

MODEL = Path(__file__).resolve().parents[1] / "data" / "tiny.gguf"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a mint that takes 100 ppk an input."""
    part, url = realparts.mint(tmp_path_factory.mktemp("mint"), fee_ppk=100)
    part.start()
    try:
        part.wait_until(f"{url}/v1/info")
        yield url
    finally:
        part.end()


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    part, url = realparts.llm(tmp_path_factory.mktemp("llm"), MODEL, name="tiny", threads=1)
    part.start()
    try:
        part.wait_until(f"{url}/health")
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            yield client
    finally:
        part.end()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("unit", ["sat", "msat"])
def test_a_token_is_claimed_once_and_costs_the_mints_fee(mint: str, unit: str) -> None:
    maker, taker = Payer(mint, unit), Payer(mint, unit)
    token = maker.token(300)
    assert decode(token).amount == 300
    assert maker.states(token) == {"UNSPENT"}
    assert taker.receive(token) == 300 - -(-len(decode(token).proofs) * 100 // 1000)
    assert maker.states(token) == {"SPENT"}
    with pytest.raises(httpx.HTTPStatusError):
        maker.receive(token)


@pytest.mark.parametrize("version", [0, 1])
def test_the_other_implementation_mints_and_claims_too(version: int) -> None:
    wallet = independent.Wallet()
    try:
        with independent.mint(version=version) as url:
            token = Payer(url).token(77)
            assert wallet("receive", url=url, unit="sat", token=token)["received"] == 77
            assert Payer(url).states(token) == {"SPENT"}
    finally:
        wallet.close()


@pytest.mark.anyio
async def test_a_lost_reply_was_executed_and_a_lost_request_was_not(mint: str) -> None:
    faulty = FaultyMint(mint)
    await faulty.up()
    try:
        async with httpx.AsyncClient(base_url=faulty.url, trust_env=False) as client:
            faulty.next("/v1/mint/quote/bolt11", lose_request, lose_reply, answer(429, {"detail": "slowly"}))
            for _ in range(2):
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.post("/v1/mint/quote/bolt11", json={"amount": 5, "unit": "sat"})
            limited = await client.post("/v1/mint/quote/bolt11", json={"amount": 5, "unit": "sat"})
            passed = await client.post("/v1/mint/quote/bolt11", json={"amount": 5, "unit": "sat"})
        assert (limited.status_code, passed.status_code) == (429, 200)
        assert faulty.count("/v1/mint/quote") == 4
    finally:
        faulty.down()


def test_the_language_model_counts_what_it_reads_and_writes(llm: httpx.Client) -> None:
    first, again = (llm.post("/v1/chat/completions", json=ASKED).json() for _ in range(2))
    assert first["usage"]["prompt_tokens"] > 0
    assert 0 < first["usage"]["completion_tokens"] <= 8
    assert first["choices"][0]["message"] == again["choices"][0]["message"]


def test_the_language_model_streams_its_usage(llm: httpx.Client) -> None:
    asked = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    text = llm.post("/v1/chat/completions", json=asked).text
    assert '"usage"' in text
    assert text.rstrip().endswith("data: [DONE]")


def test_the_upstream_answers_as_scripted_and_keeps_every_byte(upstream: Upstream) -> None:
    mark = upstream.on("s", *stream(7, 3), chunked=True, kind="text/event-stream", headers=(("X-Kept", "yes"),))
    sent = f"POST /v1/x HTTP/1.1\r\nHost: h\r\nOdd-Case: v\r\nContent-Length: {len(mark)}\r\n\r\n{mark}".encode()
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=10) as client:
        client.sendall(sent)
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            got += client.recv(65536)
    assert b"X-Kept: yes\r\n" in got
    assert all(piece in got for piece in stream(7, 3))
    assert bytes(upstream.raw[0]) == sent
    assert upstream.wait_for("s").header("odd-case") == "v"


def test_the_upstream_waits_for_an_event_and_breaks_when_told(upstream: Upstream) -> None:
    go = threading.Event()
    body = upstream.on("w", b"first", go, b"second", "cut", chunked=True)
    got = b""
    with (
        httpx.Client(trust_env=False, timeout=10) as client,
        client.stream("POST", f"{upstream.url}/v1/x", content=body) as response,
        pytest.raises(httpx.TransportError),
    ):
        for piece in response.iter_raw():
            got += piece
            go.set()
    assert got == b"firstsecond"


def test_a_part_that_cannot_start_says_why(tmp_path: Path) -> None:
    part, url = realparts.llm(tmp_path / "llm", tmp_path / "absent.gguf", name="tiny", threads=1)
    part.start()
    with pytest.raises(realparts.PartFailed, match="the language model did not come up"):
        part.wait_until(f"{url}/health")
    part.end()


def test_a_token_written_again_is_the_same_token(mint: str) -> None:
    read = decode(Payer(mint).token(21))
    assert decode(encode(read.mint, read.unit, read.proofs)) == read
