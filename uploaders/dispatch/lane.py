"""One lane of one destination: prefetch and leases of what is due, its concurrency limit, and one attempt."""

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from spool import records
from spool.errors import CorruptPayload, SpoolError
from spool.records import DeadLetter, Delivery, DeliveryKey, Due, Hold, Lane, OfTenant, Redirect, Settlement
from uploaders.base import RETRY_AFTER_LIMIT_SECONDS, BatchUploader, Delivered, Outcome, RetryLater, Scope, Uploader
from uploaders.tasks import Tasks

# Concurrency limit of a lane, adaptive: additive increase, multiplicative decrease (AIMD).
#
#     throttled, or unreachable ───────────▶ half as many        at most once for what was under way together
#     answers take 3 times their usual time ▶ 3/4 as many
#     delivered, with all slots in use ─────▶ one more for each round of attempts
#
# Between 1 and the configured number, where it begins. What is usual is learned by size, since a core and a detail of
# 6 MB have little in common, and it follows slowly what lasts: an endpoint that became slower for good is not
# throttled for ever. Seconds are those of a monotonic clock.

THROTTLED_FACTOR = 0.5
SLOW_FACTOR = 0.75
SLOW_RATIO = 3.0
"""Three times the usual duration means a queue at the other end, not chance."""
UNHURRIED_SECONDS = 0.5
"""Responses within this time are never slow, whatever the usual duration."""
RECENT_WEIGHT = 0.3
"""Of the newest attempt in what is recent: one slow answer alone means nothing."""
DRIFT = 0.02
"""Of the difference, by which the usual duration follows a longer one; a shorter one is the usual one at once."""


@dataclass(slots=True)
class _Durations:
    """How long attempts of about one size take."""

    usual: float
    recent: float

    def add(self, seconds: float) -> None:
        """One more attempt."""
        self.recent += RECENT_WEIGHT * (seconds - self.recent)
        self.usual = min(seconds, self.usual + DRIFT * (seconds - self.usual))

    @property
    def slow(self) -> bool:
        """Whether attempts take much longer than usual."""
        return self.recent > max(UNHURRIED_SECONDS, SLOW_RATIO * self.usual)


