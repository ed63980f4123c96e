"""Keeps a circuit breaker in the spool: read once at the start, written whenever it changed."""

from uploaders.background import Tasks
from uploaders.breaker import Change, CircuitBreaker
from uploaders.patient_queue import PatientQueue


class BreakerKeeper:
    """One write at a time, so that the latest state is written last; what changes meanwhile is written after it."""

    def __init__(self, name: str, breaker: CircuitBreaker, queue: PatientQueue, tasks: Tasks) -> None:
        self._name = name
        self._breaker = breaker
        self._queue = queue
        self._tasks = tasks
        self._kept = breaker.kept
        self._writing = False

    async def restore(self, now: int) -> Change | None:
        """Let the breaker go on where an earlier process stopped; None where it was closed."""
        self._kept = await self._queue.open_breaker(self._name)
        return None if self._kept is None else self._breaker.restore(self._kept, now)

    def look(self) -> None:
        """Write the breaker's state if it is not what was written last. Takes constant time."""
        if not self._writing and self._breaker.kept != self._kept:
            self._writing = True
            self._tasks.spawn(self._write())

    async def _write(self) -> None:
        """Until what is written is what is true."""
        try:
            while (kept := self._breaker.kept) != self._kept:
                await self._queue.keep_breaker(self._name, kept)
                self._kept = kept
        finally:
            self._writing = False
