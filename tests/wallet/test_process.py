"""The wallet as a process: who owns a directory, who keeps it alive, how it ends, what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from addon.errors import SettingsError
from addon.treasury import Receive, Treasury, Welcome
from addon.wallet.__main__ import OWNED
from scripts.payer import Payer
from tests.wallet.conftest import Buyer, Node
from tests.wallet.faults import FaultyMint, Hold
from tests.wallet.processes import Home, Lines, ended

pytestmark = pytest.mark.anyio
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "s", (NOWHERE,))


@pytest.fixture
async def wallet(home: Home) -> AsyncIterator[Lines]:
    """A worker's connection to a running wallet."""
    process = home.start()
    assert await home.listening(process)
    worker = Lines(home)
    yield worker
    if process.poll() is None:
        process.kill()
        process.wait()


async def test_hello_tells_who_the_node_is(wallet: Lines, home: Home) -> None:
    answer = await wallet.open()
    welcome = Welcome.model_validate(answer["ok"])
    assert welcome.npub.startswith("npub1")
    assert len(bytes.fromhex(welcome.key_secret)) == 32
    assert welcome.recovered == 0
    assert home.nsec not in str(answer)


async def test_the_same_nsec_gives_the_same_keys_as_hex_and_as_nsec1(tmp_path: Path) -> None:
    from addon.wallet.identity import node_secret, npub

    secret = node_secret("nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5", tmp_path)
    assert secret.hex() == "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa"
    assert node_secret(secret.hex(), tmp_path) == secret
    assert npub(secret) == "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
    assert not list(tmp_path.iterdir())


async def test_without_an_nsec_one_is_made_once_and_kept_to_oneself(tmp_path: Path) -> None:
    home = Home(tmp_path / "s", (NOWHERE,), nsec="")
    names = []
    for _ in range(2):
        treasury = Treasury(home.settings)
        names.append((await treasury.start()).npub)
        await treasury.stop()
    assert names[0] == names[1]
    kept = home.state_dir / "nsec"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "back this file up" in kept.read_text()
    named = Home(home.state_dir, home.mints, nsec=kept.read_text().split()[-1])
    treasury = Treasury(named.settings)
    assert (await treasury.start()).npub == names[0]
    await treasury.stop()


