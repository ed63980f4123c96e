"""A clock and a timer that tests own: time passes only when told to."""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from uploaders.dispatch.scheduling import Timer

TURNS = 60
"""Turns of the event loop in which everything that needs no time has happened."""
IDLE_TURNS = 3
"""After so many in a row in which nothing else was ready, nothing will be."""


@dataclass(order=True)
class Call:
    when: int
    number: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class FakeTime(Timer):
    """Milliseconds since the epoch, beginning somewhere in 2025."""

    def __init__(self, now: int = 1_750_000_000_000) -> None:
        super().__init__(self.clock)
        self.now = now
        self._calls: list[Call] = []
        self._count = 0

    def clock(self) -> int:
        return self.now

    def call_at(self, when: int, callback: Callable[[], None]) -> Call:
        self._count += 1
        call = Call(when, self._count, callback)
        heapq.heappush(self._calls, call)
        return call

    @property
    def pending(self) -> list[int]:
        """The times of the calls to come."""
        return sorted(call.when for call in self._calls if not call.cancelled)

    async def advance(self, seconds: float) -> None:
        """Let so much time pass, making each call at its time, and everything happen that follows from it."""
        end = self.now + round(seconds * 1000)
        await turns()
        while self._calls and self._calls[0].when <= end:
            call = heapq.heappop(self._calls)
            if not call.cancelled:
                self.now = max(self.now, call.when)
                call.callback()
                await turns()
        self.now = end
        await turns()


async def turns_until(condition: Callable[[], bool], most: int = 50_000) -> None:
    """Let happen what needs no time until this holds, and what follows at once; fails if it never does."""
    for _ in range(most):
        if condition():
            await turns()
            return
        await asyncio.sleep(0)
    raise AssertionError(f"it did not become true within {most} turns of the event loop")


async def turns(count: int = TURNS) -> None:
    """Let everything happen that needs no time: so many turns of the event loop, or until it has nothing left to do."""
    ready = getattr(asyncio.get_running_loop(), "_ready", None)  # asyncio's; uvloop does not show it
    idle = 0
    for _ in range(count):
        await asyncio.sleep(0)
        idle = idle + 1 if ready is not None and not ready else 0
        if idle == IDLE_TURNS:
            return
