"""What must be done once in a while, and never in a request's way: old rows are folded."""

from __future__ import annotations

import logging
from typing import Final

from addon.errors import Failure
from addon.ledger import FILE_NAME, fold
from addon.settings import Settings

EVERY_S: Final = 3600.0
logger = logging.getLogger("routstr")


async def housekeep(settings: Settings) -> None:
    """Once; what fails is tried again the next time."""
    try:
        await fold(settings.state_dir.resolve() / FILE_NAME, keep_days=settings.keep_days)
    except Failure as failure:
        logger.warning("routstr: old requests could not be folded: %s", failure.message)
