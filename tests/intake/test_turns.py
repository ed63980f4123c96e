"""Fair queueing: who waits for whom."""

import asyncio

import pytest

from gateway.intake.turns import SLICE_SECONDS, FairQueue, Slices, Turns
from tests.intake.running_intake import DEADLINE


def test_senders_are_served_in_turn() -> None:
    """A sender with many items waits for one of each other sender between two of its own, which keep their order."""
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        queue.put(item[0], item)
    queue.remove("c", "c1")
    assert queue.first() == "a1"
    assert [queue.take() for _ in range(len(queue))] == ["a1", "b1", "a2", "b2", "a3"]
    assert not queue


async def _order(turns: Turns, wanted: list[tuple[str, bool]]) -> list[str]:
    """In which order those get their turn who ask for it while somebody else has it."""
    order: list[str] = []

    async def take(name: str, costly: bool) -> None:
        await turns.begin(name[0], costly=costly)
        order.append(name)
        turns.end()

    await turns.begin("holder", costly=True)
    waiting = [asyncio.create_task(take(*each)) for each in wanted]
    await asyncio.sleep(0)
    turns.end()
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*waiting)
    return order


async def test_what_is_costly_is_one_sender_among_two() -> None:
    """However many names costly work comes under, what is not costly waits for one of it at most."""
    costly = [(f"{number}x", True) for number in range(6)]
    assert await _order(Turns(1), [*costly, ("a", False), ("b", False)]) == [
        "a",
        "0x",
        "b",
        *(f"{n}x" for n in range(1, 6)),
    ]


async def test_a_turn_that_is_not_waited_for_goes_to_the_next() -> None:
    """Who is cancelled while it waits, or in the moment in which its turn begins, keeps nobody waiting."""
    turns = Turns(1)
    await turns.begin("a")
    first, second, third = (asyncio.create_task(turns.begin(name)) for name in "bcd")
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    turns.end()
    first.cancel()
    async with asyncio.timeout(DEADLINE):
        await third
        with pytest.raises(asyncio.CancelledError):
            await first
        turns.end()
        await turns.begin("e")


async def test_the_event_loop_is_given_back() -> None:
    """Of many requests that never wait one works at a time, and everything else goes on between two slices."""
    slices, working, ended = Slices(), 20, 0

    async def work(sender: str) -> None:
        nonlocal ended
        mine = slices.of(sender)
        for _ in range(1_000):
            await mine.next()
            sum(range(1_000))
        ended += 1

    tasks = [asyncio.create_task(work(str(number))) for number in range(working)]
    await asyncio.sleep(0)
    loop, longest = asyncio.get_running_loop(), 0.0
    while ended < working:
        began = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - began)
    await asyncio.gather(*tasks)
    assert longest < working * SLICE_SECONDS
