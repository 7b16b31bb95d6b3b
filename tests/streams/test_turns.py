"""Bulk takes one turn of the event loop at a time, and leaves some free while transactional mail flows."""

import asyncio
from itertools import pairwise

import pytest

from streams.work import FREE, LIKELY, Turns


class Watch:
    """A monotonic clock that stands."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


async def slices(turns: Turns, workers: int, each: int) -> list[int]:
    """The number of the loop's turn at which each slice of ``workers`` ran."""
    loop, number, ran = asyncio.get_running_loop(), 0, []

    def count() -> None:
        nonlocal number
        number += 1
        loop.call_soon(count)

    async def work() -> None:
        for _ in range(each):
            await turns.next()
            ran.append(number)

    loop.call_soon(count)
    async with asyncio.timeout(10):
        await asyncio.gather(*(work() for _ in range(workers)))
    return ran


def gaps(ran: list[int]) -> list[int]:
    return [later - earlier for earlier, later in pairwise(ran)]


async def test_no_two_slices_share_a_turn() -> None:
    ran = await slices(Turns(Watch()), workers=5, each=20)
    assert len(ran) == 100
    assert min(gaps(ran)) >= 1
    assert sum(gaps(ran)) <= 110  # and none is wasted


@pytest.mark.parametrize(("later", "free"), [(0.0, FREE), (LIKELY - 0.1, FREE), (LIKELY + 0.1, 0)])
async def test_while_transactional_mail_is_likely_some_turns_are_free(later, free) -> None:
    watch = Watch()
    turns = Turns(watch)
    turns.urgent()
    watch.now += later
    found = gaps(await slices(turns, workers=3, each=10))
    assert sorted(found)[len(found) // 2] == free + 1


async def test_a_cancelled_one_takes_no_turn_and_stops_nobody() -> None:
    turns = Turns(Watch())
    await turns.next()
    given_up = asyncio.create_task(turns.next())
    after = asyncio.create_task(turns.next())
    await asyncio.sleep(0)
    given_up.cancel()
    async with asyncio.timeout(5):
        await after
