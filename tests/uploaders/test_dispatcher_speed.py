import asyncio
import time as wall
from collections.abc import Iterable

import pytest

from spool.records import Delivery, Due, Lane
from tests.uploaders.dispatching import POLICY, Observed, names
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.dispatcher import DestinationPlan, Dispatcher
from uploaders.due_buffer import HIGH_WATER
from uploaders.uploader import BreakerMemory, Delivered, Outcome


class InstantQueue:
    """A queue whose spool is always empty and settles at once: what is left is the dispatcher's own cost."""

    def __init__(self, breakers: BreakerMemory) -> None:
        self.breakers = breakers
        self.settled = 0
        self.done = asyncio.Event()
        self.expected = 0

    async def due(self, *_: object, **__: object) -> object:
        return Due((), None)

    async def held_tokens(self, _destination: str) -> tuple[int | None, ...]:
        return ()

    async def settle(self, _delivery: Delivery, _settlement: object) -> tuple[Delivery, ...]:
        self.settled += 1
        if self.settled == self.expected:
            self.done.set()
        return ()


@pytest.mark.slow
async def test_thousands_of_small_deliveries_a_second() -> None:
    """The dispatcher's own cost allows 3,000 small deliveries a second on one core, with room to spare."""

    class Trivial:
        async def deliver(self, _delivery: Delivery) -> Outcome:
            return Delivered()

        async def close(self) -> None:
            pass

    memory = MemoryQueue(lambda: 0)
    deliveries: list[Delivery] = []
    for call in names(HIGH_WATER):
        await memory.accept(a_post(call))
    deliveries = [entry.delivery for entry in memory.entries.values()]
    queue = InstantQueue(memory.breakers)
    plan = DestinationPlan(Trivial(), POLICY, {Lane.CORE: 16, Lane.DETAIL: 1})
    dispatcher = Dispatcher(queue, {"endpoint": plan}, lambda: 0, lambda: 0.5, Observed(), FakeTime(0))  # type: ignore[arg-type]  # two of its calls are never made
    dispatcher.start()
    await turns()
    best = 0.0
    for _ in range(3):
        best = max(best, await _rate(queue, dispatcher, deliveries))
    await dispatcher.stop(0)
    assert best > 3000, f"{best:.0f} deliveries a second"


async def _rate(queue: InstantQueue, dispatcher: Dispatcher, deliveries: Iterable[Delivery]) -> float:
    many = list(deliveries)
    queue.expected = queue.settled + len(many)
    queue.done.clear()
    started = wall.perf_counter()
    dispatcher.offer(many)
    await asyncio.wait_for(queue.done.wait(), 30)
    return len(many) / (wall.perf_counter() - started)
