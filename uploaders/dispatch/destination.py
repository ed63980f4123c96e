"""One destination: its two lanes, its breaker and its paused tokens, and what an attempt's end means for them."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from spool.records import Bury, Delivery, DeliveryKey, Hold, Lane, RetryAt, Settlement
from uploaders.base import DestinationStatus, DispatchObserver, Outcome, Queue, Refused, Scope, Uploader
from uploaders.dispatch.circuit_breaker import Change, CircuitBreaker
from uploaders.dispatch.concurrency import ConcurrencyLimit
from uploaders.dispatch.credentials import CredentialBreaker
from uploaders.dispatch.lane import LaneWorker, PayloadUnreadable
from uploaders.dispatch.policy import FallbackStep, RetryPolicy, backoff_seconds, decide, defer, settle_too_large
from uploaders.dispatch.queue_client import Insisting, PatientQueue, Tasks, TimerHandle

# Keeps a circuit breaker in the spool: read once at the start, written whenever it changed.


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


# Plain data: how to deliver to one destination.


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
    """How what is refused for its size goes on; without a step it becomes a dead letter."""
    type: str = ""
    """The kind of destination, as the configuration calls it; only shown."""
    details_at_once: Callable[[], int | None] = lambda: None
    """How many details may be under way at this moment, whatever it bears; None: as many as it bears."""


class DestinationWorker:
    """Delivers to one destination. Everything happens on the event loop, in answer to an event or a timer."""

    def __init__(
        self,
        name: str,
        plan: DestinationPlan,
        queue: Queue,
        insisting: Insisting,
        observer: DispatchObserver,
        freed: Callable[[tuple[Delivery, ...]], None],
        pumped: Callable[[], None],
    ) -> None:
        self.freed = freed
        self._name = name
        self._plan = plan
        self._queue = PatientQueue(queue, insisting)
        self._insisting = insisting
        self._observer = observer
        self._pumped = pumped
        self._breaker = CircuitBreaker(plan.policy, insisting.jitter)
        self._tokens = CredentialBreaker(plan.policy)
        self._lanes = {
            lane: LaneWorker(
                name, lane, ConcurrencyLimit(plan.concurrency[lane]), plan.uploader, self._queue, observer, self
            )
            for lane in Lane
        }
        self._scheduled = False
        self._stopped = False
        self._alarm: tuple[int, TimerHandle] | None = None
        self._chores = Tasks()
        self._keeper = BreakerKeeper(name, self._breaker, self._queue, self._chores)
        self._restored = False

    @property
    def core_idle(self) -> bool:
        """Whether no core delivery is under way, and none could be started now."""
        core = self._lanes[Lane.CORE]
        waits = not self._breaker.closed and not self._breaker.may_probe(self._insisting.clock())
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
            refused_tokens=self._tokens.count,
            slots={lane: worker.slots for lane, worker in self._lanes.items()},
        )

    def start(self) -> None:
        """Begin with what the spool has, deliveries that were held before this process began included."""
        self._chores.spawn(self._resume())

    def offer(self, delivery: Delivery) -> None:
        """A delivery that may be sent now. Takes constant time."""
        self._lanes[delivery.lane].buffer.offer(delivery, self._insisting.clock())
        self.changed()

    def withdraw(self, keys: Collection[DeliveryKey]) -> None:
        """Forget deliveries that an order moved, as far as they are not being attempted, and ask anew what is due."""
        for lane in self._lanes.values():
            lane.buffer.withdraw(keys)
        self._ask_again()

    def probe_tokens(self, token_ids: Collection[int | None]) -> bool:
        """Send one delivery of each of these tokens now, where it is paused; whether one of them is."""
        paused = self._tokens.probe_now(self._insisting.clock(), token_ids)
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
        now = self._insisting.clock()
        waited = self._breaker.resume(now)
        waited = self._tokens.probe_now(now) or waited
        self._keeper.look()
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

    # What the lanes ask ----------------------------------------------------------------------------------------

    def admit(self, lane: LaneWorker, now: int) -> tuple[Delivery, bool] | None:
        """See `LaneOwner.admit`. What is taken of a paused token is held on the way."""
        while self._restored:
            probe = not self._breaker.closed
            delivery = self._take_probe(lane, now) if probe else lane.buffer.take()
            if delivery is None:
                return None
            reason = self._tokens.hold_reason(delivery)
            if reason is None:
                if probe:
                    self._breaker.probe_started()
                return delivery, probe
            lane.settle_soon(delivery, Hold(reason, delivery.record.token_id))
        return None

    def slots_allowed(self, lane: LaneWorker) -> int | None:
        """See `LaneOwner.slots_allowed`. Cores are never held back."""
        return self._plan.details_at_once() if lane.lane is Lane.DETAIL else None

    def conclude(self, delivery: Delivery, outcome: Outcome | PayloadUnreadable, *, probe: bool) -> Settlement:
        """See `LaneOwner.conclude`."""
        now, policy = self._insisting.clock(), self._plan.policy
        if isinstance(outcome, PayloadUnreadable):
            if probe:
                self._breaker.probe_abandoned()
            if outcome.lost:
                return Bury(f"corrupt: {outcome.reason}")
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
            jitter=self._insisting.jitter(),
            destination_succeeded_since_first_failure=(self._breaker.last_success_at or 0)
            > (delivery.first_failed_at or now),
        )
        again_at = self._breaker.retry_at or now
        return defer(settlement, outcome, now, again_at, refusing_everything=self._breaker.refusing_everything)

    # Breaker and tokens ----------------------------------------------------------------------------------------

    def _learn(self, delivery: Delivery, outcome: Outcome, now: int, *, probe: bool) -> None:
        change = self._breaker.attempt_ended(delivery.key, outcome, now, probe=probe)
        self._keeper.look()
        if change is not None:
            self._tell(change)
        taken = self._tokens.attempt_ended(delivery, outcome, now)
        token_id = delivery.record.token_id
        if taken:
            self._observer.destination_changed(self._name, True, f"{_named(token_id)} is taken again")
            self._chores.spawn(self._release_all(token_id))
        elif taken is False and isinstance(outcome, Refused):
            reason = f"{_named(token_id)} is refused, its deliveries are held: {outcome.reason}"
            self._observer.destination_changed(self._name, True, reason)

    def _tell(self, change: Change) -> None:
        self._observer.destination_changed(self._name, change.up, change.reason)
        if change.wake:
            self._chores.spawn(self._wake())

    def _take_probe(self, lane: LaneWorker, now: int) -> Delivery | None:
        """One delivery, of the core lane if it has any, and not one that failed as a probe while others wait."""
        if not self._breaker.may_probe(now):
            return None
        if lane.lane is Lane.DETAIL and self._lanes[Lane.CORE].buffer.may_have_waiting:
            return None
        fresh = lane.buffer.take_first(lambda delivery: not self._breaker.was_probed(delivery.key))
        if fresh is not None or lane.buffer.wants_filling:
            return fresh
        self._breaker.forget_probed()
        return lane.buffer.take()

    # Work beside the lanes -------------------------------------------------------------------------------------

    async def _wake(self) -> None:
        await self._queue.wake(self._name)
        self._ask_again()

    async def _resume(self) -> None:
        """Go on where the process before this one stopped; nothing is sent until that is known."""
        change = await self._keeper.restore(self._insisting.clock())
        if change is not None:
            self._tell(change)
        self._restored = True
        self.changed()
        for token_id in await self._queue.held_tokens(self._name):
            if self._plan.shared_token:
                await self._release_all(token_id)
            else:
                self._tokens.resume(token_id, self._insisting.clock())
        self.changed()

    async def _release_all(self, token_id: int | None) -> None:
        await self._queue.release(self._name, token_id)
        self._ask_again()

    async def _release_probe(self, token_id: int | None) -> None:
        freed = await self._queue.release(self._name, token_id, limit=1)
        self._tokens.released(token_id, freed)
        self.freed(freed)
        self.changed()

    def _ask_again(self) -> None:
        for lane in self._lanes.values():
            lane.buffer.ask_again()
        self.changed()

    # Events ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._scheduled = False
        if self._stopped:
            return
        now = self._insisting.clock()
        for token_id in self._tokens.take_due(now):
            self._chores.spawn(self._release_probe(token_id))
        for lane in self._lanes.values():
            lane.pump(now)
        self._set_alarm(now)
        self._pumped()

    def _set_alarm(self, now: int) -> None:
        """One timer, for the earliest of everything that time alone will make possible."""
        times = [lane.buffer.next_due_at for lane in self._lanes.values()]
        times += [self._breaker.retry_at, self._tokens.next_probe_at]
        earliest = min((when for when in times if when is not None and when > now), default=None)
        if self._alarm is not None:
            if self._alarm[0] == earliest:
                return
            self._alarm[1].cancel()
            self._alarm = None
        if earliest is not None:
            self._alarm = (earliest, self._insisting.timer.call_at(earliest, self._on_alarm))

    def _on_alarm(self) -> None:
        self._alarm = None
        self.changed()


def _named(token_id: int | None) -> str:
    return "the configured or missing token" if token_id is None else f"token {token_id}"
