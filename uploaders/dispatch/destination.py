"""One destination: two lanes, a circuit breaker, refused credentials, and what each attempt means for them.

A slot of a lane is taken for the attempt alone. Its settlement is written while the slot serves the next delivery, so
that many settlements share one group commit; the lease ends when the settlement is durable.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from spool.records import (
    BreakerUpdate,
    DeadLetter,
    Delivery,
    DeliveryKey,
    Due,
    Hold,
    Lane,
    OfTenant,
    Record,
    RetryAt,
    Settlement,
)
from uploaders.base import (
    BatchUploader,
    Delivered,
    DestinationStatus,
    DispatchObserver,
    Outcome,
    Queue,
    Refused,
    Scope,
    Uploader,
)
from uploaders.dispatch.circuit_breaker import Change, CircuitBreaker, CredentialBreaker
from uploaders.dispatch.lane import (
    BATCH_BYTES,
    MOST_UNSETTLED,
    FairPrefetch,
    LaneState,
    PayloadUnreadable,
    Prefetch,
    attempt,
    attempt_many,
    outcome_label,
)
from uploaders.dispatch.policy import (
    FallbackStep,
    RetryPolicy,
    backoff_seconds,
    decide,
    defer,
    is_refusal,
    settle_too_large,
)
from uploaders.dispatch.scheduling import T, TimerHandle, Timing, retry_until_answered
from uploaders.tasks import Tasks

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DestinationPlan:
    """How to deliver to one destination."""

    uploader: Uploader
    policy: RetryPolicy
    concurrency: Mapping[Lane, int]
    """The most attempts under way at the same time in each lane; at least 1."""
    shared_token: bool = False
    """Whether all deliveries authenticate by one configured token, so that its refusal concerns them all."""
    when_too_large: tuple[FallbackStep, ...] = ()
    """What happens to a delivery that is refused for its size; without a fallback it becomes a dead letter."""
    type: str = ""
    """The kind of destination, as the configuration calls it; only shown."""
    details_at_once: Callable[[], int | None] = lambda: None
    """The most details under way at this moment, besides the concurrency limit; None: no other limit."""
    tenants: Mapping[str | None, int] = field(default_factory=dict)
    """The tenants that take turns, with their weights; none: deliveries are made in commit order."""


Begin = Callable[[Delivery], Delivery]
"""From a delivery to what its uploader is to get in this attempt."""


def unchanged(delivery: Delivery) -> Delivery:
    """As it is."""
    return delivery


class DestinationWorker:
    """Delivers to one destination. Everything happens on the event loop, in answer to an event or a timer."""

    def __init__(
        self,
        name: str,
        plan: DestinationPlan,
        queue: Queue,
        timing: Timing,
        observer: DispatchObserver,
        freed: Callable[[tuple[Delivery, ...]], None],
        pumped: Callable[[], None],
        begin: Begin = unchanged,
    ) -> None:
        self._begin = begin
        self._freed = freed
        self._name = name
        self._plan = plan
        self._queue = queue
        self._timing = timing
        self._observer = observer
        self._pumped = pumped
        self._breaker = CircuitBreaker(plan.policy, timing.jitter)
        self._saved_breaker = self._breaker.snapshot()
        """What was given to the spool to write."""
        self._breaker_is_saved = True
        """Whether that is written, or on its way."""
        self._credentials = CredentialBreaker(plan.policy)
        self._batching = plan.uploader if isinstance(plan.uploader, BatchUploader) else None
        self._lanes = {lane: LaneState(lane, plan.concurrency[lane], _prefetch_of(plan)) for lane in Lane}
        self._scheduled = False
        self._stopped = False
        self._alarm: tuple[int, TimerHandle] | None = None
        self._chores = Tasks()
        self._restored = False

    @property
    def core_idle(self) -> bool:
        """Whether no core delivery is under way, and none could be started now."""
        core = self._lanes[Lane.CORE]
        waits = not self._breaker.closed and not self._breaker.may_probe(self._timing.clock())
        return core.idle or (waits and not core.busy)

    @property
    def status(self) -> DestinationStatus:
        """How it does at this moment."""
        return DestinationStatus(
            name=self._name,
            type=self._plan.type,
            configured=True,
            up=self._breaker.closed,
            reason=self._breaker.reason,
            retry_at=self._breaker.retry_at,
            in_flight={lane: worker.running for lane, worker in self._lanes.items()},
            breaker=self._breaker.state,
            since=self._breaker.since,
            refused_tokens=self._credentials.count,
            slots={lane: self._slots(worker) for lane, worker in self._lanes.items()},
        )

    def start(self) -> None:
        """Begin with what the spool has, deliveries that were held before this process began included."""
        self._chores.spawn(self._resume())

    def offer(self, delivery: Delivery) -> None:
        """A delivery that may be sent now. Takes constant time."""
        self._lanes[delivery.lane].prefetch.offer(delivery, self._timing.clock())
        self.changed()

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """Forget deliveries that an order moved, as far as they are not being attempted, and ask anew what is due.

        The order may have taken the last delivery that needed a refused token, so these are looked at, too.
        """
        self._credentials.probe_now(self._timing.clock())
        for lane in self._lanes.values():
            lane.prefetch.withdraw(keys)
        self._ask_again()

    def attempts(self, wanted: Callable[[Record], bool]) -> bool:
        """Whether something is being attempted of a record of which this holds."""
        return any(lane.prefetch.attempts(wanted) for lane in self._lanes.values())

    def probe_tokens(self, token_ids: Collection[int | None]) -> bool:
        """Send one delivery of each of these tokens now, where it is paused; whether one of them is."""
        paused = self._credentials.probe_now(self._timing.clock(), token_ids)
        self.changed()
        return paused

    def changed(self) -> None:
        """Look for something to start, once in this turn of the event loop."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._pump)

    def retry_now(self) -> bool:
        """End every wait, by an operator's order: one delivery is sent at once, and one of each refused token.

        Success ends the outage or the pause, as ever. False where nothing waits.
        """
        now = self._timing.clock()
        waited = self._breaker.resume(now)
        waited = self._credentials.probe_now(now) or waited
        self._chores.spawn(self._save_breaker())
        if waited:
            self._chores.spawn(self._wake())
        return waited

    async def stop(self, grace: float) -> None:
        """Start nothing more, wait up to `grace` seconds for what is under way, cancel the rest, close the uploader."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm[1].cancel()
        await asyncio.gather(*(lane.stop(grace) for lane in self._lanes.values()))
        await self._chores.cancel()
        await self._plan.uploader.close()

    # Attempts ---------------------------------------------------------------------------------------------------

    def _slots(self, lane: LaneState) -> int:
        """How many attempts of this lane may be under way now. Cores are never throttled for live calls."""
        allowed = self._plan.details_at_once() if lane.lane is Lane.DETAIL else None
        return lane.limit.slots if allowed is None else min(allowed, lane.limit.slots)

    def _start_attempts(self, lane: LaneState, now: int) -> None:
        """Fill the free slots of a lane, and ask the spool for more when few deliveries are left."""
        lane.prefetch.advance(now)
        while lane.prefetch.waiting and lane.running < (slots := self._slots(lane)) and lane.unsettled < MOST_UNSETTLED:
            admitted = self._admit(lane, now)
            if admitted is None:
                break
            delivery, probe = admitted
            batch = [delivery] if probe else self._gather(lane, delivery, slots - lane.running, now)
            lane.running += 1
            if self._batching is None or len(batch) == 1:
                lane.attempts.spawn(self._deliver(lane, delivery, probe))
            else:
                lane.attempts.spawn(self._deliver_many(lane, self._batching, batch))
        if lane.prefetch.wants_filling:
            lane.queries.spawn(self._fill(lane))

    def _gather(self, lane: LaneState, first: Delivery, free: int, now: int) -> list[Delivery]:
        """`first`, and what goes with it in one batch: its share of what waits for the `free` slots."""
        batch, size = [first], first.record.raw_bytes
        if self._batching is None:
            return batch
        share = min(self._batching.batch_size, -(-(lane.prefetch.waiting + 1) // free))
        while len(batch) < share and size < BATCH_BYTES:
            admitted = self._admit(lane, now)
            if admitted is None:
                break
            batch.append(admitted[0])
            size += admitted[0].record.raw_bytes
        return batch

    def _admit(self, lane: LaneState, now: int) -> tuple[Delivery, bool] | None:
        """The next delivery to attempt, and whether it is the breaker's probe; None when none may be started.

        What needs a refused credential is held instead.
        """
        while self._restored:
            probe = not self._breaker.closed
            delivery = self._take_probe(lane, now) if probe else lane.prefetch.take()
            if delivery is None:
                return None
            reason = self._credentials.hold_reason(delivery, now)
            if reason is None:
                if probe:
                    self._breaker.probe_started()
                return delivery, probe
            lane.unsettled += 1
            lane.attempts.spawn(self._settle(lane, delivery, Hold(reason, delivery.record.token_id)))
        return None

    async def _deliver(self, lane: LaneState, delivery: Delivery, probe: bool) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            outcome = await attempt(self._plan.uploader, self._begin(delivery), cancelled_by_us=lane.stopping)
        finally:
            all_in_use = lane.running >= self._slots(lane)
            lane.running -= 1
        if not isinstance(outcome, PayloadUnreadable):
            size = delivery.record.raw_bytes
            lane.limit.attempt_ended(outcome, size=size, started=started, now=loop.time(), all_in_use=all_in_use)
        seconds = loop.time() - started
        settlement = self._finish(lane, delivery, outcome, seconds, probe=probe)
        await self._settle(lane, delivery, settlement, seconds)

    async def _deliver_many(self, lane: LaneState, uploader: BatchUploader, batch: Sequence[Delivery]) -> None:
        """One attempt for all, in one slot. The settlements are submitted together, and share a group commit."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            outcomes = await attempt_many(uploader, list(map(self._begin, batch)), cancelled_by_us=lane.stopping)
        finally:
            all_in_use = lane.running >= self._slots(lane)
            lane.running -= 1
        known = [outcome for outcome in outcomes if not isinstance(outcome, PayloadUnreadable)]
        if known:
            worst = next((one for one in known if not isinstance(one, Delivered)), known[0])
            size = sum(delivery.record.raw_bytes for delivery in batch)
            lane.limit.attempt_ended(worst, size=size, started=started, now=loop.time(), all_in_use=all_in_use)
        seconds = loop.time() - started
        for delivery, outcome in zip(batch, outcomes, strict=True):
            settlement = self._finish(lane, delivery, outcome, seconds, probe=False)
            lane.attempts.spawn(self._settle(lane, delivery, settlement, seconds))

    def _finish(
        self, lane: LaneState, delivery: Delivery, outcome: Outcome | PayloadUnreadable, seconds: float, *, probe: bool
    ) -> Settlement:
        """Decide what an attempt means, and report it; what is returned is to be written."""
        lane.unsettled += 1
        settlement = self._conclude(delivery, outcome, probe=probe)
        self.changed()
        self._observer.attempted(delivery, outcome_label(settlement, outcome), seconds)
        return settlement

    async def _settle(
        self, lane: LaneState, delivery: Delivery, settlement: Settlement, seconds: float | None = None
    ) -> None:
        took = None if seconds is None else round(seconds * 1000)
        freed = await retry_until_answered(
            self._timing,
            lambda: self._with_breaker(partial(self._queue.settle, delivery, settlement, took=took)),
            "settling a delivery",
        )
        lane.unsettled -= 1
        lane.prefetch.release(delivery.key)
        if isinstance(settlement, RetryAt):
            lane.prefetch.note_due(settlement.due_at, delivery)
        if isinstance(settlement, Hold) and not self._credentials.awaits_probe(settlement.token_id):
            self._chores.spawn(self._release_all(settlement.token_id))  # written after a release, which missed it
        if freed:
            self._freed(freed)
        self.changed()

    async def _fill(self, lane: LaneState) -> None:
        def page(limit: int, of_tenant: OfTenant | None = None) -> Awaitable[Due]:
            """What is due, of one tenant or of all."""
            now = self._timing.clock
            return retry_until_answered(
                self._timing,
                lambda: self._queue.due(self._name, lane.lane, now=now(), limit=limit, of_tenant=of_tenant),
                "asking what is due",
            )

        await lane.prefetch.fill(page)
        self.changed()

    def _conclude(self, delivery: Delivery, outcome: Outcome | PayloadUnreadable, *, probe: bool) -> Settlement:
        """Learn from an attempt and decide what is to be written."""
        now, policy = self._timing.clock(), self._plan.policy
        if isinstance(outcome, PayloadUnreadable):
            if probe:
                self._breaker.probe_abandoned()
            if outcome.lost:
                return DeadLetter(f"corrupt: {outcome.reason}")
            wait = backoff_seconds(policy, delivery.attempts, 1.0)
            return RetryAt(now + round(wait * 1000), outcome.reason, False)
        if self._plan.shared_token and isinstance(outcome, Refused) and outcome.scope is Scope.CREDENTIAL:
            outcome = replace(outcome, scope=Scope.DESTINATION)
        self._learn(delivery, outcome, now, probe=probe)
        if isinstance(outcome, Refused) and outcome.too_large and outcome.scope is Scope.RECORD:
            return settle_too_large(self._plan.when_too_large, delivery, outcome.reason)
        settlement = decide(
            outcome,
            delivery,
            now,
            policy,
            jitter=self._timing.jitter(),
            destination_succeeded_since_first_failure=self._breaker.was_revived(delivery.key)
            or min(self._breaker.last_success_at or 0, now) > (delivery.first_failed_at or now),
        )
        again_at, refusing = self._breaker.retry_at, self._breaker.refusing_everything
        return defer(settlement, outcome, now, again_at, refusing_everything=refusing)

    # Circuit breaker and credentials -----------------------------------------------------------------------------

    def _learn(self, delivery: Delivery, outcome: Outcome, now: int, *, probe: bool) -> None:
        change = self._breaker.attempt_ended(delivery.key, outcome, now, probe=probe)
        revival = self._breaker.take_revival()
        if revival is not None:
            self._chores.spawn(self._revive(revival))
        if change is not None:
            self._tell(change)
        accepted = self._credentials.attempt_ended(delivery, outcome, now)
        token_id = delivery.record.token_id
        if accepted:
            self._observer.credential_changed(self._name, _named(token_id), True, "it is accepted again")
            self._chores.spawn(self._release_all(token_id))
        elif accepted is False and isinstance(outcome, Refused):
            self._observer.credential_changed(self._name, _named(token_id), False, outcome.reason)

    def _tell(self, change: Change) -> None:
        self._observer.destination_changed(self._name, change.up, change.reason)
        if change.wake:
            self._chores.spawn(self._wake())

    def _take_probe(self, lane: LaneState, now: int) -> Delivery | None:
        """One delivery, of the core lane if it has any, and not one that failed as a probe while others wait."""
        if not self._breaker.may_probe(now):
            return None
        if lane.lane is Lane.DETAIL and self._lanes[Lane.CORE].prefetch.may_have_waiting:
            return None
        fresh = lane.prefetch.take_first(lambda delivery: not self._breaker.was_probed(delivery.key))
        if fresh is not None or lane.prefetch.wants_filling:
            return fresh
        self._breaker.forget_probed()
        return lane.prefetch.take()

    # Work beside the lanes -------------------------------------------------------------------------------------

    async def _with_breaker(self, write: Callable[[BreakerUpdate | None], Awaitable[T]]) -> T:
        """Have the breaker's state written as well, if it is not what was written last: in the same transaction."""
        snapshot = self._breaker.snapshot()
        if self._breaker_is_saved and snapshot == self._saved_breaker:
            return await write(None)
        self._saved_breaker, self._breaker_is_saved = snapshot, True
        try:
            return await write(BreakerUpdate(snapshot))
        except BaseException:
            self._breaker_is_saved = False
            raise

    async def _save_breaker(self) -> None:
        """Write the breaker's state after an order, which settles no delivery."""

        async def write(update: BreakerUpdate | None) -> None:
            if update is not None:
                await self._queue.uploader_state.keep_breaker(self._name, update.snapshot)

        await retry_until_answered(self._timing, lambda: self._with_breaker(write), "saving a circuit breaker")

    async def _revive(self, since: int) -> None:
        """Put back what a streak of refusals made dead letters, now that the destination accepts deliveries."""
        revived = await retry_until_answered(
            self._timing,
            lambda: self._queue.revive(self._name, since=since, refused=is_refusal),
            "reviving dead letters",
        )
        self._breaker.revived(delivery.key for delivery in revived)
        if revived:
            log.warning("dead_letters_revived", destination=self._name, deliveries=len(revived))
            self._ask_again()

    async def _wake(self) -> None:
        await retry_until_answered(
            self._timing, lambda: self._queue.make_due(self._name, now=self._timing.clock()), "waking a destination"
        )
        self._ask_again()

    async def _resume(self) -> None:
        """Go on where the process before this one stopped; nothing is sent until that is known."""
        saved = await retry_until_answered(
            self._timing, lambda: self._queue.uploader_state.read_breaker(self._name), "reading a circuit breaker"
        )
        if saved is not None and (change := self._breaker.restore(saved, self._timing.clock())) is not None:
            self._tell(change)
        self._saved_breaker = saved
        self._restored = True
        self.changed()
        held = await retry_until_answered(
            self._timing, lambda: self._queue.held_tokens(self._name), "asking which tokens are held"
        )
        for token_id in held:
            if self._plan.shared_token:
                await self._release_all(token_id)
            else:
                self._credentials.resume(token_id, self._timing.clock())
        self.changed()

    async def _release_all(self, token_id: int | None) -> None:
        await retry_until_answered(
            self._timing, lambda: self._queue.release(self._name, token_id), "releasing held deliveries"
        )
        self._ask_again()

    async def _release_probe(self, token_id: int | None) -> None:
        freed = await retry_until_answered(
            self._timing, lambda: self._queue.release(self._name, token_id, limit=1), "releasing a held delivery"
        )
        if self._credentials.released(token_id, freed):
            self._observer.credential_changed(self._name, _named(token_id), True, "no delivery needs it any more")
        self._freed(freed)
        self.changed()

    def _ask_again(self) -> None:
        for lane in self._lanes.values():
            lane.prefetch.ask_again()
        self.changed()

    # Events ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        now = self._timing.clock()
        for token_id in self._credentials.take_due(now):
            self._chores.spawn(self._release_probe(token_id))
        for lane in self._lanes.values():
            self._start_attempts(lane, now)
        self._set_alarm(now)
        self._pumped()

    def _set_alarm(self, now: int) -> None:
        """One timer, for the earliest of everything that time alone will make possible."""
        times = [lane.prefetch.next_due_at for lane in self._lanes.values()]
        times += [self._breaker.retry_at, self._credentials.next_probe_at]
        earliest = min((when for when in times if when is not None and when > now), default=None)
        if self._alarm is not None:
            if self._alarm[0] == earliest:
                return
            self._alarm[1].cancel()
            self._alarm = None
        if earliest is not None:
            self._alarm = (earliest, self._timing.timer.call_at(earliest, self._on_alarm))

    def _on_alarm(self) -> None:
        self._alarm = None
        self.changed()


def _prefetch_of(plan: DestinationPlan) -> Prefetch | FairPrefetch:
    return FairPrefetch(plan.tenants) if plan.tenants else Prefetch()


def _named(token_id: int | None) -> str:
    return "the configured or missing token" if token_id is None else f"token {token_id}"
