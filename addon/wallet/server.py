"""JSON lines on a Unix socket: who may ask, what keeps the wallet alive, and when it ends.

Each connection begins with a hello. It lives while a *worker* is connected, and a moment longer; a guest
does not keep it. An ask is the wallet's own task: the end of its connection does not cancel it. With other
settings than a newcomer's it finishes what runs and makes room, unless other workers still need it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from addon.errors import Failure, InternalError, Overloaded, SettingsError, WalletUnavailable, place
from addon.treasury import ASKS, LINE_LIMIT, PROTOCOL, Hello, Refusal, Reply, refusal
from addon.wallet.vault import Vault

START_GRACE_S: Final = 10.0
END_GRACE_S: Final = 0.5
FINISH_S: Final = 25.0
"""How long running asks may take to end: less than a proxy waits for its wallet."""
HELLO_S: Final = 10.0
"""For the first line of a connection."""
MOST_ASKS: Final = 4096
"""At work at one time, of all connections; beyond it they are refused."""

log = logging.getLogger("wallet.server")


class Server:
    """Answers for one vault, or tells everybody why there is none."""

    def __init__(self, vault: Vault | None, failure: Failure | None, settings_hash: str) -> None:
        self._vault = vault
        self._failure = failure
        self._settings_hash = settings_hash
        self._workers: set[asyncio.StreamWriter] = set()
        self._asks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._leaving = False

    async def serve(self, path: Path) -> None:
        """Until nobody needs the wallet any more. The caller owns the directory: a socket there is stale."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._connected, path, limit=LINE_LIMIT)
        path.chmod(0o600)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        await self._while_needed()
        server.close()
        path.unlink(missing_ok=True)
        if self._asks:
            await asyncio.wait(self._asks, timeout=FINISH_S)

    async def _while_needed(self) -> None:
        grace_s = START_GRACE_S
        with contextlib.suppress(TimeoutError):
            while not self._leaving:
                self._changed.clear()
                async with asyncio.timeout(None if self._workers else 0 if self._stopping else grace_s):
                    await self._changed.wait()
                grace_s = END_GRACE_S

    def _stop(self) -> None:
        self._stopping = True
        self._changed.set()

    # --- connections --------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, ValueError):
                if await self._greeted(reader, writer):
                    while line := await reader.readline():
                        self._take(_message(line), writer)
        finally:
            self._workers.discard(writer)
            self._changed.set()
            writer.close()

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            async with asyncio.timeout(HELLO_S):
                line = await reader.readline()
        except TimeoutError:
            return False
        if not line:
            return False
        message = _message(line)
        n = message.pop("n", 0)
        reply: BaseModel
        try:
            hello = Hello.model_validate(message)
            reply = self._welcome(hello, writer)
        except ValidationError:
            reply = refusal(InternalError("The first line of a connection must be a hello that this wallet knows."))
        except Failure as failure:
            reply = refusal(failure)
        await _send(writer, n, reply)
        return not isinstance(reply, Refusal)

    def _welcome(self, hello: Hello, writer: asyncio.StreamWriter) -> BaseModel:
        if hello.settings_hash != self._settings_hash or hello.protocol != PROTOCOL:
            if self._workers:
                raise SettingsError(
                    "STATE_DIR: another worker runs there with other settings of its money. Stop it first, "
                    "or give both the same settings."
                )
            self._leave()
            raise WalletUnavailable("The wallet that runs has other settings; it makes room for a new one.")
        if self._vault is None:
            self._leave()
            raise self._failure or InternalError("The wallet could not start.")
        if hello.role == "worker":
            self._workers.add(writer)
            self._changed.set()
        return self._vault.welcome()

    def _leave(self) -> None:
        self._leaving = True
        self._changed.set()

    # --- asks ---------------------------------------------------------------------------------------

    def _take(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._answer(message, writer))
        self._asks.add(task)
        task.add_done_callback(self._asks.discard)

    async def _answer(self, message: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        n = message.pop("n", 0)
        with contextlib.suppress(ConnectionError):
            await _send(writer, n, await self._outcome(message))

    async def _outcome(self, message: dict[str, Any]) -> BaseModel:
        """What came of an ask; nothing that goes wrong here is told or logged in the words of its fault."""
        try:
            if len(self._asks) > MOST_ASKS:
                raise Overloaded("The wallet has too much to do at the moment; try again in a few seconds.")
            ask = ASKS.validate_python(message)
            if isinstance(ask, Hello) or self._vault is None:
                raise InternalError("A connection is greeted once.")
            return await self._vault.answer(ask)
        except Failure as failure:
            return refusal(failure)
        except Exception as error:
            log.error("an ask failed: %s", place(error))
            return refusal(InternalError("The wallet failed; what it began goes on. Try again in a moment."))


def _message(line: bytes) -> dict[str, Any]:
    """One line as an object. Raises ValueError."""
    try:
        message = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("no object")
    return message


async def _send(writer: asyncio.StreamWriter, n: object, answer: BaseModel) -> None:
    number = n if isinstance(n, int) else 0
    if isinstance(answer, Refusal):
        reply = Reply(n=number, refused=answer)
    else:
        reply = Reply(n=number, ok=answer.model_dump(mode="json"))
    writer.write(reply.model_dump_json().encode() + b"\n")
    await writer.drain()
