"""The rate in use: how long it is used, what replaces it, what survives a restart, and what clocks do to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addon.ledger import FILE_NAME, PROXY_WAIT_MS, KeptRates, Store, audit
from addon.rates import Answers, Exchanges, Rates, Surroundings
from addon.settings import Settings
from tests.parts.exchanges import StandIn, Told

pytestmark = pytest.mark.anyio
MAX_AGE_S = 900.0


@dataclass
class Clock:
    """Both clocks and the dice. `rounds`: so many pauses are slept through, then the sleeper is stopped."""

    wall: float = 1_800_000_000.0
    steady: float = 5_000.0
    chance: float = 0.5
    slept: list[float] = field(default_factory=list)
    rounds: int = 0

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    async def pause(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.pass_s(seconds)
        if len(self.slept) >= self.rounds:
            raise asyncio.CancelledError

    def around(self) -> Surroundings:
        return Surroundings(lambda: self.wall, lambda: self.steady, self.pause, lambda: self.chance)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / FILE_NAME, wait_ms=PROXY_WAIT_MS, durable=False)
    yield opened
    opened.close()


@dataclass
class Desk:
    """A node's rates at the stand-in; `restarted()`: the next process on the same ledger."""

    exchanges: StandIn
    store: Store
    clock: Clock
    settings: Settings = field(default_factory=lambda: Settings(price_max_age=MAX_AGE_S))

    def __post_init__(self) -> None:
        asks = Exchanges(self.exchanges.environment())
        self.rates = Rates(self.settings, asks.ask, KeptRates(self.store), self.clock.around())
        self.rates.recall()

    async def hear(self, *told: Told) -> Decimal | None:
        """The rate after one more round in which the exchanges tell this."""
        self.exchanges.say(*told)
        await self.rates.refresh()
        return self.rates.current()

    def restarted(self, *, off_s: float = 0) -> Desk:
        """`off_s` by the wall's clock; the steady one begins anywhere."""
        self.clock.wall += off_s
        self.clock.steady = 17.0
        return Desk(self.exchanges, self.store, self.clock, self.settings)


@pytest.fixture
def desk(exchanges: StandIn, store: Store, clock: Clock) -> Desk:
    return Desk(exchanges, store, clock)


# --- age --------------------------------------------------------------------------------------------


async def test_there_is_no_rate_before_the_first(desk: Desk) -> None:
    assert desk.rates.current() is None
    assert desk.rates.age_s() is None


async def test_a_rate_is_used_until_it_is_too_old(desk: Desk) -> None:
    assert await desk.hear("100000") == 100_000
    desk.clock.pass_s(MAX_AGE_S)
    assert desk.rates.current() == 100_000
    desk.clock.pass_s(0.001)
    assert desk.rates.current() is None
    assert desk.rates.age_s() == pytest.approx(MAX_AGE_S + 0.001)


async def test_it_is_the_same_object_until_there_is_another(desk: Desk) -> None:
    await desk.hear("100000")
    assert desk.rates.current() is desk.rates.current()


@pytest.mark.parametrize("back_s", [1, 3600, 60 * 365 * 86_400])
async def test_a_wall_clock_set_back_makes_no_rate_younger(desk: Desk, back_s: float) -> None:
    await desk.hear("100000")
    desk.clock.pass_s(MAX_AGE_S - 1)
    desk.clock.wall -= back_s
    assert desk.rates.current() == 100_000
    desk.clock.pass_s(2)
    assert desk.rates.current() is None


async def test_a_machine_that_slept_has_no_rate(desk: Desk) -> None:
    await desk.hear("100000")
    desk.clock.wall += 8 * 3600  # the steady clock stood still
    assert desk.rates.current() is None
    assert await desk.hear("90000") == 90_000


