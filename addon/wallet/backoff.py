"""Who failed is tried again later, and ever later; in memory alone, so that a new start tries all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Final

LONGEST_S: Final = 86_400.0


class Backoff:
    """After one failure it is tried at the next look, then after twice `pause_s`, four times …, up to a day (s)."""

    def __init__(self, pause_s: float, clock: Callable[[], float]) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._failed: dict[Hashable, tuple[int, float]] = {}

    def ready(self, key: Hashable) -> bool:
        """Whether it is its turn."""
        _, not_before = self._failed.get(key, (0, 0.0))
        return key not in self._failed or self._clock() >= not_before

    def failed(self, key: Hashable) -> None:
        """Puts off its next turn."""
        times = self._failed.get(key, (0, 0.0))[0]
        wait_s = min(self._pause_s * 2 ** min(times, 40), LONGEST_S) if times else 0.0
        self._failed[key] = times + 1, self._clock() + wait_s

    def forget(self, key: Hashable) -> None:
        """It went well."""
        self._failed.pop(key, None)

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forgets all others."""
        self._failed = {key: value for key, value in self._failed.items() if key in keys}
