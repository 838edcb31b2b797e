"""Pure work that is too long for the event loop: done beside it, so that no stream has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
LARGE_BYTES: Final = 128 << 10
"""Above it parsing a body takes more than about a millisecond."""


async def when_large(size_bytes: int, work: Callable[[], T]) -> T:
    """The result of `work`, which must touch nothing of the loop's, in a thread when its input is large."""
    if size_bytes <= LARGE_BYTES:
        return work()
    return await asyncio.to_thread(work)
