"""Waiting for the ledger's write lock without stopping everybody else's streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from addon.errors import LedgerBusy

T = TypeVar("T")
RETRY_S: Final = 0.002
TRIES: Final = 1000


async def patiently(step: Callable[[], T], *, tries: int = TRIES) -> T:
    """The result of one ledger step, tried again while another process is writing.

    Raises LedgerBusy after `tries`, with nothing done.
    """
    for _ in range(tries - 1):
        try:
            return step()
        except LedgerBusy:
            await asyncio.sleep(RETRY_S)
    return step()