@dataclass(slots=True)
class ConcurrencyLimit:
    """The slots of one lane of one destination; `most` is the configured number."""

    most: int
    _limit: float = field(init=False)
    _cut_at: float = field(init=False, default=float("-inf"))
    _durations: dict[int, _Durations] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with the configured number; only trouble reduces it."""
        self._limit = float(self.most)

    @property
    def slots(self) -> int:
        """How many attempts may be under way now, at least 1."""
        return int(self._limit)

    def attempt_ended(self, outcome: Outcome, *, size: int, started: float, now: float, all_in_use: bool) -> None:
        """Learn from an attempt of a record of `size` bytes; `all_in_use` says that no slot was free beside it."""
        if isinstance(outcome, RetryLater) and outcome.scope is Scope.DESTINATION:
            self._cut(THROTTLED_FACTOR, started, now)
        elif self._is_slow(size, now - started, delivered=isinstance(outcome, Delivered)):
            self._cut(SLOW_FACTOR, started, now)
        elif isinstance(outcome, Delivered) and all_in_use:
            self._limit = min(float(self.most), self._limit + 1 / self._limit)

    def _is_slow(self, size: int, seconds: float, *, delivered: bool) -> bool:
        """Whether attempts of this size (within a factor of 4) have become slow.

        A failure may take no time, and is never what is usual.
        """
        scale = size.bit_length() // 2
        durations = self._durations.get(scale)
        if not delivered and (durations is None or seconds < durations.usual):
            return False
        if durations is None:
            durations = self._durations[scale] = _Durations(seconds, seconds)
        durations.add(seconds)
        return durations.slow

    def _cut(self, factor: float, started: float, now: float) -> None:
        """Not for what began before the last cut: that was for the same trouble."""
        if started >= self._cut_at:
            self._limit = max(1.0, self._limit * factor)
            self._cut_at = now


# Prefetch and leases: what is due in one lane of one destination, as far as it fits into memory.
#
# A delivery is leased (claimed) from the moment it is prefetched until its settlement is durable; the spool lists it as
# due until then. As long as everything due is here, new deliveries come in without a query; once that is no longer
# known, the spool is asked for a page whenever few are left.

PAGE = 256
LOW_WATER = 128
HIGH_WATER = 1024
"""Offers beyond this are left to the spool: a backlog costs no memory."""


class Prefetch:
    """Deliveries of one lane in commit order, each under a lease."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._claimed: set[DeliveryKey] = set()
        self._attempted: dict[DeliveryKey, records.Record] = {}
        self._spool_has_more = True
        self._filling = False
        self._ended_while_filling: set[DeliveryKey] = set()
        self._last_seen = 0
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
    def waiting(self) -> int:
        """How many deliveries could be attempted now."""
        return len(self._waiting)

    @property
    def wants_filling(self) -> bool:
        """Whether the spool should be asked now."""
        return self._spool_has_more and not self._filling and len(self._waiting) < LOW_WATER

    def offer(self, delivery: Delivery, now: int) -> None:
        """A delivery that is newly ready. Takes constant time; what is claimed already is left alone."""
        if delivery.due_at > now:
            self.note_due(delivery.due_at)
            if delivery.due_at - now > RETRY_AFTER_LIMIT_SECONDS * 1000:
                self._spool_has_more = True  # no wait is so long: the clock was set back, and the spool knows better
        elif self._spool_has_more or self._filling or len(self._waiting) >= HIGH_WATER:
            self._spool_has_more = True
        else:
            self._claim(delivery)

    def ask_again(self) -> None:
        """Something in the spool may have become due without being offered."""
        self._spool_has_more = True

    def note_due(self, when: int, _delivery: Delivery | None = None) -> None:
        """Something becomes due at this time."""
        self.next_due_at = when if self.next_due_at is None else min(self.next_due_at, when)

    def advance(self, now: int) -> None:
        """Ask the spool again when what was to become due by now is not here."""
        if now < self._last_seen:
            self._spool_has_more = True  # the clock was set back: what was deferred before seems to lie far ahead
        self._last_seen = now
        if self.next_due_at is not None and self.next_due_at <= now:
            self.next_due_at = None
            self._spool_has_more = True

    async def fill(self, due: Callable[[int], Awaitable[Due]]) -> None:
        """Ask `due` for a page, and take what is not claimed."""
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
        """The first delivery, still claimed: it is attempted from now on."""
        if not self._waiting:
            return None
        delivery = self._waiting.popleft()
        self._attempted[delivery.key] = delivery.record
        return delivery

    def take_first(self, wanted: Callable[[Delivery], bool]) -> Delivery | None:
        """The first delivery of which this holds, as `take` gives it."""
        for index, delivery in enumerate(self._waiting):
            if wanted(delivery):
                del self._waiting[index]
                self._attempted[delivery.key] = delivery.record
                return delivery
        return None

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """An order moved these: forget those that wait here. What is being attempted stays claimed to its end."""
        withdrawn = {one.key for one in self._waiting if one.key in keys}
        self._waiting = deque(one for one in self._waiting if one.key not in withdrawn)
        for key in withdrawn:
            self.release(key)
        if self._filling:
            self._ended_while_filling.update(keys)

    def attempts(self, wanted: Callable[[records.Record], bool]) -> bool:
        """Whether something is being attempted of a record of which this holds."""
        return any(map(wanted, self._attempted.values()))

    def release(self, key: DeliveryKey) -> None:
        """What became of this delivery is durable: the spool names it again only if it is due again."""
        self._claimed.discard(key)
        self._attempted.pop(key, None)
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


# One attempt: whatever an uploader raises becomes a value.

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


async def attempt_many(
    uploader: BatchUploader, deliveries: Sequence[Delivery], *, cancelled_by_us: asyncio.Event
) -> Sequence[Outcome | PayloadUnreadable]:
    """Make one attempt for each. As `attempt`; one that cannot be read, or that the uploader fails over, takes the
    others out of the batch only."""
    try:
        if not any(delivery.record.damaged for delivery in deliveries):
            return await uploader.deliver_many(deliveries)
    except SpoolError as error:
        # One payload cannot be read: its own attempt says which, and what is to become of it.
        log.info("batch_taken_apart", destination=deliveries[0].destination, error=type(error).__name__)
    except asyncio.CancelledError as error:
        if cancelled_by_us.is_set():
            raise
        return [_unexpected(delivery, error) for delivery in deliveries]
    except Exception as error:  # noqa: BLE001 - as in `attempt`: the one that it failed over fails again, alone
        if len(deliveries) == 1:
            return [_unexpected(deliveries[0], error)]
        log.error("batch_taken_apart", destination=deliveries[0].destination, error=type(error).__name__)
    return [await attempt(uploader, delivery, cancelled_by_us=cancelled_by_us) for delivery in deliveries]


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
"""Attempts whose settlement is not written yet. While the spool's disk fails, at most these can be sent twice."""


BATCH_BYTES = 1 << 20
"""A batch of this size takes no more deliveries: large call logs gain nothing by it."""


class LaneState:
    """What is prefetched in one lane of a destination, and what is under way."""

    def __init__(self, lane: Lane, most: int, prefetch: "Prefetch | FairPrefetch") -> None:
        self.lane = lane
        self.prefetch = prefetch
        self.limit = ConcurrencyLimit(most)
        self.running = 0
        """Attempts under way."""
        self.unsettled = 0
        """Deliveries whose settlement is not written yet."""
        self.attempts = Tasks()
        """Attempts, and the settlements after them."""
        self.queries = Tasks()
        """Questions to the spool about what is due."""
        self.stopping = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way or not settled yet."""
        return bool(self.running or self.unsettled)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, and nothing is due."""
        return self.prefetch.idle and not self.busy

    async def stop(self, grace: float) -> None:
        """Wait up to `grace` seconds for attempts and settlements, then cancel them."""
        await self.queries.cancel()
        await self.attempts.wait(grace)
        self.stopping.set()
        await self.attempts.cancel()