def test_whatever_the_clocks_do_a_rate_is_never_used_too_long(store: Store) -> None:
    async def ask() -> Answers:
        return Answers(dict.fromkeys(("kraken", "coinbase"), Decimal(100_000)))

    @given(st.lists(st.tuples(st.floats(0, 500), st.floats(-5000, 5000)), max_size=8))
    @hypothesis.settings(deadline=None)
    def never(steps: list[tuple[float, float]]) -> None:
        clock, passed = Clock(), 0.0
        rates = Rates(Settings(price_max_age=MAX_AGE_S), ask, KeptRates(store), clock.around())
        asyncio.run(rates.refresh())
        assert rates.current() == 100_000
        for seconds, jump in steps:
            clock.pass_s(seconds)
            clock.wall += jump
            passed += seconds
            assert passed <= MAX_AGE_S + 0.001 or rates.current() is None

    never()


# --- what replaces it -------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["0", "-1", "NaN", "gone", b"<html>"], ids=str)
async def test_when_all_fail_the_last_rate_stays_until_it_is_too_old(desk: Desk, told: Told) -> None:
    await desk.hear("100000")
    desk.clock.pass_s(MAX_AGE_S - 1)
    assert await desk.hear(told) == 100_000
    desk.clock.pass_s(2)
    assert await desk.hear(told) is None


async def test_ten_times_the_price_from_one_exchange_changes_nothing(desk: Desk) -> None:
    assert await desk.hear("100000", "100000", "1000000") == 100_000
    assert await desk.hear("gone", "100000", "1000000") == 100_000
    desk.clock.pass_s(600)
    assert await desk.hear("gone", "gone", "1000000") == 100_000
    assert desk.rates.age_s() == 600


async def test_one_exchange_alone_is_believed_for_an_hour_after_two_agreed(desk: Desk) -> None:
    await desk.hear("100000")
    for _ in range(4):
        desk.clock.pass_s(MAX_AGE_S)
        assert await desk.hear("gone", "101000", "gone") == 101_000
    desk.clock.pass_s(1)
    assert await desk.hear("gone", "101000", "gone") == 101_000  # the rate of a second ago
    assert desk.rates.age_s() == 1
    desk.clock.pass_s(MAX_AGE_S)
    assert await desk.hear("gone", "101000", "gone") is None


async def test_one_exchange_alone_cannot_lead_the_price_away_by_steps(desk: Desk) -> None:
    await desk.hear("100000")
    assert await desk.hear("gone", "104000", "gone") == 104_000
    desk.clock.pass_s(MAX_AGE_S - 1)
    assert await desk.hear("gone", "108000", "gone") == 104_000
    desk.clock.pass_s(2)
    assert await desk.hear("gone", "108000", "gone") is None


async def test_one_exchange_alone_is_never_the_first(desk: Desk) -> None:
    assert await desk.hear("100000", "gone", "gone") is None


async def test_a_crash_that_two_exchanges_tell_is_followed(desk: Desk) -> None:
    await desk.hear("100000")
    assert await desk.hear("60000", "60100", "100000") == 60_100


# --- restarts ---------------------------------------------------------------------------------------


async def test_a_rate_survives_a_restart_with_its_age(desk: Desk) -> None:
    await desk.hear("100000.12")
    again = desk.restarted(off_s=MAX_AGE_S - 10)
    assert again.rates.current() == Decimal("100000.12")
    again.clock.pass_s(11)
    assert again.rates.current() is None
    assert audit(desk.store) == []


async def test_a_rate_from_before_a_long_pause_is_not_used(desk: Desk) -> None:
    await desk.hear("100000")
    again = desk.restarted(off_s=MAX_AGE_S + 1)
    assert again.rates.current() is None
    assert again.rates.age_s() == MAX_AGE_S + 1


async def test_a_wall_clock_set_back_after_a_restart_makes_no_rate_younger(desk: Desk) -> None:
    await desk.hear("100000")
    again = desk.restarted(off_s=MAX_AGE_S - 10)
    again.clock.wall -= 600
    again.clock.pass_s(11)
    assert again.rates.current() is None


