"""A probe for the benchmark: each step of the node's event loop that is long, into the file named by BENCH_LAG.

It runs inside the node, and does nothing before SIGUSR1: watching costs more than a request. A line is: ms that the
step held the loop, ms by the clock, what ran. The first leaves out the time in which the thread was ready but another
program had the core, and keeps waits for disks and locks.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

NOTED_MS: Final = 1.0
SCHEDULE: Final = Path("/proc/thread-self/schedstat")


def waited_ms() -> float:
    """How long this thread has been ready without a core."""
    return int(SCHEDULE.read_text().split()[1]) / 1e6


def timed(run: Callable[[Any], None], target: Path) -> Callable[[Any], None]:
    """asyncio's way of running one step, watched."""

    def step(handle: Any) -> None:
        what, queued, began = handle._callback, waited_ms(), time.perf_counter()
        run(handle)
        clock_ms = (time.perf_counter() - began) * 1000
        if clock_ms >= NOTED_MS:
            held_ms = clock_ms - (waited_ms() - queued)
            with target.open("a") as notes:
                notes.write(f"{held_ms:.2f} {clock_ms:.2f} {getattr(what, '__self__', what)!r}\n")

    return step


class Probe:
    """Watches from the first SIGUSR1 on."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def running(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._watch)

    def _watch(self) -> None:
        handle: Any = asyncio.Handle
        handle._run = timed(handle._run, self._target)


addons = [Probe(Path(os.environ["BENCH_LAG"]))]
