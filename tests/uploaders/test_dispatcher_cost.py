"""What the dispatcher adds to a delivery, counted in steps of the event loop."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spool.records import Delivery, Due, Lane
from tests.uploaders.dispatcher_stage import POLICY, Observed, names
from tests.uploaders.fake_time import FakeTime, turns
from tests.uploaders.memory_queue import MemoryQueue, a_post
from uploaders.base import Delivered, Outcome, UploaderState
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.dispatch.lane import HIGH_WATER


class InstantQueue:
    """A queue whose spool is always empty and settles at once: what is left is the dispatcher's own cost."""

    def __init__(self, uploader_state: UploaderState, expected: int) -> None:
        self.uploader_state = uploader_state
        self.settled = 0
        self.done = asyncio.Event()
        self.expected = expected

    async def due(self, *_: object, **__: object) -> object:
        return Due((), None)

    async def held_tokens(self, _destination: str) -> tuple[int | None, ...]:
        return ()

    async def settle(self, _delivery: Delivery, *_: object, took: int | None = None) -> tuple[Delivery, ...]:
        self.settled += 1
        if self.settled == self.expected:
            self.done.set()
        return ()


class Trivial:
    """Delivers at once."""

    async def deliver(self, _delivery: Delivery) -> Outcome:
        return Delivered()

    async def close(self) -> None:
        pass


async def test_a_small_delivery_takes_few_steps_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the dispatcher itself adds to a delivery is counted in callbacks and tasks, not in time."""
    memory = MemoryQueue(lambda: 0)
    for call in names(HIGH_WATER):
        await memory.accept(a_post(call))
    queue = InstantQueue(memory.uploader_state, HIGH_WATER)
    plan = DestinationPlan(Trivial(), POLICY, {Lane.CORE: 16, Lane.DETAIL: 1})
    dispatcher = Dispatcher(queue, {"endpoint": plan}, lambda: 0, lambda: 0.5, Observed(), FakeTime(0))  # type: ignore[arg-type]  # two of its calls are never made
    dispatcher.start()
    await turns()
    loop = asyncio.get_running_loop()
    with counted(monkeypatch, loop, "call_soon") as callbacks, counted(monkeypatch, loop, "create_task") as tasks:
        dispatcher.offer([entry.delivery for entry in memory.entries.values()])
        await asyncio.wait_for(queue.done.wait(), 30)
    await dispatcher.stop(0)
    assert len(callbacks) <= 2.5 * HIGH_WATER
    assert len(tasks) <= 1.1 * HIGH_WATER


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop, method: str) -> Iterator[list[None]]:
    """Notes each call of a method of the loop."""
    calls: list[None] = []
    original = getattr(loop, method)

    def noted(*arguments: object, **keywords: object) -> object:
        calls.append(None)
        return original(*arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(loop, method, noted)
        yield calls
