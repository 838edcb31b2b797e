"""Work that goes on beside the requests: kept from being collected, and ended with the node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from addon.errors import place

logger = logging.getLogger("routstr")


class Background:
    """The node's own tasks. To be used on its event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Starts `work`; an end of the node cancels it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def repeat(self, step: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Does `step` again and again. One that fails is told, and done again the next time: a bug, or a full disk,
        must not end what watches over everything else."""
        self.keep(_repeated(step, every_s))

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("routstr: %s ended work in the background", place(error))


async def _repeated(step: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        try:
            await step()
        except Exception as error:
            logger.error("routstr: %s in the background; it goes on", place(error))
        await asyncio.sleep(every_s)
