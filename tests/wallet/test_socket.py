"""The wallet's socket in bad hands: replays, garbage, silence, floods. Nobody else notices, nothing moves twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from addon.errors import InternalError
from addon.treasury import Receive, settings_hash
from addon.wallet.server import Server
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.processes import Home, Lines

pytestmark = pytest.mark.anyio


@pytest.fixture
def home(mint: str, tmp_path: Path) -> Home:
    return Home(tmp_path / "s", (mint,))


@pytest.fixture
async def worker(home: Home) -> AsyncIterator[Lines]:
    """A greeted connection; the wallet behind it must still answer at the end."""
    process = home.start()
    assert await home.listening(process)
    lines = Lines(home)
    await lines.open()
    yield lines
    assert (await lines.ask({"op": "refund", "account": "x"}))["refused"]["code"] == "no_balance"
    assert process.poll() is None
    process.kill()
    process.wait()


def received(token: str, account: str) -> dict[str, Any]:
    return Receive(token=token, purpose="key", account=account).model_dump()


async def test_lines_that_are_played_again_move_nothing_twice(home: Home, worker: Lines, mint: str) -> None:
    """The same bytes: at once, later, and from another connection."""
    token = Buyer(Payer(mint), mint).token(40)
    line = json.dumps({"n": 7} | received(token, "a")).encode() + b"\n"
    refund = json.dumps({"n": 8, "op": "refund", "account": "a"}).encode() + b"\n"
    other = Lines(home)
    await other.open(role="guest")
    for lines in (worker, other):
        lines.writer.write(3 * line)
        answers = [json.loads(await lines.reader.readline()) for _ in range(3)]
        assert {(a["n"], a["ok"]["account"], a["ok"]["credited_msat"]) for a in answers} == {(7, "a", 40_000)}
    tokens = set()
    for lines in (worker, other):
        lines.writer.write(2 * refund)
        tokens |= {json.loads(await lines.reader.readline())["ok"]["token"] for _ in range(2)}
    assert len(tokens) == 1
    node = Node(home.state_dir, home.mints)
    assert node.balances() == [0]
    await asyncio.to_thread(node.proves)


async def test_a_second_token_for_one_account_is_left_untouched(home: Home, worker: Lines, mint: str) -> None:
    """Its credit could never be booked: it would be spent, and stay on its way for ever."""
    buyer = Buyer(Payer(mint), mint)
    first, second, third, fourth = [buyer.token(5 + n) for n in range(4)]
    assert (await worker.ask(received(first, "a")))["ok"]
    assert (await worker.ask(received(second, "a")))["refused"]["code"] == "internal_error"
    worker.send(received(third, "b"))
    worker.send(received(fourth, "b"))
    answers = [json.loads(await worker.reader.readline()) for _ in range(2)]
    assert sorted(a["ok"] is None for a in answers) == [False, True]
    assert buyer.states(second) == {"UNSPENT"}
    assert sorted([*buyer.states(third), *buyer.states(fourth)]) == ["SPENT", "UNSPENT"]
    node = Node(home.state_dir, home.mints)
    assert "sent" not in node.rows()
    await asyncio.to_thread(node.proves)


GARBAGE = [b"", b"\n", b"{", b'{"op":"hello"', b"\x00" * 5000, b"[[[[" * 500 + b"\n", b'{"n":' + b"9" * 9000 + b"}\n"]


async def test_a_hundred_connections_of_garbage_leave_nothing_behind(home: Home, worker: Lines) -> None:
    before = descriptors(home)
    for n in range(100):
        with contextlib.suppress(ConnectionError):
            _, writer = await asyncio.open_unix_connection(home.path / "sock")
            writer.write(GARBAGE[n % len(GARBAGE)])
            writer.close()
    assert (await worker.ask({"op": "refund", "account": "x"}))["refused"]["code"] == "no_balance"
    while descriptors(home) > before + 1:
        await asyncio.sleep(0.02)


async def test_a_hundred_silent_connections_keep_nobody_waiting(home: Home, worker: Lines) -> None:
    silent = [await asyncio.open_unix_connection(home.path / "sock") for _ in range(100)]
    assert (await worker.ask({"op": "refund", "account": "x"}))["refused"]["code"] == "no_balance"
    assert "ok" in await Lines(home).open(role="guest")
    for _, writer in silent:
        writer.close()


async def test_garbage_behind_a_hello_ends_that_connection_only(home: Home, worker: Lines) -> None:
    for piece in (b"nonsense\n", b"[1]\n", b"x" * (2 << 20)):
        other = Lines(home)
        await other.open(role="guest")
        with contextlib.suppress(ConnectionError):
            other.writer.write(piece)
            assert await asyncio.wait_for(other.reader.read(), 10) == b""


async def test_a_flood_of_asks_is_answered_to_the_last(home: Home, worker: Lines) -> None:
    """More than it takes on at once: those beyond are told so."""
    count = 6000
    lines = [json.dumps({"n": n, "op": "refund", "account": f"x{n}"}).encode() + b"\n" for n in range(count)]

    async def write() -> None:
        for line in lines:
            worker.writer.write(line)
            await worker.writer.drain()

    writing = asyncio.create_task(write())
    answers = [json.loads(await worker.reader.readline()) for _ in range(count)]
    await writing
    assert sorted(a["n"] for a in answers) == list(range(count))
    assert {a["refused"]["code"] for a in answers} <= {"no_balance", "overloaded"}


async def test_a_connection_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("addon.wallet.server.HELLO_S", 0.1)
    home = Home(tmp_path / "s", ("http://127.0.0.1:9",))
    home.path.mkdir(parents=True)
    serving = asyncio.create_task(
        Server(None, InternalError("no vault"), settings_hash(home.settings)).serve(home.path / "sock")
    )
    while not (home.path / "sock").exists():
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_unix_connection(home.path / "sock")
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    serving.cancel()


def descriptors(home: Home) -> int:
    """How many files the wallet of this directory holds open."""
    mark = f"STATE_DIR={home.state_dir.resolve()}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (place / "environ").read_bytes() and b"addon.wallet" in (place / "cmdline").read_bytes():
                return len(list((place / "fd").iterdir()))
    raise AssertionError("no wallet runs there")
