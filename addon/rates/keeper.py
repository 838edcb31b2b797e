"""The rate in use: asked for again before it is too old, kept across restarts, gone when it is too old.

Its age is the longer of what two clocks say since it was asked for: the steady one does not go back when the
machine's time is set, the wall's does not stop while the machine sleeps. Across a restart there is only the
wall's, and a kept rate from its future is not used.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from addon.ledger import KeptRates, Rate, patiently
from addon.rates.exchanges import Answers
from addon.rates.quotes import TRUSTED_FOR_S, decide, is_sane
from addon.settings import Settings

FIRST_RETRY_S: Final = 5.0
HANGS_S: Final = 60.0
"""More than a round takes at most: the last resort against a connection that cannot even be closed."""
logger = logging.getLogger("routstr")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Time and chance. `wall` and `steady` tell seconds; `chance` is at least 0 and less than 1."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True)
class _Held:
    """A rate, and when it was taken by the steady clock."""

    rate: Rate
    steady: float


class Rates:
    """What a bitcoin costs now. With `BTC_USD` it is that, and nobody is asked."""

    def __init__(
        self, settings: Settings, ask: Callable[[], Awaitable[Answers]], kept: KeptRates,
        around: Surroundings = Surroundings(),
    ) -> None:  # fmt: skip
        self._fixed = settings.btc_usd
        self._max_age_s = settings.price_max_age
        self._ask = ask
        self._kept = kept
        self._around = around
        self._latest: _Held | None = None
        self._agreed: _Held | None = None
        self._failures = 0
        self._told = ""
        self._asked = asyncio.Event()

    def current(self) -> Decimal | None:
        """USD per bitcoin; None: not known, or older than PRICE_MAX_AGE. Two readings of a clock, no waiting.

        The same object until there is another rate.
        """
        if self._fixed is not None:
            return self._fixed
        held = self._latest
        return None if held is None or self._age_s(held) > self._max_age_s else held.rate.usd_per_btc

    def age_s(self) -> float | None:
        """Seconds since the last rate was asked for, usable or not; None: there is none, or it is fixed."""
        return None if self._fixed is not None or self._latest is None else self._age_s(self._latest)

    def recall(self) -> None:
        """Takes up what was known before the restart."""
        if self._fixed is None:
            self._latest, self._agreed = self._recalled("latest"), self._recalled("agreed")

    async def first(self) -> None:
        """Until there is a rate, or the exchanges were asked once."""
        if self.current() is None:
            await self._asked.wait()

    async def keep_fresh(self) -> None:
        """Asks again and again, at least every quarter of PRICE_MAX_AGE, until it is cancelled."""
        while self._fixed is None:
            try:
                async with asyncio.timeout(HANGS_S):
                    await self.refresh()
            except Exception as error:
                self._failures += 1
                self._tell(f"the price of bitcoin could not be asked for: {type(error).__name__}")
            self._asked.set()
            await self._around.pause(self.wait_s())

    async def refresh(self) -> bool:
        """Asks the exchanges once; whether a rate followed. Without one the last stays, until it is too old."""
        wall, steady = self._around.wall(), self._around.steady()
        answers = await self._ask()
        decided = decide(answers.quotes, self._trusted())
        if decided is None:
            self._failures += 1
            self._tell(f"no price of bitcoin follows from the exchanges: {_said(answers)}")
            return False
        self._failures, self._told = 0, ""
        rate = Rate(decided.usd_per_btc, wall, decided.sources)
        self._latest = _Held(rate, steady)
        self._agreed = self._latest if rate.agreed else self._agreed
        await self._keep(rate)
        return True

    def wait_s(self) -> float:
        """Seconds until the next question: shorter by chance, so that nodes do not ask in step; longer and
        longer while there is no answer, but never longer than without failures."""
        longest = self._max_age_s / 4
        if self._failures:
            longest = min(longest, FIRST_RETRY_S * 2 ** min(self._failures - 1, 20))
        return longest * (0.75 + 0.2 * self._around.chance())

    def _age_s(self, held: _Held) -> float:
        return max(self._around.steady() - held.steady, self._around.wall() - held.rate.taken_at)

    def _trusted(self) -> Decimal | None:
        held = self._agreed
        return None if held is None or self._age_s(held) > TRUSTED_FOR_S else held.rate.usd_per_btc

    def _recalled(self, kind: Literal["latest", "agreed"]) -> _Held | None:
        rate = self._kept.find(kind)
        if rate is None or not is_sane(rate.usd_per_btc):
            return None
        age_s = self._around.wall() - rate.taken_at
        return _Held(rate, self._around.steady() - age_s) if age_s >= 0 else None

    async def _keep(self, rate: Rate) -> None:
        try:
            await patiently(lambda: self._kept.save(rate))
        except Exception as error:  # a full disk, say: it is a rate all the same, until the next start
            logger.warning("the price of bitcoin could not be kept: %s", type(error).__name__)

    def _tell(self, what: str) -> None:
        """Once per trouble, not once per try."""
        if what != self._told:
            self._told = what
            logger.warning("%s", what)


def _said(answers: Answers) -> str:
    prices = {name: f"{usd:f} USD" for name, usd in answers.quotes.items()}
    return ", ".join(f"{name} {said}" for name, said in sorted((prices | dict(answers.faults)).items()))
