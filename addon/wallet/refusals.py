"""Tokens that a mint refused a moment ago: told so again without asking, so that a mint is not stormed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from addon.errors import Failure

KEPT_S: Final = 30.0
KEPT: Final = 2048


class Refusals:
    """The last refusals, by the row's id, each for a while."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._noted: OrderedDict[str, tuple[float, Failure]] = OrderedDict()

    def check(self, row_id: str) -> None:
        """Raises the failure that this token met a moment ago, if it did."""
        until, failure = self._noted.get(row_id, (0.0, None))
        if failure is not None and self._clock() < until:
            raise type(failure)(failure.message)

    def note(self, row_id: str, failure: Failure) -> Failure:
        """Remembers a refusal; returns it."""
        self._noted[row_id] = self._clock() + KEPT_S, failure
        while len(self._noted) > KEPT:
            self._noted.popitem(last=False)
        return failure
