"""Whether a destination takes deliveries: a state machine without any I/O, told of every attempt's end.

    OPEN ── RetryLater(DESTINATION), or N deliveries failing in a row ──▶ BACKING_OFF ─┐
    OPEN ── Refused(DESTINATION), or M deliveries refused in a row ─────▶ PAUSED ──────┤
      ▲                                                                                │
      └──────────── one probe at `retry_at` is answered; else a later `retry_at` ◀─────┘

Only a probe opens it again: what was sent before it closed may still succeed, and would break a Retry-After.
All times are milliseconds since the Unix epoch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from spool.records import DeliveryKey
from uploaders.retry import RetryPolicy, backoff_seconds, probe_seconds
from uploaders.uploader import Delivered, Outcome, Refused, RetryLater, Scope


class HealthState(StrEnum):
    """Whether deliveries are started."""

    OPEN = "open"
    """Without restraint."""
    BACKING_OFF = "backing off"
    """It fails: probed after a jittered, growing wait, or when it asked to be."""
    PAUSED = "paused"
    """It refuses everything: probed after minutes."""


@dataclass(frozen=True, slots=True)
class Change:
    """A destination began or ceased to take deliveries. `wake`: what waits for its own time need wait no more."""

    up: bool
    reason: str
    wake: bool = False


class DestinationHealth:
    """The health of one destination, for both of its lanes."""

    def __init__(self, policy: RetryPolicy, jitter: Callable[[], float]) -> None:
        self.state = HealthState.OPEN
        self.reason = ""
        self.retry_at: int | None = None
        self.last_success_at: int | None = None
        self._policy = policy
        self._jitter = jitter
        self._probes = 0
        self._probe_under_way = False
        self._probed: set[DeliveryKey] = set()
        self._failed: set[DeliveryKey] = set()
        self._refused: set[DeliveryKey] = set()
        self._closed_by_records = False
        self._woken_at: int | None = None

    @property
    def open(self) -> bool:
        """Whether deliveries are started without restraint."""
        return self.state is HealthState.OPEN

    def may_probe(self, now: int) -> bool:
        """Whether one delivery may be started to find out if the destination takes any."""
        return not self._probe_under_way and self.retry_at is not None and now >= self.retry_at

    def was_probed(self, key: DeliveryKey) -> bool:
        """Whether this delivery was a failed probe already: another one should have its turn."""
        return key in self._probed

    def forget_probed(self) -> None:
        """Begin a new round, every delivery having had its turn."""
        self._probed.clear()

    def probe_started(self) -> None:
        """A delivery was started though the destination is closed."""
        self._probe_under_way = True

    def probe_abandoned(self) -> None:
        """The probe ended without saying anything about the destination; another one may follow at once."""
        self._probe_under_way = False

    @property
    def refusing_everything(self) -> bool:
        """Whether so many were refused in a row that a refusal says nothing about its record."""
        return len(self._refused) >= self._policy.refusals_before_pause

    def attempt_ended(self, key: DeliveryKey, outcome: Outcome, now: int, *, probe: bool) -> Change | None:
        """Learn from an attempt; returns what is to be told, if the state changed."""
        if probe:
            self._probe_under_way = False
        if isinstance(outcome, Delivered):
            self.last_success_at = now
            self._failed.clear()
            self._refused.clear()
            return self._opened(now) if probe else None
        closed_to = self._blame(key, outcome)
        if closed_to is None and self.refusing_everything:
            # At a wrong address a detail's "not found" is no sign of life: only a delivery opens it again.
            closed_to = HealthState.PAUSED
        if closed_to is None:
            return self._opened(now) if probe else None
        if probe:
            self._probed.add(key)
        after = outcome.after_seconds if isinstance(outcome, RetryLater) else None
        return self._closed(closed_to, outcome, after or 0.0, now, probe=probe)

    def _blame(self, key: DeliveryKey, outcome: RetryLater | Refused) -> HealthState | None:
        """The state that this failure calls for; None when the destination answered in its right mind."""
        if isinstance(outcome, Refused):
            if outcome.scope is Scope.DESTINATION:
                return HealthState.PAUSED
            if outcome.scope is Scope.RECORD and not outcome.too_large:
                self._refused.add(key)
            return None
        if outcome.scope is Scope.DESTINATION:
            return HealthState.BACKING_OFF
        if outcome.give_up_after_seconds is not None:
            return None
        self._failed.add(key)
        many = len(self._failed) >= self._policy.failures_before_back_off
        return HealthState.BACKING_OFF if many or not self.open else None

    def _closed(
        self, state: HealthState, outcome: RetryLater | Refused, after: float, now: int, *, probe: bool
    ) -> Change | None:
        if not self.open and not probe:
            # Sent before it closed: no news, except that a longer wait is asked for.
            self.retry_at = max(self.retry_at or 0, now + math.ceil(after * 1000))
            return None
        if self.open:
            self._closed_by_records = outcome.scope is not Scope.DESTINATION
        previous, self.state, self.reason = self.state, state, outcome.reason
        self._probes = self._probes + 1 if previous is state else 0
        self.retry_at = now + math.ceil(max(self._wait_seconds(), after) * 1000)
        return None if previous is state else Change(False, f"{state}: {self.reason}")

    def _wait_seconds(self) -> float:
        if self.state is HealthState.PAUSED:
            return probe_seconds(self._policy, self._probes)
        return backoff_seconds(self._policy, self._probes, self._jitter())

    def _opened(self, now: int) -> Change:
        """Wake what waits, so that the end of an outage costs no waiting.

        Not again within the longest wait when records failed by themselves: a few bad ones at the head of the queue
        would be woken by every success, and close it again each time.
        """
        recently = self._woken_at is not None and now - self._woken_at < self._policy.maximum * 1000
        wake = not (self._closed_by_records and recently)
        if wake:
            self._woken_at = now
        self.state, self.reason, self.retry_at = HealthState.OPEN, "", None
        self._probes = 0
        self._probed.clear()
        self._failed.clear()
        self._refused.clear()
        return Change(True, "it takes deliveries again", wake)
