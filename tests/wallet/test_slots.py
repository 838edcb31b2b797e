"""Bounded work at a mint."""

from __future__ import annotations

import asyncio

import pytest

from addon.errors import Overloaded
from addon.wallet.slots import KeyedLocks, Slots

pytestmark = pytest.mark.anyio


async def test_the_queue_is_bounded_and_in_order() -> None:
    slots, order = Slots(places=1, waiting=2), []
    await slots.take()

    async def wait(name: str) -> None:
        await slots.take()
        order.append(name)

    waiting = [asyncio.create_task(wait(name)) for name in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await slots.take()
    for n in range(2):
        slots.give()
        await waiting[n]
    assert order == ["a", "b"]


async def test_one_who_gives_up_waiting_takes_no_place() -> None:
    slots = Slots(places=1, waiting=5)
    await slots.take()
    impatient, patient = asyncio.create_task(slots.take()), asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    slots.give()
    await patient


async def test_one_who_gives_up_in_the_moment_of_his_turn_passes_it_on() -> None:
    slots = Slots(places=1, waiting=5)
    await slots.take()
    impatient, patient = asyncio.create_task(slots.take()), asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    slots.give()
    impatient.cancel()
    await patient
    slots.give()
    await slots.take()


async def test_rows_of_an_earlier_life_take_places_even_beyond_the_limit() -> None:
    slots = Slots(places=1, waiting=5)
    slots.occupy()
    slots.occupy()
    waiting = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    slots.give()
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.give()
    await waiting


async def test_a_keyed_lock_is_held_by_one_and_forgotten_after_the_last() -> None:
    locks, holder, seen = KeyedLocks(), set(), []

    async def enter(name: str, key: str) -> None:
        async with locks(key):
            assert key not in holder
            holder.add(key)
            await asyncio.sleep(0)
            holder.discard(key)
            seen.append(name)

    await asyncio.gather(*[enter(name, "key") for name in "abc"], enter("x", "other"))
    assert sorted(seen) == ["a", "b", "c", "x"]
    assert not locks._locks