async def test_a_kept_rate_from_the_clocks_future_is_not_used(desk: Desk) -> None:
    await desk.hear("100000")
    again = desk.restarted(off_s=-60)
    assert again.rates.current() is None
    assert await again.hear("gone", "100000", "gone") is None  # nor is it what one alone is compared to
    assert await again.hear("90000") == 90_000


async def test_what_two_agreed_on_is_remembered_behind_the_word_of_one(desk: Desk) -> None:
    await desk.hear("100000")
    await desk.hear("gone", "104000", "gone")
    again = desk.restarted(off_s=60)
    assert again.rates.current() == 104_000
    assert await again.hear("gone", "105500", "gone") == 104_000
    assert await again.hear("gone", "96000", "gone") == 96_000


async def test_a_ledger_that_is_busy_for_good_costs_the_memory_not_the_rate(desk: Desk, tmp_path: Path) -> None:
    other = Store.open(tmp_path / FILE_NAME, wait_ms=0, durable=False)
    with other.transaction():
        assert await desk.hear("100000") == 100_000
    other.close()
    assert desk.restarted().rates.current() is None


# --- a fixed price ----------------------------------------------------------------------------------


async def test_a_fixed_price_wins_and_nobody_is_asked(exchanges: StandIn, store: Store, clock: Clock) -> None:
    await Desk(exchanges, store, clock).hear("100000")
    exchanges.connected.clear()
    fixed = Desk(exchanges, store, clock, Settings(btc_usd=Decimal(50_000)))
    await fixed.rates.keep_fresh()
    await fixed.rates.first()
    clock.pass_s(10 * MAX_AGE_S)
    assert fixed.rates.current() == 50_000
    assert fixed.rates.age_s() is None
    assert not exchanges.connected


# --- again and again --------------------------------------------------------------------------------


async def rounds(desk: Desk, count: int, *told: Told) -> list[float]:
    """The pauses between so many rounds in which the exchanges tell this."""
    desk.exchanges.say(*told)
    desk.clock.slept, desk.clock.rounds = [], count
    with contextlib.suppress(asyncio.CancelledError):
        await desk.rates.keep_fresh()
    return desk.clock.slept


@pytest.mark.parametrize("chance", [0.0, 0.999])
async def test_it_is_asked_again_before_a_quarter_of_the_age(desk: Desk, chance: float) -> None:
    desk.clock.chance = chance
    slept = await rounds(desk, 3, "100000")
    assert all(MAX_AGE_S / 8 < pause < MAX_AGE_S / 4 for pause in slept)
    assert len(desk.exchanges.asked) == 9


async def test_failures_are_tried_again_soon_then_seldom(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    slept = await rounds(desk, 9, "gone")
    assert slept[0] < 10
    assert slept[:6] == sorted(slept[:6])
    assert max(slept) < MAX_AGE_S / 4
    assert len(caplog.records) == 1  # one trouble, one line
    assert (await rounds(desk, 1, "100000"))[0] > MAX_AGE_S / 8
    assert desk.rates.current() is not None


async def test_the_first_question_is_awaited_once_whatever_comes_of_it(desk: Desk) -> None:
    desk.exchanges.say("gone")
    desk.clock.rounds = 1
    asking = asyncio.ensure_future(desk.rates.keep_fresh())
    await desk.rates.first()
    assert desk.exchanges.connected
    with contextlib.suppress(asyncio.CancelledError):
        await asking


async def test_a_bug_while_asking_is_one_more_failure(store: Store, clock: Clock) -> None:
    async def ask() -> Answers:
        raise ZeroDivisionError

    rates = Rates(Settings(price_max_age=MAX_AGE_S), ask, KeptRates(store), clock.around())
    clock.rounds = 3
    with contextlib.suppress(asyncio.CancelledError):
        await rates.keep_fresh()
    assert rates.current() is None
    assert len(clock.slept) == 3
