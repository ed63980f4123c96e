"""Timers, and calls to the spool that are repeated with back-off until it answers."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from spool.errors import SpoolError
from spool.records import Clock
from uploaders.dispatch.policy import RetryPolicy, backoff_seconds

# Timers: the only way in which the dispatcher waits for a clock, so that tests can control it.

LONGEST_SLEEP_SECONDS = 60.0
"""The wall clock may be set while a timer runs; no timer is wrong about that for longer."""

SHORTEST_SLEEP_SECONDS = 0.001


class TimerHandle(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Keep it from being made."""


class Timer:
    """Calls back on the event loop, by the wall clock `clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def call_at(self, when: int, callback: Callable[[], None]) -> TimerHandle:
        """Call at `when` (milliseconds since the Unix epoch) or earlier: at the latest after a minute.

        So the callee looks at its clock.
        """
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


# Calls to the spool that are repeated until it answers: while its disk fails, nothing may be forgotten or done twice.

T = TypeVar("T")

SPOOL_BACK_OFF = RetryPolicy(initial=0.5, maximum=30.0)
"""The spool is on this machine: it is asked again sooner than a destination."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Time and chance as the dispatcher has them: `clock` in milliseconds since the epoch, `jitter` in [0, 1)."""

    clock: Clock
    jitter: Callable[[], float]
    timer: Timer


async def retry_until_answered(timing: Timing, call: Callable[[], Awaitable[T]], what: str) -> T:
    """Repeat a call to the spool with back-off for as long as it fails; return its result.

    `what` names the call in the log, once when it fails and once when it works again. What a defect raises is no
    reason to give up either: the delivery would stay claimed, and its lane have one place less, until a restart.
    """
    failures = 0
    while True:
        try:
            result = await call()
        except SpoolError as error:
            if failures == 0:
                log.error("spool_refuses", what=what, error=type(error).__name__, message=str(error))
        except Exception as error:  # see above; it is logged
            if failures == 0:
                log.error("spool_call_failed", what=what, error=type(error).__name__, exc_info=error)
        else:
            if failures:
                log.warning("spool_answers_again", what=what, failures=failures)
            return result
        # At least half the bound: with a jitter of 0 this would spin on a failing disk.
        wait = backoff_seconds(SPOOL_BACK_OFF, failures, (1 + timing.jitter()) / 2)
        failures += 1
        await sleep_until(timing.timer, timing.clock() + round(wait * 1000))
