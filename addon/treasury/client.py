"""One worker's connection to the wallet process: starts it, watches it, asks it.

The wallet is a child process, asked in JSON lines; one connection per worker, which is also the liveness. An
ask that got no answer is *unknown*, never failed: it is asked again, and continues the same row of the
journal. What goes wrong there comes back as the same typed errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from addon.errors import InternalError, SettingsError, WalletUnavailable, from_code
from addon.settings import Settings, wallet_environment
from addon.treasury.messages import (
    LINE_LIMIT,
    SOCKET_NAME,
    Ask,
    Change,
    Changed,
    Hello,
    Invoiced,
    LookAtInvoice,
    OrderInvoice,
    Recall,
    Receive,
    Received,
    RefundAccount,
    Refunded,
    Reply,
    Sent,
    Welcome,
    settings_hash,
    wallet_home,
)

LOG_NAME: Final = "wallet.log"
SOCKET_PATH_LIMIT: Final = 100
"""A Unix socket's path has 108 bytes on Linux, 104 on macOS, the closing NUL among them."""
ASK_TIMEOUT_S: Final = 20.0
LOOK_TIMEOUT_S: Final = 4.0
CHANGE_TIMEOUT_S: Final = 5.0
"""No mint is asked for it, and the end of an answer waits; afterwards its token still brings it."""
REVIVE_S: Final = 3.0
STOP_TIMEOUT_S: Final = 30.0


