"""One lane of one destination: its slots, and the way of each delivery through them.

A slot is taken for an attempt alone. What became of it is written while the slot serves the next delivery, so that
many settlements share one commit; the claim ends when that is durable.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import structlog

from spool import records
from spool.errors import CorruptPayload, SpoolError
from spool.records import Bury, Delivery, DeliveryKey, Divert, Due, Hold, Lane, RetryAt, Settlement
from uploaders.base import DispatchObserver, Outcome, RetryLater, Uploader
from uploaders.dispatch.concurrency import ConcurrencyLimit
from uploaders.dispatch.queue_client import PatientQueue, Tasks

# What is due in one lane of one destination, as far as it fits into memory, and which deliveries are claimed.
#
# A claim is held from the moment a delivery is in the buffer until what became of it is durable; the spool keeps naming
# it as due until then. As long as everything due is here, new deliveries come in without a query; once that is no
# longer known, the spool is asked for a page whenever the buffer runs low.

PAGE = 256
LOW_WATER = 128
HIGH_WATER = 1024
"""Offers beyond this are left to the spool: a backlog costs no memory."""


class Prefetch:
    """Deliveries in the order of their commits, each claimed."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._claimed: set[DeliveryKey] = set()
        self._spool_has_more = True
        self._filling = False
        self._ended_while_filling: set[DeliveryKey] = set()
        self.next_due_at: int | None = None
        """When something becomes due that is not now, as far as known."""

    @property
    def idle(self) -> bool:
        """Whether nothing is claimed here, and the spool is known to have nothing due either."""
        return not (self._claimed or self._spool_has_more or self._filling)

    @property
    def may_have_waiting(self) -> bool:
        """Whether a delivery is here, or may turn out to be."""
        return bool(self._waiting) or self._spool_has_more or self._filling

    @property
    def wants_filling(self) -> bool:
        """Whether the spool should be asked now."""
        return self._spool_has_more and not self._filling and len(self._waiting) < LOW_WATER

    def offer(self, delivery: Delivery, now: int) -> None:
        """A delivery that is newly ready. Takes constant time; what is claimed already is left alone."""
        if delivery.due_at > now:
            self.note_due(delivery.due_at)
        elif self._spool_has_more or self._filling or len(self._waiting) >= HIGH_WATER:
            self._spool_has_more = True
        else:
            self._claim(delivery)

    def ask_again(self) -> None:
        """Something in the spool may have become due without being offered."""
        self._spool_has_more = True

    def note_due(self, when: int) -> None:
        """Something becomes due at this time."""
        self.next_due_at = when if self.next_due_at is None else min(self.next_due_at, when)

    def advance(self, now: int) -> None:
        """Ask the spool again when what was to become due by now is not here."""
        if self.next_due_at is not None and self.next_due_at <= now:
            self.next_due_at = None
            self._spool_has_more = True

    async def fill(self, due: Callable[[int], Awaitable[Due]]) -> None:
        """Ask `due` for a page of so many, and take what is not claimed."""
        self._filling, self._spool_has_more, self.next_due_at = True, False, None
        limit = PAGE + len(self._claimed)
        try:
            page = await due(limit)
        except BaseException:
            self._spool_has_more = True
            raise
        else:
            self._take_page(page, limit)
        finally:
            self._filling = False
            self._ended_while_filling.clear()

    def take(self) -> Delivery | None:
        """The first delivery, still claimed."""
        return self._waiting.popleft() if self._waiting else None

    def take_first(self, wanted: Callable[[Delivery], bool]) -> Delivery | None:
        """The first delivery of which this holds, still claimed."""
        for index, delivery in enumerate(self._waiting):
            if wanted(delivery):
                del self._waiting[index]
                return delivery
        return None

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """An order moved these: forget those that wait here. What is being attempted stays claimed to its end."""
        gone = {one.key for one in self._waiting if one.key in keys}
        self._waiting = deque(one for one in self._waiting if one.key not in gone)
        for key in gone:
            self.release(key)
        if self._filling:
            self._ended_while_filling.update(keys)

    def release(self, key: DeliveryKey) -> None:
        """What became of this delivery is durable: the spool names it again only if it is due again."""
        self._claimed.discard(key)
        if self._filling:
            self._ended_while_filling.add(key)

    def _take_page(self, page: Due, limit: int) -> None:
        """A page may be older than the latest settlements: what ended while it was read is not in it again."""
        for delivery in page.deliveries:
            if delivery.key not in self._ended_while_filling:
                self._claim(delivery)
        if len(page.deliveries) >= limit:
            self._spool_has_more = True
        elif page.next_due_at is not None:
            self.note_due(page.next_due_at)

    def _claim(self, delivery: Delivery) -> None:
        if delivery.key not in self._claimed:
            self._claimed.add(delivery.key)
            self._waiting.append(delivery)


# One attempt, of which nothing escapes: whatever an uploader raises becomes a value.

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PayloadUnreadable:
    """The spool could not give the payload: nothing was learned about the destination.

    `lost` says that it never will; otherwise the spool is in trouble at the moment.
    """

    reason: str
    lost: bool


async def attempt(
    uploader: Uploader, delivery: Delivery, *, cancelled_by_us: asyncio.Event
) -> Outcome | PayloadUnreadable:
    """Make one attempt. Raises only `CancelledError`, and that only when `cancelled_by_us` is set."""
    if delivery.record.damaged:
        return PayloadUnreadable(
            f"what is stored about record {delivery.record.uid} does not match its checksum", lost=True
        )
    try:
        return await uploader.deliver(delivery)
    except CorruptPayload as error:
        return PayloadUnreadable(str(error), lost=True)
    except SpoolError as error:
        return PayloadUnreadable(f"the payload cannot be read at the moment: {type(error).__name__}", lost=False)
    except asyncio.CancelledError as error:
        if cancelled_by_us.is_set():
            raise
        return _unexpected(delivery, error)
    except Exception as error:  # noqa: BLE001 - a defect of one uploader must not stop the lane; it is logged
        return _unexpected(delivery, error)


def _unexpected(delivery: Delivery, error: BaseException) -> RetryLater:
    """Name the error and where it was raised, not its text: that may quote a header or an address."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
    log.error(
        "uploader_raised",
        destination=delivery.destination,
        record=delivery.record.uid,
        error=type(error).__name__,
        where=where,
    )
    return RetryLater(f"the uploader failed unexpectedly: {type(error).__name__}")


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

    def conclude(self, delivery: Delivery, outcome: Outcome | PayloadUnreadable, *, probe: bool) -> Settlement:
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
        limit: ConcurrencyLimit,
        uploader: Uploader,
        queue: PatientQueue,
        observer: DispatchObserver,
        owner: LaneOwner,
    ) -> None:
        self.lane = lane
        self.buffer = Prefetch()
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
        if not isinstance(outcome, PayloadUnreadable):
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


def _label(settlement: Settlement, outcome: Outcome | PayloadUnreadable) -> str:
    """What came of an attempt, in the words of `DispatchObserver.attempted`."""
    if isinstance(outcome, PayloadUnreadable) and outcome.lost:
        return "corrupt"
    if isinstance(settlement, records.Delivered):
        return "delivered"
    if isinstance(settlement, Hold):
        return "held"
    if isinstance(settlement, Divert):
        return "diverted"
    return "dead" if isinstance(settlement, Bury) else "retry"
