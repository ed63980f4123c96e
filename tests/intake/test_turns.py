"""Fair queueing: who waits for whom."""

import asyncio
from collections import Counter

import pytest

from gateway.intake import turns
from gateway.intake.turns import FairQueue, Slices, Turns
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


async def _order(served: Turns, wanted: list[tuple[str, bool]]) -> list[str]:
    """In which order those get their turn who ask for it while somebody else has it."""
    order: list[str] = []

    async def take(name: str, costly: bool) -> None:
        await served.begin(name[0], costly=costly)
        order.append(name)
        served.end()

    await served.begin("holder", costly=True)
    waiting = [asyncio.create_task(take(*each)) for each in wanted]
    await asyncio.sleep(0)
    served.end()
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
    served = Turns(1)
    await served.begin("a")
    first, second, third = (asyncio.create_task(served.begin(name)) for name in "bcd")
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    served.end()
    first.cancel()
    async with asyncio.timeout(DEADLINE):
        await third
        with pytest.raises(asyncio.CancelledError):
            await first
        served.end()
        await served.begin("e")


async def test_the_event_loop_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many requests that never wait one works a slice in each iteration of the event loop, whoever else waits."""
    monkeypatch.setattr(turns, "SLICE_SECONDS", 0.0)
    slices, iteration = Slices(), 0
    worked: Counter[int] = Counter()

    async def work(sender: str) -> None:
        mine = slices.of(sender)
        for _ in range(50):
            await mine.next()
            worked[iteration] += 1

    tasks = [asyncio.create_task(work(str(number))) for number in range(20)]
    while not all(task.done() for task in tasks):
        iteration += 1
        await asyncio.sleep(0)
    assert worked.total() == 20 * 50
    assert max(worked.values()) == 1
