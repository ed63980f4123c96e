"""The circuit breaker of a destination: a state machine without I/O that learns from the end of every attempt.

    CLOSED ── RetryLater(DESTINATION), or N deliveries failing in a row ──▶ OPEN (backing off) ─┐
    CLOSED ── Refused(DESTINATION), or M deliveries refused in a row ─────▶ OPEN (paused) ──────┤
      ▲                                                                                         │ at `retry_at`
      └──── the probe is answered ──── HALF_OPEN: one delivery is sent, the probe ◀─────────────┘
                                            └──── it fails: OPEN again, until a later `retry_at`

Only a probe closes it: what was sent before it opened may still succeed, and would break a Retry-After. All times
are milliseconds since the Unix epoch.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from spool.records import BreakerSnapshot, DeliveryKey
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
        recently = self._woken_at is not None and now - self._woken_at < self._policy.maximum * 1000
        wake = not (self._opened_by_records and recently)
        if wake:
            self._woken_at = now
        self._cause, self.reason, self.since, self.retry_at = None, "", None, None
        self._probes = 0
        self._probed.clear()
        self._failed.clear()
        self._end_streak()
        return Change(True, "deliveries are accepted again", wake)
