"""Asking the spool until it answers: while its disk fails, nothing may be forgotten, and nothing done twice."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from spool.errors import SpoolError
from uploaders.retry import RetryPolicy, backoff_seconds
from uploaders.timer import Timer, sleep_until

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
