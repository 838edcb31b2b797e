"""What must be done once in a while, and never in a request's way: old rows are folded."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from addon.errors import Failure
from addon.ledger import FILE_NAME, fold
from addon.settings import Settings

EVERY_S: Final = 3600.0
logger = logging.getLogger("routstr")


async def housekeep(settings: Settings) -> None:
    """Every hour, as long as the node lives; what fails is tried again the next time."""
    ledger = settings.state_dir.resolve() / FILE_NAME
    while True:
        try:
            await fold(ledger, keep_days=settings.keep_days)
        except Failure as failure:
            logger.warning("routstr: old requests could not be folded: %s", failure.message)
        await asyncio.sleep(EVERY_S)
