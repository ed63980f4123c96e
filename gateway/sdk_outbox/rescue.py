"""Emptying one outbox: claim a batch, make it durable, delete it there; until nothing is free any more."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from gateway.sdk_outbox.model import (
    OutboxBusy,
    OutboxState,
    OutboxStatus,
    OutboxUnusable,
    Outcome,
    Row,
    RowRefused,
    SinkUnavailable,
    Stamp,
)
from gateway.sdk_outbox.reader import OutboxReader
from gateway.sdk_outbox.sinks import RowSink
from spool.records import Clock
from uploaders.tasks import Tasks

REFUSED_MAX = 1000
"""Rows whose refusal is remembered; of more, the oldest are looked at once more."""

_log = structlog.get_logger("callspool.outbox")


class RescueObserver(Protocol):
    """Hears what becomes of rows, on the event loop."""

    def row_settled(self, path: str, outcome: Outcome, size: int) -> None:
        """A row with a payload of `size` bytes was taken, or will not be; not told of rows that wait."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left in an outbox after everything free was taken."""

    rows: int
    free_from: float | None
    """When the next of them can be taken, in seconds since the epoch."""
    obstacle: str | None
    """Why no more could be taken now; None where nothing stood in the way."""


class Rescuer:
    """Empties an outbox that is open. For the event loop."""

    def __init__(self, outbox: OutboxReader, sink: RowSink, clock: Clock, observer: RescueObserver) -> None:
        self._outbox = outbox
        self._sink = sink
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
        rows, free_from = await self._outbox.remains(self._refused)
        return Remains(rows, free_from, self._obstacle)

    async def _batch(self) -> bool:
        """Whether there was a row."""
        now = self._clock() / 1000
        batch = await self._outbox.claim(now, self._refused)
        for refused in batch.refused:
            self._remember(refused.row_id, None, refused.reason)
            self._observer.row_settled(str(self._outbox.path), Outcome.REFUSED, 0)
        rows = batch.rows
        if not rows:
            return bool(batch.refused)
        outcomes = await asyncio.gather(*(self._take(row) for row in rows))
        done = [row for row, outcome in zip(rows, outcomes, strict=True) if outcome.done]
        await self._outbox.settle(now, done, _others(rows, done))
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is not Outcome.LATER:
                self._observer.row_settled(str(self._outbox.path), outcome, row.size)
        return True

    async def _take(self, row: Row) -> Outcome:
        """What became of one row; only a cancellation is raised."""
        try:
            return await self._sink.store(row, self._outbox.copy)
        except SinkUnavailable as error:
            self._obstacle = str(error)
            return Outcome.LATER
        except OutboxBusy as error:
            self._obstacle = str(error)
            return Outcome.LATER
        except (RowRefused, OutboxUnusable) as error:
            self._remember(row.row_id, row.call_id, str(error))
            return Outcome.REFUSED

    def _remember(self, row_id: int, call_id: str | None, reason: str) -> None:
        """Refuse a row: once in the log, and not looked at again."""
        self._refused[row_id] = None
        if len(self._refused) > REFUSED_MAX:
            del self._refused[next(iter(self._refused))]
        _log.warning("outbox_row_refused", outbox=str(self._outbox.path), row=row_id, call_id=call_id, reason=reason)


def _others(rows: Collection[Row], done: Collection[Row]) -> list[Row]:
    """The rows that are not among those that are done."""
    handled = {row.row_id for row in done}
    return [row for row in rows if row.row_id not in handled]


# Watching outboxes: a look at the file's size and time now and then, and at its rows only when something changed.

LOOK_ANYWAY_SECONDS = 60.0
"""Even an outbox that seems unchanged is read so often: two writes within one tick of the file system look like one."""
PATIENCE_SECONDS = 10.0
"""After the spool could not take a row."""


