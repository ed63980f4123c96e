"""The queue as the dispatcher sees it: while the spool refuses, every call waits and is made again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from spool.errors import SpoolError
from spool.records import Delivery, Due, Lane, OpenBreaker, Settlement
from uploaders.base import Queue
from uploaders.dispatch.policy import RetryPolicy, backoff_seconds

# Being called at a time: the only way in which the dispatcher waits for a clock, so that tests can own it.

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


# Asking the spool until it answers: while its disk fails, nothing may be forgotten, and nothing done twice.

T = TypeVar("T")

SPOOL_PATIENCE = RetryPolicy(initial=0.5, maximum=30.0)
"""The spool is on this machine: it is asked again sooner than a destination."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Insisting:
    """Repeats a call to the spool, with back-off, for as long as it raises `SpoolError`."""

    clock: Callable[[], int]
    jitter: Callable[[], float]
    timer: Timer

    async def on(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        """The call's result; `what` names it in the log, once when it fails and once when it works again."""
        failures = 0
        while True:
            try:
                result = await call()
            except SpoolError as error:
                if failures == 0:
                    log.error("spool_refuses", what=what, error=type(error).__name__, message=str(error))
            else:
                if failures:
                    log.warning("spool_answers_again", what=what, failures=failures)
                return result
            # At least half the bound: with a jitter of 0 this would spin on a failing disk.
            wait = backoff_seconds(SPOOL_PATIENCE, failures, (1 + self.jitter()) / 2)
            failures += 1
            await sleep_until(self.timer, self.clock() + round(wait * 1000))


class PatientQueue:
    """A `Queue` whose calls never raise `SpoolError`; they end when the spool has answered, or are cancelled."""

    def __init__(self, queue: Queue, insisting: Insisting) -> None:
        self._queue = queue
        self._insisting = insisting

    async def due(self, destination: str, lane: Lane, *, limit: int) -> Due:
        """See `Queue.due`; the time is that of the call that is answered."""
        return await self._insisting.on(
            lambda: self._queue.due(destination, lane, now=self._insisting.clock(), limit=limit), "asking what is due"
        )

    async def settle(self, delivery: Delivery, settlement: Settlement) -> tuple[Delivery, ...]:
        """See `Queue.settle`."""
        return await self._insisting.on(lambda: self._queue.settle(delivery, settlement), "settling a delivery")

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """See `Queue.release`."""
        return await self._insisting.on(
            lambda: self._queue.release(destination, token_id, limit=limit), "releasing held deliveries"
        )

    async def held_tokens(self, destination: str) -> tuple[int | None, ...]:
        """See `Queue.held_tokens`."""
        return await self._insisting.on(lambda: self._queue.held_tokens(destination), "asking which tokens are held")

    async def open_breaker(self, destination: str) -> OpenBreaker | None:
        """See `BreakerMemory.read`."""
        return await self._insisting.on(
            lambda: self._queue.breakers.read(destination), "asking whether a destination was down"
        )

    async def keep_breaker(self, destination: str, breaker: OpenBreaker | None) -> None:
        """See `BreakerMemory.keep`."""
        await self._insisting.on(
            lambda: self._queue.breakers.keep(destination, breaker), "keeping whether a destination is down"
        )

    async def wake(self, destination: str) -> None:
        """See `Queue.wake`."""
        await self._insisting.on(
            lambda: self._queue.wake(destination, now=self._insisting.clock()), "waking a destination"
        )


# Tasks that somebody keeps: none is lost to the garbage collector, and no error of one goes unheard.


class Tasks:
    """Tasks that run beside their owner until they end or are cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> None:
        """Run it; an error that it raises is logged as a defect."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended, at most so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def cancel(self) -> None:
        """Cancel what runs and see its end."""
        while self._tasks:
            running = list(self._tasks)
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", error=type(error).__name__, exc_info=error)
