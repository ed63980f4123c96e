"""One lane of one destination: its slots, and the way of each delivery through them.

A slot is taken for an attempt alone. What became of it is written while the slot serves the next delivery, so that
many settlements share one commit; the claim ends when that is durable.
"""

import asyncio
from typing import Protocol

from spool import records
from spool.records import Bury, Delivery, Divert, Hold, Lane, RetryAt, Settlement
from uploaders.adaptive import AdaptiveLimit
from uploaders.attempt import Unreadable, attempt
from uploaders.background import Tasks
from uploaders.due_buffer import DueBuffer
from uploaders.patient_queue import PatientQueue
from uploaders.uploader import DispatchObserver, Outcome, Uploader

MOST_UNSETTLED = 256
"""Attempts whose end is not written yet. While the spool's disk fails, no more than these can be sent twice."""


class LaneOwner(Protocol):
    """What a lane asks of its destination."""

    def admit(self, lane: "LaneWorker", now: int) -> tuple[Delivery, bool] | None:
        """The next delivery to attempt, and whether it is a probe; None when none may be started."""
        ...

    def slots_allowed(self, lane: "LaneWorker") -> int | None:
        """How many attempts of this lane may be under way, for reasons that are ours; None: any number."""
        ...

    def conclude(self, delivery: Delivery, outcome: Outcome | Unreadable, *, probe: bool) -> Settlement:
        """Learn from an attempt and decide what is to be written."""
        ...

    def freed(self, deliveries: tuple[Delivery, ...]) -> None:
        """Deliveries, of whatever destination, that may now be sent."""
        ...

    def changed(self) -> None:
        """Something may now be possible that was not."""
        ...


class LaneWorker:
    """Starts attempts as far as there are slots. Runs on the event loop, driven by `pump`."""

    def __init__(
        self,
        name: str,
        lane: Lane,
        limit: AdaptiveLimit,
        uploader: Uploader,
        queue: PatientQueue,
        observer: DispatchObserver,
        owner: LaneOwner,
    ) -> None:
        self.lane = lane
        self.buffer = DueBuffer()
        self.running = 0
        """Attempts under way."""
        self._name = name
        self._limit = limit
        self._uploader = uploader
        self._queue = queue
        self._observer = observer
        self._owner = owner
        self._unsettled = 0
        self._deliveries = Tasks()
        self._questions = Tasks()
        self._stopping = asyncio.Event()

    @property
    def slots(self) -> int:
        """How many attempts may be under way now."""
        allowed = self._owner.slots_allowed(self)
        return self._limit.slots if allowed is None else min(allowed, self._limit.slots)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and nothing is due."""
        return self.buffer.idle and not self.busy

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way, or its end is not written yet."""
        return bool(self.running or self._unsettled)

    def pump(self, now: int) -> None:
        """Start what may be started, and ask the spool for more when little is left."""
        self.buffer.advance(now)
        while self.running < self.slots and self._unsettled < MOST_UNSETTLED:
            admitted = self._owner.admit(self, now)
            if admitted is None:
                break
            self.running += 1
            self._deliveries.spawn(self._deliver(*admitted))
        if self.buffer.wants_filling:
            self._questions.spawn(self._fill())

    def settle_soon(self, delivery: Delivery, settlement: Settlement) -> None:
        """Write the end of a delivery that was not attempted."""
        self._unsettled += 1
        self._deliveries.spawn(self._settle(delivery, settlement))

    async def stop(self, grace: float) -> None:
        """Wait up to `grace` seconds for what is under way, then cancel it."""
        await self._questions.cancel()
        await self._deliveries.wait(grace)
        self._stopping.set()
        await self._deliveries.cancel()

    async def _deliver(self, delivery: Delivery, probe: bool) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            outcome = await attempt(self._uploader, delivery, cancelled_by_us=self._stopping)
        finally:
            all_in_use = self.running >= self.slots
            self.running -= 1
        if not isinstance(outcome, Unreadable):
            size = delivery.record.raw_bytes
            self._limit.attempt_ended(outcome, size=size, started=started, now=loop.time(), all_in_use=all_in_use)
        self._unsettled += 1
        settlement = self._owner.conclude(delivery, outcome, probe=probe)
        self._owner.changed()
        self._observer.attempted(delivery, _label(settlement, outcome), loop.time() - started)
        await self._settle(delivery, settlement)

    async def _settle(self, delivery: Delivery, settlement: Settlement) -> None:
        freed = await self._queue.settle(delivery, settlement)
        self._unsettled -= 1
        self.buffer.release(delivery.key)
        if isinstance(settlement, RetryAt):
            self.buffer.note_due(settlement.due_at)
        if freed:
            self._owner.freed(freed)
        self._owner.changed()

    async def _fill(self) -> None:
        await self.buffer.fill(lambda limit: self._queue.due(self._name, self.lane, limit=limit))
        self._owner.changed()


def _label(settlement: Settlement, outcome: Outcome | Unreadable) -> str:
    """What came of an attempt, in the words of `DispatchObserver.attempted`."""
    if isinstance(outcome, Unreadable) and outcome.lost:
        return "corrupt"
    if isinstance(settlement, records.Delivered):
        return "delivered"
    if isinstance(settlement, Hold):
        return "held"
    if isinstance(settlement, Divert):
        return "diverted"
    return "dead" if isinstance(settlement, Bury) else "retry"
