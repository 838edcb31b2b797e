"""The wallet as a process of its own: started as it is or made to die, and asked line by line."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from addon.settings import Settings, wallet_environment
from addon.treasury import SOCKET_NAME, Refunded, Sent, settings_hash, wallet_home

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Home:
    """A state directory and the settings of the node that owns it."""

    state_dir: Path
    mints: tuple[str, ...]
    nsec: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def settings(self) -> Settings:
        return Settings.model_validate({"cashu_mints": self.mints, "nsec": self.nsec, "state_dir": self.state_dir})

    @property
    def path(self) -> Path:
        return wallet_home(self.state_dir)

    @property
    def log(self) -> str:
        return (self.path / "wallet.log").read_text("utf-8")

    def start(self, *death: str) -> subprocess.Popen[bytes]:
        """The wallet; with (module, function, before|after, count) it kills itself there."""
        (self.path / "empty").mkdir(mode=0o700, parents=True, exist_ok=True)
        module = ["tests.wallet.dying", *death] if death else ["addon.wallet"]
        env = {"PATH": os.environ["PATH"], "HOME": str(self.path), "PYTHONPATH": str(ROOT)}
        with (self.path / "wallet.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *module], cwd=self.path / "empty", stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, env=env | wallet_environment(self.settings),
            )  # fmt: skip

    async def listening(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it came to listen, before it ended."""
        while process.poll() is None:
            try:
                _, writer = await asyncio.open_unix_connection(self.path / SOCKET_NAME)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return True
        return False


class Lines:
    """One connection to a wallet, as `socat` would have it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._n = 0

    async def open(self, **hello: Any) -> Any:
        """Connects and says hello; returns the answer."""
        path = self._home.path / SOCKET_NAME
        self.reader, self.writer = await asyncio.open_unix_connection(path, limit=1 << 20)
        first = {"op": "hello", "role": "worker", "protocol": 1, "settings_hash": settings_hash(self._home.settings)}
        return await self.ask(first | hello)

    async def ask(self, message: dict[str, Any]) -> Any:
        """One line there, one line back; None when the other side is gone."""
        self.send(message)
        line = await self.reader.readline()
        return json.loads(line) if line else None

    def send(self, message: dict[str, Any]) -> None:
        self._n += 1
        self.writer.write(json.dumps({"n": self._n} | message).encode() + b"\n")

    def close(self) -> None:
        self.writer.close()


async def ended(process: subprocess.Popen[bytes], limit_s: float = 30.0) -> int:
    """The exit status, once it is there."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None:
        assert time.monotonic() < deadline, "the wallet does not end"
        await asyncio.sleep(0.02)
    assert process.returncode is not None
    return process.returncode


def as_token(refunded: Refunded | Sent) -> Refunded:
    """A refund of an account without a Lightning address."""
    assert isinstance(refunded, Refunded)
    return refunded