def outcome_label(settlement: Settlement, outcome: Outcome | PayloadUnreadable) -> str:
    """What came of an attempt, in the words of `DispatchObserver.attempted`."""
    if isinstance(outcome, PayloadUnreadable) and outcome.lost:
        return "corrupt"
    if isinstance(settlement, records.Delivered):
        return "delivered"
    if isinstance(settlement, Hold):
        return "held"
    if isinstance(settlement, Redirect):
        return "diverted"
    return "dead" if isinstance(settlement, DeadLetter) else "retry"


# Fair queueing among tenants: a prefetch for each of them, taken from in turns by their weights.
#
# Without it, ten thousand queued deliveries of one tenant go before the next one of any other. Each tenant has pages of
# its own, so a new delivery of one with nothing queued is here at once, whatever the others have in the spool; and
# slots go to whoever was served least for its weight (stride scheduling). The order of a call's deliveries does not
# depend on this: the queue names what must wait as not ready.


class FairPrefetch:
    """As `Prefetch`, of all tenants together. `weights` holds those that may have something in the spool."""

    def __init__(self, weights: Mapping[str | None, int]) -> None:
        self._weights = weights
        self._prefetches: dict[str | None, Prefetch] = {tenant: Prefetch() for tenant in weights}
        self._served: dict[str | None, float] = dict.fromkeys(weights, 0.0)
        """For each tenant how much it was served, in deliveries for a weight of 1."""
        self._now_serving = 0.0
        self._filling = False

    @property
    def idle(self) -> bool:
        """See `Prefetch`."""
        return all(each.idle for each in self._prefetches.values())

    @property
    def may_have_waiting(self) -> bool:
        """See `Prefetch`."""
        return any(each.may_have_waiting for each in self._prefetches.values())

    @property
    def waiting(self) -> int:
        """See `Prefetch`."""
        return sum([each.waiting for each in self._prefetches.values()])

    @property
    def wants_filling(self) -> bool:
        """See `Prefetch`."""
        return not self._filling and any(each.wants_filling for each in self._prefetches.values())

    @property
    def next_due_at(self) -> int | None:
        """See `Prefetch`."""
        return min(
            (each.next_due_at for each in self._prefetches.values() if each.next_due_at is not None), default=None
        )

    def offer(self, delivery: Delivery, now: int) -> None:
        """See `Prefetch`."""
        self._of(delivery.record.tenant).offer(delivery, now)

    def ask_again(self) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.ask_again()

    def note_due(self, when: int, delivery: Delivery) -> None:
        """See `Prefetch`."""
        self._of(delivery.record.tenant).note_due(when, delivery)

    def advance(self, now: int) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.advance(now)

    async def fill(self, due: Callable[[int, OfTenant], Awaitable[Due]]) -> None:
        """See `Prefetch`: a page for each tenant that few are left of."""
        self._filling = True
        try:
            for tenant, each in list(self._prefetches.items()):
                if each.wants_filling:
                    await each.fill(partial(_page_of, due, OfTenant(tenant)))
        finally:
            self._filling = False

    def take(self) -> Delivery | None:
        """The first delivery of the tenant whose turn it is, still claimed."""
        waiting = [tenant for tenant, each in self._prefetches.items() if each.waiting]
        if not waiting:
            return None
        tenant = min(waiting, key=self._turn)
        self._now_serving = self._turn(tenant)
        self._served[tenant] = self._now_serving + 1 / self._weights.get(tenant, 1)
        return self._prefetches[tenant].take()

    def take_first(self, wanted: Callable[[Delivery], bool]) -> Delivery | None:
        """See `Prefetch`."""
        return next((found for each in self._prefetches.values() if (found := each.take_first(wanted))), None)

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.withdraw(keys)

    def attempts(self, wanted: Callable[[records.Record], bool]) -> bool:
        """See `Prefetch`."""
        return any(each.attempts(wanted) for each in self._prefetches.values())

    def release(self, key: DeliveryKey) -> None:
        """See `Prefetch`."""
        for each in self._prefetches.values():
            each.release(key)

    def _turn(self, tenant: str | None) -> float:
        """When it is this tenant's turn; who had nothing for a while has saved up no turns."""
        return max(self._served[tenant], self._now_serving)

    def _of(self, tenant: str | None) -> Prefetch:
        if tenant not in self._prefetches:
            self._prefetches[tenant] = Prefetch()
            self._served[tenant] = 0.0
        return self._prefetches[tenant]


def _page_of(due: Callable[[int, OfTenant], Awaitable[Due]], whose: OfTenant, limit: int) -> Awaitable[Due]:
    return due(limit, whose)
