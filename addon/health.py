"""Whether the node lives, and whether it can sell: for whoever restarts it, or sends it clients.

A probe that comes every second must cost nothing and must never make a busy node look dead: what it is told
was looked at before, in the background.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mitmproxy import http

from addon import replies
from addon.calls import Call, Handler
from addon.ledger import Store
from addon.reach import Reach
from addon.treasury import Treasury

LOOK_EVERY_S: Final = 5.0


class Health:
    """`GET /health` and `GET /ready`. Both are answered while the node drains, too."""

    def __init__(
        self, store: Store, treasury: Treasury, reach: Reach, *, rate: Callable[[], bool], booked: Callable[[], bool],
        draining: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`booked`: no booking waits for the ledger. `rate`: it is known, or nothing is priced by it."""
        self._store = store
        self._treasury = treasury
        self._reach = reach
        self._rate = rate
        self._booked = booked
        self._draining = draining
        self._writable = True

    def route(self, method: str, path: str) -> Handler | None:
        """The handler of a call; None: not one of these."""
        if method not in ("GET", "HEAD"):
            return None
        return {"/health": self._alive, "/ready": self._ready}.get(path)

    async def look(self) -> None:
        """Looks once; a wallet that is gone is started again."""
        self._writable = self._store.takes_writes()
        await self._treasury.revive()
        await self._reach.look()

    def checks(self) -> dict[str, bool]:
        """What a sale needs, each by its name."""
        return {
            "ledger": self._writable and self._booked(),
            "wallet": self._treasury.connected,
            "upstream": self._reach.answered and not self._reach.is_down(),
            "rate": self._rate(),
        }

    async def _alive(self, call: Call) -> http.Response:
        return replies.answer(200, {"status": "ok"}, call.caller)

    async def _ready(self, call: Call) -> http.Response:
        checks, draining = self.checks(), self._draining()
        ready = all(checks.values()) and not draining
        told = {"ready": ready, **checks, "draining": draining}
        again = [] if ready else [("retry-after", str(int(LOOK_EVERY_S)))]
        return replies.answer(200 if ready else 503, told, call.caller, extra=again)
