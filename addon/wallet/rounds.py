"""Work that the wallet does once in a while, as long as it lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from addon.errors import place


async def rounds(look: Callable[[], Awaitable[None]], interval_s: float, log: logging.Logger) -> None:
    """Looks every `interval_s`, without end; a fault of ours ends one look, not the next."""
    while True:
        try:
            await look()
        except Exception as error:
            log.error("looked at again later: %s", place(error))
        await asyncio.sleep(interval_s)
