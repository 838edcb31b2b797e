"""Whether the upstream can be reached: by a TCP connect at most, never by a request that nobody paid for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from addon.errors import UpstreamError

REACH_S: Final = 2.0
DOWN_S: Final = 3.0


class Reach:
    """What is known of the way to one upstream."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._down_until = 0.0
        self.answered = False
        """As of the last look."""

    async def look(self) -> bool:
        """Whether it takes a connection now; nothing is asked of it."""
        answered = False
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(REACH_S):
                _, writer = await asyncio.open_connection(self._host, self._port)
            writer.close()
            answered = True
        self.answered = answered  # until now that of the look before: who asks meanwhile must not hear "no"
        return answered

    async def check(self) -> None:
        """Before a token is spent: if the upstream cannot be reached it would have to be given back.

        Raises UpstreamError.
        """
        if self.is_down() or not await self.look():
            raise UpstreamError("The upstream of this node does not answer at the moment; nothing was taken.")

    def note_refused(self) -> None:
        """After a refused connection nothing is redeemed for a few seconds: it would have to be given back."""
        self._down_until = time.monotonic() + DOWN_S

    def is_down(self) -> bool:
        return time.monotonic() < self._down_until
