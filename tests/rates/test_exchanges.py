"""Asking real TLS servers that lie, stall, flood and pretend: each costs its own answer, never the others'."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path

import pytest

from addon.rates import Answers, Exchanges
from tests.parts.exchanges import HOSTS, PATHS, StandIn, Told, answer, response

pytestmark = pytest.mark.anyio
HASTY_S = 0.7
"""Long enough for a handshake on a busy machine, short enough to wait for."""


async def ask(exchanges: StandIn, *told: Told, limit_s: float = 10) -> Answers:
    exchanges.say(*told)
    return await Exchanges(exchanges.environment(), limit_s=limit_s).ask()


async def test_the_three_are_asked_for_bitcoin_in_dollars(exchanges: StandIn) -> None:
    answers = await ask(exchanges, "100000.0", "100100.5", "99900.25000000")
    assert answers.faults == {}
    assert answers.quotes == {
        "kraken": Decimal(100_000), "coinbase": Decimal("100100.5"), "binance": Decimal("99900.25"),
    }  # fmt: skip
    assert sorted(exchanges.asked) == sorted((HOSTS[name], PATHS[name]) for name in HOSTS)
    assert sorted(exchanges.connected) == sorted(f"{host}:443" for host in HOSTS.values())


HTML = response(b"<html>blocked</html>", headers=["Content-Type: text/html"])
ELSEWHERE = "Location: https://api.kraken.com/0/public/Ticker?pair=XBTUSD"
BOMB = gzip.compress(b" " * 50_000_000)
LIES: dict[str, tuple[Told, str]] = {
    "zero": ("0", "cannot be that of a bitcoin"),
    "negative": ("-97000", "not a plain number"),
    "not a number": ("NaN", "not a plain number"),
    "a web page": (HTML, "not the answer"),
    "nothing": (response(b""), "not the answer"),
    "no content": (response(b"", status="204 No Content"), "answers 204"),
    "an error that tells a price": (response(answer("coinbase", "97000"), status="500 Sorry"), "answers 500"),
    "a block": (response(b"{}", status="451 Not Here"), "answers 451"),
    "a redirect": (response(answer("coinbase", "97000"), status="302 Found", headers=[ELSEWHERE]), "answers 302"),
    "too long": (response(answer("coinbase", "97000") + b" " * 20_000), "too long"),
    "without an end": (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1_000_000, "too long"),
    "a bomb": (response(BOMB, headers=["Content-Encoding: gzip"]), "too long"),
    "compressed unasked": (
        response(gzip.compress(answer("coinbase", "97000")), headers=["Content-Encoding: gzip"]), "not the answer",
    ),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not reached"),
    "headers without end": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "not reached"),
    "a broken connection": ("cut", "not reached"),
    "no such host": ("gone", "not reached"),
    "a stranger": ("stranger's certificate", "not trusted"),
    "another's name": ("another name", "not trusted"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
async def test_one_that_lies_costs_its_own_answer_only(exchanges: StandIn, lie: str) -> None:
    told, why = LIES[lie]
    answers = await ask(exchanges, "100000", told, "100000")
    assert set(answers.quotes) == {"kraken", "binance"}
    assert why in answers.faults["coinbase"]


@pytest.mark.parametrize("trouble", ["silent", "drips"])
async def test_one_that_never_ends_costs_its_own_answer_only(exchanges: StandIn, trouble: Told) -> None:
    answers = await ask(exchanges, "100000", "100000", trouble, limit_s=HASTY_S)
    assert "binance" not in answers.quotes
    assert answers.faults["binance"] == "no whole answer in time"


async def test_a_pretender_is_not_even_asked(exchanges: StandIn) -> None:
    await ask(exchanges, "stranger's certificate", "another name", "100000")
    assert [host for host, _ in exchanges.asked] == [HOSTS["binance"]]


async def test_a_redirect_is_not_followed(exchanges: StandIn) -> None:
    await ask(exchanges, "100000", response(b"", status="301 Moved", headers=[ELSEWHERE]), "gone")
    assert len(exchanges.asked) == 2


async def test_without_the_bundle_the_stand_in_is_a_stranger(exchanges: StandIn) -> None:
    proxy_only = {"HTTPS_PROXY": exchanges.environment()["HTTPS_PROXY"], "SSL_CERT_FILE": ""}
    answers = await Exchanges(proxy_only).ask()
    assert dict.fromkeys(HOSTS, "its certificate is not trusted") == answers.faults


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\x00\xff"])
async def test_a_bundle_that_cannot_be_used_is_named_and_nobody_is_asked(
    exchanges: StandIn, tmp_path: Path, content: bytes | None
) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    answers = await Exchanges(exchanges.environment() | {"SSL_CERT_FILE": str(bundle)}).ask()
    assert not answers.quotes
    assert "SSL_CERT_FILE" in answers.faults["settings"]
    assert not exchanges.connected


@pytest.mark.parametrize("shape", ["http://{}", "{}", "http://someone:s3cret@{}/"])
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
async def test_the_proxy_is_named_as_for_other_programs(exchanges: StandIn, name: str, shape: str) -> None:
    given = exchanges.environment()
    address = given.pop("HTTPS_PROXY").removeprefix("http://")
    answers = await Exchanges(given | {name: shape.format(address)}).ask()
    assert len(answers.quotes) == 3


@pytest.mark.parametrize("address", ["ftp://u:s3cret@h:1", "socks5h://u:s3cret@h:1", "http://", "http://h:x"])
async def test_a_proxy_that_cannot_be_used_is_an_answer_and_its_password_is_not_told(address: str) -> None:
    answers = await Exchanges({"HTTPS_PROXY": address}).ask()
    assert not answers.quotes
    assert "HTTPS_PROXY" in answers.faults["settings"]
    assert "s3cret" not in repr(answers)


async def test_a_proxy_that_is_not_there_makes_no_price_and_no_direct_question() -> None:
    answers = await Exchanges({"HTTPS_PROXY": "http://127.0.0.1:9"}).ask()
    assert not answers.quotes
    assert set(answers.faults) == set(HOSTS)
