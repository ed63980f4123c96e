"""Circuit breakers of destinations and of credentials: state machines without I/O that learn from every attempt.

That of a destination:

    CLOSED ── RetryLater(DESTINATION), or N deliveries failing in a row ──▶ OPEN (backing off) ─┐
    CLOSED ── Refused(DESTINATION), or M deliveries refused in a row ─────▶ OPEN (paused) ──────┤
      ▲                                                                                         │ at `retry_at`
      └──── the probe is answered ──── HALF_OPEN: one delivery is sent, the probe ◀─────────────┘
                                            └──── it fails: OPEN again, until a later `retry_at`

Only a probe closes it: what was sent before it opened may still succeed, and would break a Retry-After. All times
are milliseconds since the Unix epoch.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from spool.records import BreakerSnapshot, Delivery, DeliveryKey
from uploaders.base import RETRY_AFTER_LIMIT_SECONDS, BreakerState, Delivered, Outcome, Refused, RetryLater, Scope
from uploaders.dispatch.policy import RetryPolicy, backoff_seconds, probe_seconds

MOST_REVIVED = 10_000
"""Keys of revived deliveries that are remembered."""


class Cause(StrEnum):
    """Why it opened. The values are stored in the spool."""

    BACKING_OFF = "backing_off"
    """The destination fails: probed after a jittered, growing wait, or when it asked to be."""
    PAUSED = "paused"
    """It rejects everything: probed after minutes."""
    SUSPECTED = "suspected"
    """It is closed, but what came last was rejected: the records may be at fault, or the address."""

    @property
    def words(self) -> str:
        """For people."""
        return self.value.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Change:
    """A destination began or stopped accepting deliveries. `wake`: deferred deliveries become due."""

    up: bool
    reason: str
    wake: bool = False


class CircuitBreaker:
    """The breaker of one destination, for both of its lanes."""

    def __init__(self, policy: RetryPolicy, jitter: Callable[[], float]) -> None:
        self.reason = ""
        self.since: int | None = None
        """When it opened; None while it is closed."""
        self.retry_at: int | None = None
        self.last_success_at: int | None = None
        self._cause: Cause | None = None
        self._policy = policy
        self._jitter = jitter
        self._probes = 0
        self._probe_under_way = False
        self._probed: set[DeliveryKey] = set()
        self._failed: set[DeliveryKey] = set()
        self._refused: set[DeliveryKey] = set()
        self._missed: set[DeliveryKey] = set()
        """Of the refused ones, those whose refusal may mean the address."""
        self._missed_before = False
        """Whether an earlier process saw such a one in this streak."""
        self._streak_began: int | None = None
        """When the first one of the refused in a row was refused."""
        self._revival: int | None = None
        self._revived: set[DeliveryKey] = set()
        self._opened_by_records = False
        self._woken_at: int | None = None

    @property
    def closed(self) -> bool:
        """Whether deliveries are started without restraint."""
        return self._cause is None

    @property
    def state(self) -> BreakerState:
        """Closed, open or half open."""
        if self.closed:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probe_under_way else BreakerState.OPEN

    def snapshot(self) -> BreakerSnapshot | None:
        """What a restart must know; None while it is closed, and the last delivery was not refused."""
        if self._cause is None or self.since is None or self.retry_at is None:
            if self._streak_began is None:
                return None
            missed = int(bool(self._missed) or self._missed_before)
            return BreakerSnapshot(Cause.SUSPECTED, "", self._streak_began, self._streak_began, missed)
        return BreakerSnapshot(self._cause, self.reason, self.since, self.retry_at, self._probes)

    def restore(self, saved: BreakerSnapshot, now: int) -> Change | None:
        """Resume the state of an earlier process; None where it was closed, and is to know of a streak of refusals.

        Back-off keeps its time, as far as that can be true: a clock may have been set back. A pause is probed at once,
        since whoever corrects an address or a token restarts, and need not wait.
        """
        if saved.cause == Cause.SUSPECTED:
            self._streak_began, self._missed_before = min(saved.since, now), saved.probes > 0
            return None
        self._cause = Cause.BACKING_OFF if saved.cause == Cause.BACKING_OFF else Cause.PAUSED
        self.reason, self._probes = saved.reason, saved.probes
        self.since = min(saved.since, now)
        if self._cause is Cause.PAUSED:
            self._streak_began, self._opened_by_records = self.since, True
        longest = now + math.ceil(max(self._policy.maximum, RETRY_AFTER_LIMIT_SECONDS) * 1000)
        self.retry_at = now if self._cause is Cause.PAUSED else min(saved.retry_at, longest)
        return Change(False, f"{self._cause.words}, as before the restart: {self.reason}")

    def resume(self, now: int) -> bool:
        """End the wait by an operator's order: the next delivery is the probe. False where it is closed anyway."""
        if self.closed:
            return False
        self.retry_at, self._probes = now, 0
        self._probed.clear()
        return True

    def may_probe(self, now: int) -> bool:
        """Whether one delivery may be started to find out if the destination takes any."""
        if self.retry_at is not None and not self.closed:
            # The clock may have been set back since: no wait is ever longer than this.
            longest = math.ceil(max(self._policy.maximum, self._policy.probe_maximum, RETRY_AFTER_LIMIT_SECONDS) * 1000)
            self.retry_at = min(self.retry_at, now + longest)
        return not self._probe_under_way and self.retry_at is not None and now >= self.retry_at

    def was_probed(self, key: DeliveryKey) -> bool:
        """Whether this delivery was a failed probe already: another one should have its turn."""
        return key in self._probed

    def forget_probed(self) -> None:
        """Begin a new round, every delivery having had its turn."""
        self._probed.clear()

    def probe_started(self) -> None:
        """A delivery was started though the breaker is open."""
        self._probe_under_way = True

    def probe_abandoned(self) -> None:
        """The probe ended without saying anything about the destination; another one may follow at once."""
        self._probe_under_way = False

    @property
    def refusing_everything(self) -> bool:
        """Whether so many were refused in a row that a refusal says nothing about its record."""
        many = len(self._refused) >= self._policy.refusals_before_pause
        paused = self._cause is Cause.PAUSED and self._opened_by_records
        return many or paused or len(self._missed) >= self._policy.misses_before_pause

    def take_revival(self) -> int | None:
        """Since when refused records became dead letters by a streak that has now ended: they come back, once.

        A verdict about a record needs evidence that the address works: a success after it. The records of a streak had
        none, if the streak was long or may have meant the address.
        """
        revival, self._revival = self._revival, None
        return revival

    def revived(self, keys: Iterable[DeliveryKey]) -> None:
        """These came back: if they are refused again, although others were accepted, that is final."""
        if len(self._revived) > MOST_REVIVED:
            self._revived.clear()
        self._revived.update(keys)

    def was_revived(self, key: DeliveryKey) -> bool:
        """Whether this one came back because others were accepted: there is no need for more evidence."""
        return key in self._revived

    def attempt_ended(self, key: DeliveryKey, outcome: Outcome, now: int, *, probe: bool) -> Change | None:
        """Learn from an attempt; returns the change of state, if there is one."""
        if probe:
            self._probe_under_way = False
        if isinstance(outcome, Delivered):
            self.last_success_at = now
            self._failed.clear()
            self._end_streak()
            return self._close(now) if probe else None
        cause = self._blame(key, outcome)
        if self._refused and self._streak_began is None:
            self._streak_began = now
        if cause is None and self.refusing_everything:
            # At a wrong address a detail's "not found" is no sign of life: only a delivery closes it again.
            cause = Cause.PAUSED
        if cause is None:
            return self._close(now) if probe else None
        if probe:
            self._probed.add(key)
        after = outcome.after_seconds if isinstance(outcome, RetryLater) else None
        return self._open(cause, outcome, after or 0.0, now, probe=probe)

    def _blame(self, key: DeliveryKey, outcome: RetryLater | Refused) -> Cause | None:
        """Why this failure opens the breaker; None where it does not."""
        if isinstance(outcome, Refused):
            if outcome.scope is Scope.DESTINATION:
                return Cause.PAUSED
            if outcome.scope is Scope.RECORD and not outcome.too_large and key not in self._revived:
                self._refused.add(key)
                if outcome.maybe_address:
                    self._missed.add(key)
            return None
        if outcome.scope is Scope.DESTINATION:
            return Cause.BACKING_OFF
        if outcome.give_up_after_seconds is not None:
            return None
        self._failed.add(key)
        many = len(self._failed) >= self._policy.failures_before_back_off
        return Cause.BACKING_OFF if many or not self.closed else None

    def _open(
        self, cause: Cause, outcome: RetryLater | Refused, after: float, now: int, *, probe: bool
    ) -> Change | None:
        if not self.closed and not probe:
            # Sent before it opened: no news, except that a longer wait is asked for.
            self.retry_at = max(self.retry_at or 0, now + math.ceil(after * 1000))
            return None
        if self.closed:
            self._opened_by_records = outcome.scope is not Scope.DESTINATION
            self.since = now
            if self._opened_by_records and cause is Cause.PAUSED and self._streak_began is not None:
                self.since = min(now, self._streak_began)  # a restart must know what is to come back
        previous, self._cause, self.reason = self._cause, cause, outcome.reason
        self._probes = self._probes + 1 if previous is cause else 0
        self.retry_at = now + math.ceil(max(self._wait_seconds(), after) * 1000)
        return None if previous is cause else Change(False, f"{cause.words}: {self.reason}")

    def _end_streak(self) -> None:
        """The destination accepted a delivery: what it refused before may have been refused for another reason."""
        if self._missed or self._missed_before or (self._cause is Cause.PAUSED and self._opened_by_records):
            self._revival = self._streak_began
        self._streak_began, self._missed_before = None, False
        self._refused.clear()
        self._missed.clear()

    def _wait_seconds(self) -> float:
        """How long until the next probe."""
        if self._cause is Cause.PAUSED:
            return probe_seconds(self._policy, self._probes)
        return backoff_seconds(self._policy, self._probes, self._jitter())

    def _close(self, now: int) -> Change:
        """Make deferred deliveries due, so that the end of an outage costs no waiting.

        Not again within the longest wait when records failed by themselves: a few bad ones at the head of the queue
        would be woken by every success, and open it again each time.
        """
        # Not where it lies ahead: the clock was set back since.
        recently = self._woken_at is not None and 0 <= now - self._woken_at < self._policy.maximum * 1000
        wake = not (self._opened_by_records and recently)
        if wake:
            self._woken_at = now
        self._cause, self.reason, self.since, self.retry_at = None, "", None, None
        self._probes = 0
        self._probed.clear()
        self._failed.clear()
        return Change(True, "deliveries are accepted again", wake)


