"""A bounded pace: so many at once, then one every so often."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """`burst` at once; each is made up for after `each_s` seconds."""

    def __init__(self, burst: int, each_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._each_s = each_s
        self._clock = clock
        self._left = float(burst)
        self._counted_at = clock()

    def take(self) -> bool:
        """Whether one more may be done now; if so, it is counted."""
        if self.wait_s() > 0:
            return False
        self._left -= 1
        return True

    def wait_s(self) -> float:
        """Seconds until one more may be done; 0: now."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._counted_at) / self._each_s)
        self._counted_at = now
        return max(0.0, (1 - self._left) * self._each_s)
