"""A probe for the benchmark: how long the node's event loop was held, in ms, into the file named by BENCH_LAG.

It runs inside the node, sleeps 1 ms at a time and notes by how much each sleep was late.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final

STEP_S: Final = 0.001
NOTED_MS: Final = 1.0


class Probe:
    """One task; it ends with the loop."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._task: asyncio.Task[None] | None = None

    def running(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(STEP_S)
            late_ms = (time.perf_counter() - before - STEP_S) * 1000
            if late_ms >= NOTED_MS:
                with self._target.open("a") as notes:
                    notes.write(f"{late_ms:.2f}\n")


addons = [Probe(Path(os.environ["BENCH_LAG"]))]