# Circuit breakers of credentials: which tokens a destination refuses, and when each is probed. No I/O.
#
# Deliveries of a refused token are held in the spool as they become due. When a probe is due, one of them is released
# and sent; when it is accepted, all are. Other tokens are not affected. Times are milliseconds since the Unix epoch.


@dataclass(slots=True)
class _Pause:
    reason: str
    retry_at: int | None
    """When the next probe is to be released; None while nothing is held: the next due delivery is the probe."""
    probes: int = 0
    probe: DeliveryKey | None = None


MOST_UNNEEDED = 100
"""Refused tokens that are remembered although no delivery needs them: whoever posts may invent any number."""


class CredentialBreaker:
    """The refused tokens of one destination; None stands for deliveries without a token."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._pauses: dict[int | None, _Pause] = {}

    @property
    def next_probe_at(self) -> int | None:
        """When the next probe is due; None when none is."""
        return min((p.retry_at for p in self._pauses.values() if p.retry_at is not None), default=None)

    @property
    def count(self) -> int:
        """How many tokens are refused, as far as a delivery needs them."""
        return sum(pause.retry_at is not None for pause in self._pauses.values())

    def awaits_probe(self, token_id: int | None) -> bool:
        """Whether a probe of this token is due some time, so that what is held for it is released."""
        pause = self._pauses.get(token_id)
        return pause is not None and pause.retry_at is not None

    def probe_now(self, now: int, only: Collection[int | None] | None = None) -> bool:
        """Probe every refused token now, or some; False where no delivery needs one of them.

        What no delivery needs is forgotten: it is tried as if it had never been refused.
        """
        chosen = [token_id for token_id in self._pauses if only is None or token_id in only]
        waiting = [pause for token_id in chosen if (pause := self._pauses[token_id]).retry_at is not None]
        for pause in waiting:
            if pause.probe is None:
                pause.retry_at, pause.probes = now, 0
        for token_id in chosen:
            if self._pauses[token_id].retry_at is None:
                del self._pauses[token_id]
        return bool(waiting)

    def resume(self, token_id: int | None, now: int) -> None:
        """Deliveries of this token were held before this process began: probe it at once."""
        self._pauses.setdefault(token_id, _Pause("refused before the last restart", now))

    def hold_reason(self, delivery: Delivery, now: int) -> str | None:
        """Why this delivery is to be held rather than sent; None when it may be sent."""
        pause = self._pauses.get(delivery.record.token_id)
        if pause is None or pause.probe == delivery.key:
            return None
        if pause.retry_at is None and pause.probe is None:
            # The time holds should this delivery end in another way, for example by an operator's order.
            pause.probe, pause.retry_at = delivery.key, self._next_probe(pause, now)
            return None
        return pause.reason

    def take_due(self, now: int) -> tuple[int | None, ...]:
        """The tokens of which one held delivery is to be released now; each is named once a probe.

        Their time moves on at once: should that delivery end in another way, the next one has its turn.
        """
        longest = now + math.ceil(self._policy.probe_maximum * 1000)
        for pause in self._pauses.values():
            if pause.retry_at is not None:  # the clock may have been set back since
                pause.retry_at = min(pause.retry_at, longest)
        due = tuple(t for t, p in self._pauses.items() if p.retry_at is not None and p.retry_at <= now)
        for token_id in due:
            pause = self._pauses[token_id]
            pause.retry_at = self._next_probe(pause, now)
        return due

    def released(self, token_id: int | None, freed: tuple[Delivery, ...]) -> bool:
        """Remember the probe. True: nothing is held, so that no delivery needs this token any more.

        Then the next delivery with this token is the probe.
        """
        pause = self._pauses.get(token_id)
        if pause is None:
            return False
        pause.probe = freed[0].key if freed else None
        if freed:
            return False
        pause.retry_at = None
        idle = [each for each, one in self._pauses.items() if one.retry_at is None and one.probe is None]
        if len(idle) > MOST_UNNEEDED:
            del self._pauses[idle[0]]
        return True

    def attempt_ended(self, delivery: Delivery, outcome: Outcome, now: int) -> bool | None:
        """Learn from an attempt: False when this token began to be refused, True when it ceased to be."""
        token_id = delivery.record.token_id
        pause = self._pauses.get(token_id)
        if isinstance(outcome, Refused) and outcome.scope is Scope.CREDENTIAL:
            return self._refused(token_id, delivery.key, outcome.reason, now)
        if pause is None or pause.probe != delivery.key:
            return None
        if _was_taken(outcome):
            del self._pauses[token_id]
            return True
        pause.probe, pause.retry_at = None, self._next_probe(pause, now)
        return None

    def _refused(self, token_id: int | None, key: DeliveryKey, reason: str, now: int) -> bool | None:
        pause = self._pauses.get(token_id)
        if pause is None:
            pause = self._pauses[token_id] = _Pause(reason, None)
            pause.retry_at = self._next_probe(pause, now)
            return False
        if pause.probe == key:
            pause.reason, pause.probe = reason, None
            pause.probes += 1
            pause.retry_at = self._next_probe(pause, now)
        return None

    def _next_probe(self, pause: _Pause, now: int) -> int:
        return now + math.ceil(probe_seconds(self._policy, pause.probes) * 1000)


def _was_taken(outcome: Outcome) -> bool:
    """Whether the destination looked past the token: it took the delivery, or spoke about the record itself."""
    if isinstance(outcome, RetryLater):
        return outcome.give_up_after_seconds is not None
    return isinstance(outcome, Delivered) or outcome.scope is Scope.RECORD
