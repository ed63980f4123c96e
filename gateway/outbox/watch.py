"""Watching outboxes: a look at the file's size and time now and then, and at its rows only when something changed."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import structlog

from gateway.intake.ports import Clock
from gateway.outbox.errors import OutboxBusy, OutboxUnusable
from gateway.outbox.file import OutboxFile
from gateway.outbox.proving import Stamp
from gateway.outbox.rescue import Remains, RescueObserver, Rescuer
from gateway.outbox.rows import Outcome
from gateway.outbox.status import OutboxState, OutboxStatus
from gateway.outbox.taking import Taker
from gateway.outbox.threads import in_thread

LOOK_ANYWAY_SECONDS = 60.0
"""Even an outbox that seems unchanged is read so often: two writes within one tick of the file system look like one."""
PATIENCE_SECONDS = 10.0
"""After the spool could not take a row."""

_log = structlog.get_logger("callspool.outbox")


class _Watched:
    """One outbox, and what is known of it. Times are seconds since the epoch."""

    def __init__(self, path: Path, taker: Taker, clock: Clock, observer: RescueObserver) -> None:
        self._file = OutboxFile(path)
        self._clock = clock
        self._observer = observer
        self._rescuer = Rescuer(self._file, taker, clock, self)
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
        return OutboxStatus(str(self._file.path), self._state, self._reason, self._rows, dict(self._outcomes))

    async def look(self) -> None:
        """Take what is there, if anything changed since the last look. Raises nothing but a cancellation."""
        try:
            stamp = await in_thread(self._file.stamp)
            if stamp is None:
                self._seen = None
                self._rescuer.forget_refusals()
                self._become(OutboxState.MISSING)
            elif self._clock() / 1000 >= (self._look_at if stamp == self._seen else self._not_before):
                await self._read(stamp)
        except OutboxBusy:
            self._look_at = 0.0
        except OutboxUnusable as error:
            self._become(OutboxState.UNUSABLE, str(error))
        except Exception as error:  # noqa: BLE001  # one outbox must not end the watch over the others
            _log.error("unexpected error with an outbox", outbox=str(self._file.path), exc_info=error)
            self._become(OutboxState.UNUSABLE, "an unexpected error; the log has the details")

    async def _read(self, stamp: Stamp) -> None:
        """Open it, take its rows, and let go of it."""
        if self._seen is not None and stamp.replaces(self._seen):
            self._rescuer.forget_refusals()
        # Noted before its rows are read: what is written from here on makes another difference.
        self._seen, self._look_at = stamp, self._clock() / 1000 + LOOK_ANYWAY_SECONDS
        try:
            if not await in_thread(self._file.open, stamp):
                self._become(OutboxState.MISSING)
                return
            self._conclude(await self._rescuer.empty(lambda: not self.stopping))
        finally:
            await in_thread(self._file.close)

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
            _log.warning("outbox_not_taken", outbox=str(self._file.path), state=state.value, reason=reason)
        else:
            _log.info("outbox", outbox=str(self._file.path), state=state.value)


class OutboxWatch:
    """Watches any number of outboxes, none of which waits for another. For the event loop."""

    def __init__(
        self, paths: Sequence[Path], interval: float, taker: Taker, clock: Clock, observer: RescueObserver
    ) -> None:
        self._watched = [_Watched(path, taker, clock, observer) for path in paths]
        self._interval = interval
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Look at each of them now, and from now on every interval."""
        self._tasks = [asyncio.create_task(self._watch(each)) for each in self._watched]

    async def stop(self, seconds: float) -> None:
        """End with a last look, since an agent that stops too has just written its last rows.

        What is not taken within `seconds` is given up; a row that was claimed is free again after five minutes.
        """
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for each in self._watched:
                each.stopping = True
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

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
