"""The real parts that a node works with, as processes on loopback: a mint, a language model, the node itself.

Used by the demo, the benchmark and the tests. Each part has a folder of its own (its HOME, its log), a session
of its own, and ends when whoever started it ends, however that happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[1]
READY_S: Final = 60.0
END_S: Final = 15.0
_PR_SET_PDEATHSIG: Final = 1
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "TZ")


class PartFailed(RuntimeError):
    """A part did not come up, or ended; says which, and the end of its log."""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now, and that no outgoing connection takes meanwhile:
    systems give those to them from 32768 on."""
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _end_with_parent() -> None:
    """In the child, before it becomes the part: Linux ends it when its parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Part:
    """One process. `home` is its working directory and HOME; its output goes to `home/log`."""

    def __init__(self, name: str, command: Sequence[str], home: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.home = home
        self.log = home / "log"
        self._command = list(command)
        self._env = {k: os.environ[k] for k in _KEPT if k in os.environ} | {"HOME": str(home)} | dict(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.home, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip

    def wait_until(self, url: str, *, limit_s: float = READY_S) -> None:
        """Until a GET is answered with 200. Raises PartFailed."""
        deadline = time.monotonic() + limit_s
        with httpx.Client(trust_env=False, timeout=2) as client:
            while time.monotonic() < deadline:
                if self.returncode is not None:
                    break
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(url).status_code == 200:
                        return
                time.sleep(0.03)
        raise PartFailed(f"{self.name} did not come up (exit {self.returncode}):\n{self.logged()[-2000:]}")

    def logged(self) -> str:
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it and waits; one that does not listen is killed. Returns the exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


def mint(
    home: Path, *, fee_ppk: int = 0, port: int | None = None, changes: Mapping[str, str] | None = None
) -> tuple[Part, str]:
    """cashu's own mint (nutshell) with a Lightning backend that pays every invoice; not started yet. And its URL.

    `changes`: other settings of it than these.
    """
    at = port or free_port()
    env = {
        "CASHU_DIR": str(home / "cashu"),
        "MINT_PRIVATE_KEY": f"key of the mint in {home.name}",
        "MINT_LISTEN_HOST": "127.0.0.1",
        "MINT_LISTEN_PORT": str(at),
        "MINT_DATABASE": str(home / "mint"),
        "MINT_AUTH_DATABASE": str(home / "auth"),
        "MINT_BACKEND_BOLT11_SAT": "FakeWallet",
        "MINT_BACKEND_BOLT11_MSAT": "FakeWallet",
        "MINT_DERIVATION_PATH": "m/0'/0'/0'",
        "MINT_DERIVATION_PATH_LIST": json.dumps(["m/0'/1'/0'"]),
        "FAKEWALLET_BRR": "TRUE",
        "FAKEWALLET_DELAY_INCOMING_PAYMENT": "0",
        "FAKEWALLET_DELAY_OUTGOING_PAYMENT": "0",
        "MINT_INPUT_FEE_PPK": str(fee_ppk),
        "MINT_RATE_LIMIT": "FALSE",
        "MINT_QUOTE_BACKEND_CHECK_RATE_LIMIT": "0",
        "LOG_LEVEL": "ERROR",
        "TOR": "FALSE",
        **(changes or {}),
    }
    return Part("the mint", [sys.executable, "-m", "cashu.mint"], home, env), f"http://127.0.0.1:{at}"


def llm(home: Path, model: Path, *, name: str, embeddings: bool = False, threads: int = 2) -> tuple[Part, str]:
    """A llama.cpp server with one model; not started yet. And its address."""
    at = free_port()
    command = [sys.executable, str(ROOT / "scripts" / "llm_server.py"), str(model), name, str(at), str(threads)]
    return Part(
        "the language model", command + (["embeddings"] if embeddings else []), home, {}
    ), f"http://127.0.0.1:{at}"


def node(
    home: Path, upstream: str, env: Mapping[str, str], *, port: int | None = None, options: Sequence[str] = (),
    addon: Path | None = None,
) -> tuple[Part, str]:  # fmt: skip
    """The product by its public command; not started yet. And its address. `addon`: another place of its files."""
    at = port or free_port()
    mitmdump = Path(sys.executable).with_name("mitmdump")
    command = [str(mitmdump), "-s", str((addon or ROOT / "addon") / "routstr.py"), "--mode", f"reverse:{upstream}"]
    command += ["--listen-host", "127.0.0.1", "--listen-port", str(at), *options]
    return Part("the node", command, home, {"PYTHONUNBUFFERED": "1"} | dict(env)), f"http://127.0.0.1:{at}"
