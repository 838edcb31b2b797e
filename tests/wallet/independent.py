"""The other implementation: cashu-ts's wallet, and a mint on its cryptography, both in node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.parts.npm import NODE, env, installed

SOURCE = Path(__file__).with_name("cashu_ts")


@contextmanager
def mint(*, fee_ppk: int = 0, unit: str = "sat", version: int = 1) -> Iterator[str]:
    """The address of a mint whose keyset ids are of this version (0: `00…`, 1: `01…`)."""
    settings = env(FEE=str(fee_ppk), UNIT=unit, KEYSET_VERSION=str(version), SEED=f"{fee_ppk}{unit}{version}")
    process = subprocess.Popen(
        [NODE, "mint.mjs"], cwd=installed(SOURCE), env=settings, stdout=subprocess.PIPE, text=True
    )
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
            [NODE, "client.mjs"], cwd=installed(SOURCE), env=env(), stdin=subprocess.PIPE,
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