class Treasury:
    """One worker's connection to the wallet process, and the child itself where this worker started it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = wallet_home(settings.state_dir)
        self._child: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._welcome: Welcome | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asks: dict[int, asyncio.Future[Reply]] = {}
        self._count = itertools.count(1)
        self._connecting = asyncio.Lock()
        self._fails = 0
        self._not_before = 0.0
        self._closing = False

    async def start(self) -> Welcome:
        """Starts the wallet, or finds the one that runs. Raises SettingsError or WalletUnavailable."""
        path = self._home / SOCKET_NAME
        if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
            raise SettingsError(f"STATE_DIR: the path {path} is too long for a Unix socket; choose a shorter one")
        _private_directory(self._home)
        _private_directory(self._home / "empty")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self._connect()
        raise WalletUnavailable(f"The wallet process does not start; see {self._home / LOG_NAME}.")

    async def receive(self, ask: Receive) -> Received:
        """Redeems a token; a client that leaves does not stop it."""
        return Received.model_validate(await asyncio.shield(self._ask(ask, limit_s=ASK_TIMEOUT_S)))

    async def refund(self, account: str, *, to_token: bool = False) -> Refunded | Sent:
        """Pays an account back: to its Lightning address, where it has one, or as a token."""
        ask = RefundAccount(account=account, to_token=to_token)
        answer = await asyncio.shield(self._ask(ask, limit_s=ASK_TIMEOUT_S))
        return (Sent if "recipient" in answer else Refunded).model_validate(answer)

    async def change(self, account: str) -> Changed:
        """Ends a single payment whose request is over: its change, the same however often it is asked for."""
        ask = Change(account=account)
        return Changed.model_validate(await asyncio.shield(self._ask(ask, limit_s=CHANGE_TIMEOUT_S)))

    async def recall(self, token: str) -> Changed:
        """The change of the single payment that was made with this token."""
        ask = Recall(token=token)
        return Changed.model_validate(await asyncio.shield(self._ask(ask, limit_s=ASK_TIMEOUT_S)))

    async def invoice(self, ask: OrderInvoice) -> Invoiced:
        """An invoice of an accepted mint."""
        return Invoiced.model_validate(await asyncio.shield(self._ask(ask, limit_s=ASK_TIMEOUT_S)))

    async def look_at_invoice(self, invoice: str) -> None:
        """Lets the mint be asked about an invoice now; returns when that is over, or soon."""
        await self._ask(LookAtInvoice(id=invoice), limit_s=LOOK_TIMEOUT_S)

    @property
    def connected(self) -> bool:
        """Whether the wallet answers this worker now."""
        return self._writer is not None and self._welcome is not None

    async def revive(self) -> None:
        """Starts a wallet that died again: what it left open is driven on, whether or not anybody asks."""
        with contextlib.suppress(TimeoutError, WalletUnavailable):
            async with asyncio.timeout(REVIVE_S):
                await self._connect()

    async def stop(self) -> None:
        """Lets go of the wallet and waits for the child: it finishes what is journaled, then ends."""
        self._closing = True
        async with self._connecting:  # a connection that is being made is closed, too
            if self._writer is not None:
                self._writer.close()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=1)
        if self._child is not None:
            await _wait_for(self._child, STOP_TIMEOUT_S)

    async def _ask(self, ask: Ask, *, limit_s: float) -> dict[str, Any]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not self._closing:
                    await self._connect()
                    with contextlib.suppress(ConnectionError):
                        return _unwrap(await self._exchange(ask))
        raise WalletUnavailable(
            "This node's wallet does not answer at the moment. Keys go on paying; send the same token again "
            "in a few seconds: nothing is lost."
        )

    async def _exchange(self, ask: BaseModel) -> Reply:
        writer, n = self._writer, next(self._count)
        if writer is None:
            raise ConnectionResetError
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asks[n] = answer
        try:
            writer.write(_line({"n": n} | ask.model_dump()))
            return await answer
        finally:
            self._asks.pop(n, None)

    async def _connect(self) -> Welcome:
        """Until the wallet has answered this connection's hello; a dead one is started again."""
        async with self._connecting:
            while self._writer is None or self._welcome is None:
                if self._closing:
                    raise WalletUnavailable("This node is stopping.")
                try:
                    streams = await asyncio.open_unix_connection(self._home / SOCKET_NAME, limit=LINE_LIMIT)
                except (FileNotFoundError, ConnectionRefusedError):
                    self._start_child_if_gone()
                    await asyncio.sleep(0.02)
                else:
                    await self._greet(*streams)
            return self._welcome

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each connection begins with a hello. A wallet with other settings hands over, and is gone soon."""
        self._writer, self._welcome = writer, None
        self._reading = asyncio.create_task(self._read(reader, writer))
        hello = Hello(role="worker", settings_hash=settings_hash(self._settings))
        try:
            self._welcome = Welcome.model_validate(_unwrap(await self._exchange(hello)))
        except (ConnectionError, WalletUnavailable):
            await asyncio.sleep(0.02)
        finally:
            if self._welcome is None:
                writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                self._fails = 0
                self._answered(Reply.model_validate_json(line))
        if self._writer is writer:
            self._writer = None
        writer.close()
        for waiting in list(self._asks.values()):
            if not waiting.done():
                waiting.set_exception(ConnectionResetError())

    def _answered(self, reply: Reply) -> None:
        waiting = self._asks.get(reply.n)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def _start_child_if_gone(self) -> None:
        gone = self._child is None or self._child.poll() is not None
        if not gone or time.monotonic() < self._not_before:
            return
        self._child = _spawn(self._settings, self._home)
        self._not_before = time.monotonic() + min(30.0, 0.5 * 2**self._fails)
        self._fails += 1


def _spawn(settings: Settings, home: Path) -> subprocess.Popen[bytes]:
    """A child in a session of its own, in an empty directory, so that no library finds a `.env` to load."""
    root = Path(__file__).resolve().parents[2]
    environment = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE") if k in os.environ}
    environment |= {"HOME": str(home), "PYTHONPATH": str(root), **wallet_environment(settings)}
    with (home / LOG_NAME).open("ab") as log:
        (home / LOG_NAME).chmod(0o600)
        return subprocess.Popen(
            [sys.executable, "-m", "addon.wallet"],
            cwd=home / "empty",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _wait_for(child: subprocess.Popen[bytes], limit_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while child.poll() is None:
                await asyncio.sleep(0.02)


def _unwrap(reply: Reply) -> dict[str, Any]:
    if reply.refused is not None:
        raise from_code(reply.refused.code, reply.refused.message, reply.refused.fields)
    if reply.ok is None:
        raise InternalError("The wallet's answer was empty.")
    return reply.ok


def _private_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise SettingsError(f"STATE_DIR: {path} cannot be used ({error.strerror}). Whose is it?") from None


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