class _Watched:
    """One outbox, and what is known of it. Times are seconds since the epoch."""

    def __init__(
        self, path: Path, owners: Collection[int], sink: RowSink, clock: Clock, observer: RescueObserver
    ) -> None:
        self._outbox = OutboxReader(path, owners)
        self._clock = clock
        self._observer = observer
        self._rescuer = Rescuer(self._outbox, sink, clock, self)
        self._seen: Stamp | None = None
        self._look_at = self._not_before = 0.0
        self._state, self._reason, self._rows = OutboxState.MISSING, "", 0
        self._outcomes: Counter[Outcome] = Counter()
        self.stopping = False

    def row_settled(self, path: str, outcome: Outcome, size: int) -> None:
        """Counts it, and passes it on."""
        self._outcomes[outcome] += 1
        self._observer.row_settled(path, outcome, size)

    def status(self) -> OutboxStatus:
        """How it does."""
        return OutboxStatus(str(self._outbox.path), self._state, self._reason, self._rows, dict(self._outcomes))

    async def look(self) -> None:
        """Take what is there, if anything changed since the last look. Raises nothing but a cancellation."""
        now = self._clock() / 1000
        # The clock may have been set back since: no wait is ever longer than these.
        self._look_at = min(self._look_at, now + LOOK_ANYWAY_SECONDS)
        self._not_before = min(self._not_before, now + PATIENCE_SECONDS)
        try:
            stamp = self._outbox.stamp()
            if stamp is None:
                self._seen = None
                self._rescuer.forget_refusals()
                self._become(OutboxState.MISSING)
            elif now >= (self._look_at if stamp == self._seen else self._not_before):
                await self._read(stamp)
        except OutboxBusy:
            self._look_at = 0.0
        except OutboxUnusable as error:
            self._become(OutboxState.UNUSABLE, str(error))
        except Exception as error:  # noqa: BLE001  # one outbox must not end the watch over the others
            _log.error("unexpected error with an outbox", outbox=str(self._outbox.path), exc_info=error)
            self._become(OutboxState.UNUSABLE, "an unexpected error; the log has the details")

    async def _read(self, stamp: Stamp) -> None:
        """Open it, take its rows, and let go of it."""
        if self._seen is not None and stamp.replaces(self._seen):
            self._rescuer.forget_refusals()
        # Noted before its rows are read: what is written from here on makes another difference.
        self._seen, self._look_at = stamp, self._clock() / 1000 + LOOK_ANYWAY_SECONDS
        try:
            if not await self._outbox.open(stamp):
                self._become(OutboxState.MISSING)
                return
            self._conclude(await self._rescuer.empty(lambda: not self.stopping))
        finally:
            await self._outbox.close()

    def _conclude(self, remains: Remains) -> None:
        """When to look again, and how it does."""
        self._rows = remains.rows
        if remains.free_from is not None:
            self._look_at = min(self._look_at, remains.free_from)
        if remains.obstacle is None:
            self._become(OutboxState.WATCHED)
        else:
            self._look_at = self._not_before = self._clock() / 1000 + PATIENCE_SECONDS
            self._become(OutboxState.WAITING, remains.obstacle)

    def _become(self, state: OutboxState, reason: str = "") -> None:
        """Note how it does, and say so where that changed."""
        if state in {OutboxState.MISSING, OutboxState.UNUSABLE}:
            self._rows = 0
        if (state, reason) == (self._state, self._reason):
            return
        self._state, self._reason = state, reason
        if reason:
            _log.warning("outbox_not_taken", outbox=str(self._outbox.path), state=state.value, reason=reason)
        else:
            _log.info("outbox", outbox=str(self._outbox.path), state=state.value)


class OutboxWatch:
    """Watches any number of outboxes, none of which waits for another. For the event loop."""

    def __init__(
        self,
        paths: Sequence[Path],
        interval: float,
        sink: RowSink,
        clock: Clock,
        observer: RescueObserver,
        *,
        owners: Collection[int] = (),
    ) -> None:
        self._watched = [_Watched(path, owners, sink, clock, observer) for path in paths]
        self._interval = interval
        self._stopping = asyncio.Event()
        self._tasks = Tasks()

    def start(self) -> None:
        """Look at each of them now, and from now on every interval."""
        for each in self._watched:
            self._tasks.spawn(self._watch(each))

    async def stop(self, seconds: float) -> None:
        """End with a last look, since an agent that stops too has just written its last rows.

        What is not taken within `seconds` is given up; a row that was claimed is free again after five minutes.
        """
        self._stopping.set()
        await self._tasks.wait(seconds)
        for each in self._watched:
            each.stopping = True
        await self._tasks.cancel()

    def status(self) -> tuple[OutboxStatus, ...]:
        """How each of them does."""
        return tuple(each.status() for each in self._watched)

    async def _watch(self, watched: _Watched) -> None:
        """Look again and again, and once more at the stop."""
        while not self._stopping.is_set():
            await watched.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._stopping.wait()
        await watched.look()