async def test_everything_it_keeps_is_its_owners_alone(home: Home) -> None:
    treasury = Treasury(home.settings)
    await treasury.start()
    for path in [home.path, *home.path.iterdir(), *home.state_dir.glob("ledger.db*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    await treasury.stop()


@pytest.mark.parametrize("nsec", ["nsec1xyz", "00" * 32, "ff" * 32, "abc", "npub1" + "q" * 58])
async def test_a_wrong_nsec_is_told_by_name_and_never_repeated(home: Home, nsec: str) -> None:
    wrong = replace(home, nsec=nsec)
    treasury = Treasury(wrong.settings)
    with pytest.raises(SettingsError, match="NSEC") as refused:
        await treasury.start()
    await treasury.stop()
    assert nsec not in refused.value.message + wrong.log


async def test_another_nodes_directory_is_not_taken_over(home: Home) -> None:
    """Its keys would stop working, and its coins could not be spent."""
    treasury = Treasury(home.settings)
    owner = (await treasury.start()).npub
    await treasury.stop()
    stranger = Treasury(replace(home, nsec=secrets.token_hex(32)).settings)
    with pytest.raises(SettingsError, match=owner):
        await stranger.start()
    await stranger.stop()
    again = Treasury(home.settings)
    assert (await again.start()).npub == owner
    await again.stop()


async def test_a_ledger_of_another_nsec_is_not_spent_with_this_one(mint: str, tmp_path: Path) -> None:
    """A restored ledger and a wrong NSEC: its refunds would be worthless tokens."""
    home, buyer = Home(tmp_path / "s", (mint,)), Buyer(Payer(mint), mint)
    treasury = Treasury(home.settings)
    await treasury.start()
    await treasury.receive(Receive(token=buyer.token(7), purpose="key", account="a"))
    await treasury.stop()
    (home.path / "npub").unlink()
    wrong = Treasury(replace(home, nsec=secrets.token_hex(32)).settings)
    with pytest.raises(SettingsError, match="NSEC"):
        await wrong.start()
    await wrong.stop()


# --- one owner, and how it ends ---------------------------------------------------------------------


async def test_a_second_wallet_finds_the_directory_owned(wallet: Lines, home: Home) -> None:
    await wallet.open()
    assert await ended(home.start()) == OWNED
    assert (await Lines(home).open())["ok"]


async def test_four_workers_at_once_share_one_wallet(home: Home) -> None:
    workers = [Treasury(home.settings) for _ in range(4)]
    welcomes = await asyncio.gather(*[worker.start() for worker in workers])
    assert len({welcome.npub for welcome in welcomes}) == 1
    await asyncio.gather(*[worker.stop() for worker in workers])
    assert not (home.path / "sock").exists()


async def test_a_stale_socket_is_replaced(home: Home) -> None:
    killed = home.start()
    await home.listening(killed)
    killed.kill()
    killed.wait()
    assert (home.path / "sock").exists()
    treasury = Treasury(home.settings)
    assert (await treasury.start()).npub
    await treasury.stop()


async def test_it_ends_soon_after_its_last_worker(home: Home) -> None:
    process = home.start()
    await home.listening(process)
    one, two, guest = Lines(home), Lines(home), Lines(home)
    await one.open()
    await two.open()
    await guest.open(role="guest")
    one.close()
    assert (await two.ask({"op": "refund", "account": "x"}))["refused"]["code"] == "no_balance"
    two.close()
    assert await ended(process, 5) == 0  # the guest does not keep it
    assert not (home.path / "sock").exists()


async def test_sigterm_waits_for_the_last_worker_and_ctrl_c_is_not_heard(home: Home) -> None:
    process = home.start()
    await home.listening(process)
    worker = Lines(home)
    await worker.open()
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
        assert (await worker.ask({"op": "refund", "account": "x"}))["refused"]["code"] == "no_balance"
    worker.close()
    assert await ended(process, 5) == 0


async def test_it_finishes_the_swap_of_a_worker_that_died(mint: str, tmp_path: Path) -> None:
    """A killed proxy does not cut a swap in half."""
    faulty, hold = FaultyMint(mint), Hold()
    await faulty.up()
    home, buyer = Home(tmp_path / "s", (faulty.url,)), Buyer(Payer(mint), faulty.url)
    process = home.start()
    await home.listening(process)
    worker = Lines(home)
    await worker.open()
    faulty.next("/v1/swap", hold)
    worker.send(Receive(token=buyer.token(10), purpose="key", account="a").model_dump())
    await hold.reached.wait()
    worker.close()
    while (home.path / "sock").exists():  # it takes nobody on any more
        await asyncio.sleep(0.02)
    assert process.poll() is None
    hold.release.set()
    assert await ended(process, 10) == 0
    assert Node(home.state_dir, home.mints).balances() == [10_000]
    faulty.down()


async def test_recovery_does_not_delay_its_end(mint: str, tmp_path: Path) -> None:
    faulty = FaultyMint(mint)
    await faulty.up()
    home, buyer = Home(tmp_path / "s", (faulty.url,)), Buyer(Payer(mint), faulty.url)
    doomed = home.start("addon.wallet.mints", "Mint.swap", "before", "1")
    await home.listening(doomed)
    worker = Lines(home)
    await worker.open()
    assert await worker.ask(Receive(token=buyer.token(10), purpose="key", account="a").model_dump()) is None
    await ended(doomed)
    hold = Hold()
    faulty.always("/v1/", hold)
    process = home.start()
    await home.listening(process)
    worker = Lines(home)
    assert (await worker.open())["ok"]["recovered"] == 1
    await hold.reached.wait()
    worker.close()
    assert await ended(process, 10) == 0
    faulty.down()


# --- settings ---------------------------------------------------------------------------------------


async def test_new_settings_take_over_when_nobody_needs_the_old(home: Home) -> None:
    process = home.start()
    await home.listening(process)
    changed = Treasury(replace(home, mints=("http://127.0.0.1:10",)).settings)
    assert (await changed.start()).npub
    assert await ended(process, 5) == 0
    await changed.stop()


async def test_new_settings_do_not_take_over_from_a_living_worker(wallet: Lines, home: Home) -> None:
    await wallet.open()
    changed = Treasury(replace(home, mints=("http://127.0.0.1:10",)).settings)
    with pytest.raises(SettingsError, match="STATE_DIR"):
        await changed.start()
    await changed.stop()
    assert (await wallet.ask({"op": "refund", "account": "x"}))["refused"]["code"] == "no_balance"


async def test_a_mint_that_is_no_plain_address_is_told_by_name(home: Home) -> None:
    treasury = Treasury(replace(home, mints=("http://127.0.0.1:9/?a=b",)).settings)
    with pytest.raises(SettingsError, match="CASHU_MINTS"):
        await treasury.start()
    await treasury.stop()


async def test_a_directory_whose_ledger_is_none_is_told_and_left_alone(home: Home) -> None:
    home.state_dir.mkdir(parents=True)
    (home.state_dir / "ledger.db").write_bytes(b"not a database, but precious" * 100)
    treasury = Treasury(home.settings)
    with pytest.raises(Exception, match="ledger.db"):
        await treasury.start()
    await treasury.stop()
    assert (home.state_dir / "ledger.db").read_bytes().startswith(b"not a database")


# --- lines ------------------------------------------------------------------------------------------


async def test_replies_are_matched_by_number(wallet: Lines) -> None:
    await wallet.open()
    for n in (7, 8, 9):
        wallet.send({"n": n, "op": "refund", "account": f"x{n}"})
    numbers = sorted([(await wallet.ask({"op": "refund", "account": "y"}))["n"] for _ in range(4)])
    assert {7, 8, 9} <= set(numbers)


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[]\n",
        b'{"op":"refund","account":"x"}\n',
        b"\x00\xff\n",
        b"{" * 5000 + b"\n",
        b"a" * (2 << 20) + b"\n",
    ],
)
async def test_a_line_that_is_no_hello_ends_the_connection_not_the_wallet(
    wallet: Lines, home: Home, line: bytes
) -> None:
    await wallet.open()
    reader, writer = await asyncio.open_unix_connection(home.path / "sock")
    writer.write(line)
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert (await wallet.ask({"op": "refund", "account": "x"}))["refused"]["code"] == "no_balance"


async def test_an_ask_that_it_does_not_know_is_answered_without_its_words(wallet: Lines, home: Home) -> None:
    await wallet.open()
    for message in ({"op": "receive", "token": "cashuBsecret"}, {"op": "steal"}, {"op": "hello"}, {}):
        answer = await wallet.ask(message)
        assert answer["refused"]["code"] == "internal_error"
        assert "secret" not in str(answer)
    assert "cashuBsecret" not in home.log


async def test_its_environment_and_its_log_hold_no_nsec(wallet: Lines, home: Home) -> None:
    await wallet.open()
    assert home.nsec not in home.log
    assert not [
        path for path in home.state_dir.rglob("*") if path.is_file() and home.nsec.encode() in path.read_bytes()
    ]


async def test_a_dead_wallet_is_started_again_by_the_next_ask(home: Home) -> None:
    treasury = Treasury(home.settings)
    await treasury.start()
    assert treasury._child is not None
    os.kill(treasury._child.pid, signal.SIGKILL)
    treasury._child.wait()
    with pytest.raises(Exception, match="No balance to refund"):
        await treasury.refund("x")
    await treasury.stop()
