"""Which proxies live: each holds a lock on a file of its own for as long as its process lives.

The kernel lets go of the lock when the process ends, however it ends. So whoever gets a worker's lock has
proof that the worker is dead, without clocks or heartbeats.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from addon.errors import SettingsError
from addon.ledger.ids import new_id


@dataclass(frozen=True, slots=True)
class Worker:
    """A living worker: its id, and the open file whose lock says so."""

    id: str
    path: Path
    descriptor: int

    @classmethod
    def start(cls, directory: Path) -> Worker:
        """Claims a new worker id below `directory`. Raises SettingsError when that cannot be written."""
        worker_id = new_id()
        path, hidden = directory / worker_id, directory / f".{worker_id}"
        with _usable(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            hidden.rename(path)  # seen by others only once it is locked
        return cls(worker_id, path, descriptor)

    def end(self) -> None:
        """Leaves in good order: nothing of this worker is open any more."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def bury_dead(directory: Path) -> list[Worker]:
    """The workers whose process is gone, each locked for the caller; `end()` them once cleaned up after.

    Raises SettingsError when one cannot be looked at: another user runs a node there.
    """
    seen = sorted(path for path in directory.glob("*") if not path.name.startswith("."))
    with _usable(directory):
        return [dead for path in seen if (dead := _claim_if_dead(path)) is not None]


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"STATE_DIR: {error.filename or directory} cannot be used ({error.strerror}). Whose is it?"
        ) from None


def _claim_if_dead(path: Path) -> Worker | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Worker(path.name, path, descriptor)
