"""Emptying one outbox: claim a batch, make it durable, delete it there; until nothing is free any more."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway.intake.ports import Clock
from gateway.outbox.errors import OutboxBusy, OutboxUnusable, RowRefused, TakingLater
from gateway.outbox.file import OutboxFile
from gateway.outbox.rows import Outcome, Row
from gateway.outbox.taking import Taker
from gateway.outbox.threads import in_thread

REFUSED_MAX = 1000
"""Rows whose refusal is remembered; of more, the oldest are looked at once more."""

_log = structlog.get_logger("callspool.outbox")


class RescueObserver(Protocol):
    """Hears what becomes of rows, on the event loop."""

    def row_settled(self, path: str, outcome: Outcome, size: int) -> None:
        """A row with a payload of `size` bytes was taken, or will not be; not told of rows that wait."""
        ...


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left in an outbox after everything free was taken."""

    rows: int
    free_from: float | None
    """When the next of them can be taken, in seconds since the epoch."""
    obstacle: str | None
    """Why no more could be taken now; None where nothing stood in the way."""


class Rescuer:
    """Empties an outbox file that is open. For the event loop."""

    def __init__(self, file: OutboxFile, taker: Taker, clock: Clock, observer: RescueObserver) -> None:
        self._file = file
        self._taker = taker
        self._clock = clock
        self._observer = observer
        self._refused: dict[int, None] = {}
        self._obstacle: str | None = None

    def forget_refusals(self) -> None:
        """The file is another one: its ids mean other rows."""
        self._refused.clear()

    async def empty(self, go_on: Callable[[], bool]) -> Remains:
        """Take all that is free, a batch at a time, for as long as `go_on` says so. Raises `OutboxError`."""
        self._obstacle = None
        while go_on() and self._obstacle is None and await self._batch():
            pass
        left_out = tuple(self._refused)
        rows = await in_thread(self._file.count)
        free_from = await in_thread(self._file.free_from, left_out)
        return Remains(rows, free_from, self._obstacle)

    async def _batch(self) -> bool:
        """Whether there was a row."""
        now = self._clock() / 1000
        rows = await in_thread(self._file.claim, now, tuple(self._refused))
        if not rows:
            return False
        outcomes = await asyncio.gather(*(self._take(row) for row in rows))
        done = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome.done]
        await in_thread(self._file.settle, now, done, _others(rows, done))
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is not Outcome.LATER:
                self._observer.row_settled(str(self._file.path), outcome, row.size)
        return True

    async def _take(self, row: Row) -> Outcome:
        """What became of one row; only a cancellation is raised."""
        try:
            return await self._taker.take(row, self._file.copy)
        except TakingLater as error:
            self._obstacle = str(error)
            return Outcome.LATER
        except OutboxBusy as error:
            self._obstacle = str(error)
            return Outcome.LATER
        except (RowRefused, OutboxUnusable) as error:
            self._remember(row, str(error))
            return Outcome.REFUSED

    def _remember(self, row: Row, reason: str) -> None:
        """Refuse a row: once in the log, and not looked at again."""
        self._refused[row.row_id] = None
        if len(self._refused) > REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        _log.warning(
            "outbox_row_refused", outbox=str(self._file.path), row=row.row_id, call_id=row.call_id, reason=reason
        )


def _others(rows: Collection[Row], done: Collection[Row]) -> list[Row]:
    """The rows that are not among those that are done."""
    taken = {row.row_id for row in done}
    return [row for row in rows if row.row_id not in taken]
