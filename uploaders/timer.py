"""Being called at a time: the only way in which the dispatcher waits for a clock, so that tests can own it."""

import asyncio
from collections.abc import Callable
from typing import Protocol

LONGEST_SLEEP_SECONDS = 60.0
"""The wall clock may be set while a timer runs, and no timer should be wrong about that for longer."""

SHORTEST_SLEEP_SECONDS = 0.001


class TimerHandle(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Let it not come."""
        ...


class Timer(Protocol):
    """Calls back on the event loop."""

    def call_at(self, when: int, callback: Callable[[], None]) -> TimerHandle:
        """Call at `when` (milliseconds since the Unix epoch) or somewhat earlier; the callee looks at its clock."""
        ...


class LoopTimer:
    """The event loop's timers, set by the wall clock `clock`."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock

    def call_at(self, when: int, callback: Callable[[], None]) -> TimerHandle:
        """As `Timer.call_at` says: at the latest after a minute."""
        seconds = (when - self._clock()) / 1000
        bounded = min(max(seconds, SHORTEST_SLEEP_SECONDS), LONGEST_SLEEP_SECONDS)
        return asyncio.get_running_loop().call_later(bounded, callback)


async def sleep_until(timer: Timer, when: int) -> None:
    """Wait until about `when`. Cancelling it cancels the timer."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    handle = timer.call_at(when, lambda: None if woken.done() else woken.set_result(None))
    try:
        await woken
    finally:
        handle.cancel()
