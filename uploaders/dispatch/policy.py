"""Retry policy: back-off with jitter, giving up, and fallbacks. Pure functions from an outcome to a settlement.

Times are milliseconds since the Unix epoch, `jitter` is in [0, 1).
"""

import math
import re
from dataclasses import dataclass, replace

from spool import records
from spool.records import (
    FORMS_WITH_DETAIL,
    DeadLetter,
    Delivery,
    Form,
    Fragment,
    Lane,
    NewDelivery,
    Redirect,
    RetryAt,
    Settlement,
)
from uploaders.base import Delivered, Outcome, Refused, RetryLater, Scope


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to retry, to probe and to give up, for one destination. All durations are seconds."""

    initial: float = 1.0
    """The longest wait before the first retry; it doubles with every failed attempt."""
    maximum: float = 300.0
    """The longest wait between two attempts."""
    give_up_after: float = 24 * 3600.0
    """A record that is tried in vain for this long, while the destination accepts others, becomes a dead letter."""
    probe_initial: float = 60.0
    """How long after a refusal the destination or the token is tried again with one delivery; it doubles."""
    probe_maximum: float = 300.0
    """The longest wait between two such probes."""
    failures_before_back_off: int = 5
    """So many deliveries failing in a row mean that the destination, not a record, is at fault."""
    refusals_before_pause: int = 20
    """So many refused in a row mean that the address is wrong, and no more may become dead letters."""
    misses_before_pause: int = 3
    """The same for refusals as a wrong address gives them (404)."""
    misses_retried_for: float = 900.0
    """Such a refusal is final once the destination has accepted another record since, or after so much trying. Before,
    the record keeps its place ahead of the later ones of its call."""


def backoff_seconds(policy: RetryPolicy, failures: int, jitter: float) -> float:
    """Full jitter: anything from 0 to the exponential bound, so that many that failed at once return apart."""
    return jitter * _doubled(policy.initial, policy.maximum, failures)


def probe_seconds(policy: RetryPolicy, probes: int) -> float:
    """How long to wait before probe number `probes` (from 0) of what was refused."""
    return _doubled(policy.probe_initial, policy.probe_maximum, probes)


def decide(
    outcome: Outcome,
    delivery: Delivery,
    now: int,
    policy: RetryPolicy,
    *,
    jitter: float,
    destination_succeeded_since_first_failure: bool,
) -> Settlement:
    """What the spool is to write after one attempt.

    A failure that speaks about more than the record is not counted against it: `RetryAt(counted=False)`, or `Hold`
    for a refused token. The dispatcher moves the former's time to when the destination is tried again.
    """
    if isinstance(outcome, Delivered):
        return records.Delivered(outcome.location)
    if isinstance(outcome, Refused):
        wait = backoff_seconds(policy, delivery.attempts, jitter)
        works = destination_succeeded_since_first_failure
        return _decide_refused(outcome, delivery, now, policy, wait, address_works=works)
    if _given_up(outcome, delivery, now, policy, destination_succeeded_since_first_failure):
        return records.DeadLetter(
            f"given up after {milliseconds_tried(delivery, now, policy) / 3_600_000:.1f} h: {outcome.reason}"
        )
    wait = max(backoff_seconds(policy, delivery.attempts, jitter), outcome.after_seconds or 0.0)
    for_destination = outcome.scope is Scope.DESTINATION
    return RetryAt(now + _milliseconds(wait), outcome.reason, not for_destination, for_destination)


def defer(
    settlement: Settlement, outcome: Outcome, now: int, again_at: int | None, *, refusing_everything: bool
) -> Settlement:
    """Adjust the settlement of a delivery while its destination is down; `again_at` is when that is probed, else None.

    It is not due before the probe, and nothing becomes a dead letter at a wrong address. A back-off outlasts a restart;
    a refusal does not, since whoever corrects the address or the token restarts and should not wait. What fails is due
    when the destination accepts deliveries again, unless the answer asked for a time of its own (Retry-After).
    """
    own_time = isinstance(outcome, RetryLater) and outcome.scope is Scope.RECORD and outcome.after_seconds is not None
    if isinstance(settlement, RetryAt) and not settlement.counted:
        due_at = now if isinstance(outcome, Refused) else max(settlement.due_at, again_at or now)
        return replace(settlement, due_at=due_at)
    if isinstance(settlement, RetryAt) and again_at is not None:
        return replace(settlement, for_destination=not own_time)
    refused = isinstance(outcome, Refused) and outcome.scope is Scope.RECORD
    if isinstance(settlement, records.DeadLetter) and refused and refusing_everything:
        return RetryAt(again_at or now, settlement.error, counted=False, for_destination=True)
    return settlement


def _decide_refused(
    outcome: Refused, delivery: Delivery, now: int, policy: RetryPolicy, wait: float, *, address_works: bool
) -> Settlement:
    if outcome.scope is Scope.RECORD:
        spent = milliseconds_tried(delivery, now, policy)
        if outcome.maybe_address and not address_works and spent < _milliseconds(policy.misses_retried_for):
            return RetryAt(now + _milliseconds(wait), outcome.reason, for_destination=True)
        return records.DeadLetter(outcome.reason)
    if outcome.scope is Scope.CREDENTIAL:
        return records.Hold(outcome.reason, delivery.record.token_id)
    return RetryAt(now + _milliseconds(policy.probe_initial), outcome.reason, counted=False, for_destination=True)


def is_refusal(reason: str) -> bool:
    """Whether a dead letter with this reason was refused for its content, and not for its size, nor unreadable."""
    return not re.search(r"^corrupt: |^given up after|bytes were sent;|max_(?:request|message)_bytes|this size", reason)


def milliseconds_tried(delivery: Delivery, now: int, policy: RetryPolicy) -> int:
    """For how long a delivery has been tried: the evidence for giving it up.

    An attempt counts for no more than the longest wait, so that neither the time in which callspool was stopped nor a
    step of the clock counts as effort: three attempts are at most a quarter of an hour, whatever the clock says.
    """
    effort = (delivery.attempts + 1) * _milliseconds(policy.maximum)
    if delivery.first_failed_at is None:
        return 0
    elapsed = now - delivery.first_failed_at
    return effort if elapsed < 0 else min(elapsed, effort)


def _given_up(outcome: RetryLater, delivery: Delivery, now: int, policy: RetryPolicy, others_pass: bool) -> bool:
    """A reason with its own bound needs no other success: the destination answered, about this record."""
    if delivery.first_failed_at is None or outcome.scope is Scope.DESTINATION:
        return False
    spent = milliseconds_tried(delivery, now, policy)
    if outcome.give_up_after_seconds is not None:
        return spent >= _milliseconds(outcome.give_up_after_seconds)
    return others_pass and spent >= _milliseconds(policy.give_up_after)


def _doubled(initial: float, maximum: float, times: int) -> float:
    return float(min(maximum, initial * 2 ** min(times, 64)))


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


# Fallbacks for what an endpoint rejects as too large: where such a delivery is sent instead. Pure.
#
#     detail, or whole ──too large──▶ step 1 ──too large──▶ step 2 ── ... ──▶ a dead letter
#
# What was refused is never counted as delivered: either the step takes its place, or it stays as a dead letter.


@dataclass(frozen=True, slots=True)
class FallbackStep:
    """One fallback."""

    to: tuple[NewDelivery, ...]
    """The deliveries that take its place; the first one carries the content."""
    keep: bool
    """Whether the refused delivery stays as a dead letter, because the fallback carries less than it."""
    of_details: bool
    """Whether it is made of a record's detail, which a record in one piece has not."""
    tenants: frozenset[str] | None = None
    """Whose call logs it is for: its bucket is their own; None: everybody's."""

    def is_for(self, record: records.Record) -> bool:
        """Whether it can be made of this record, and may go where it leads."""
        has_detail = Fragment.REST in record.fragments
        return (has_detail or not self.of_details) and (self.tenants is None or record.tenant in self.tenants)


def upload(destination: str, *, referenced: bool = False) -> FallbackStep:
    """The whole, through an upload address that the same destination gives; `referenced`: and a notice of it."""
    whole = NewDelivery(destination, Form.WHOLE, Lane.DETAIL)
    notice = NewDelivery(destination, Form.NOTICE, Lane.CORE, after=destination)
    return FallbackStep((whole, notice) if referenced else (whole,), keep=False, of_details=False)


def to_bucket(destination: str, bucket: str) -> FallbackStep:
    """The detail as an object in a bucket, and a notice of it."""
    in_bucket = NewDelivery(bucket, Form.DETAIL, Lane.DETAIL, ordered=False)
    notice = NewDelivery(destination, Form.NOTICE, Lane.CORE, after=bucket)
    return FallbackStep((in_bucket, notice), keep=False, of_details=True)


def reduced(destination: str) -> FallbackStep:
    """A detail with fewer spans."""
    return FallbackStep((NewDelivery(destination, Form.REDUCED, Lane.DETAIL),), keep=True, of_details=True)


def next_fallback(fallbacks: tuple[FallbackStep, ...], delivery: Delivery) -> FallbackStep | None:
    """The fallback after the one that this delivery came by; None when there is none for it."""
    if delivery.form not in FORMS_WITH_DETAIL:
        return None
    standing = next((at for at, step in enumerate(fallbacks) if _stands_on(step, delivery)), -1)
    return next((step for step in fallbacks[standing + 1 :] if step.is_for(delivery.record)), None)


def settle_too_large(fallbacks: tuple[FallbackStep, ...], delivery: Delivery, reason: str) -> Redirect | DeadLetter:
    """What the spool is to write after a delivery was refused as too large for `reason`."""
    step = next_fallback(fallbacks, delivery)
    return DeadLetter(reason) if step is None else Redirect(reason, step.to, step.keep)


def _stands_on(step: FallbackStep, delivery: Delivery) -> bool:
    content = step.to[0]
    return (content.destination, content.form, content.lane) == (delivery.destination, delivery.form, delivery.lane)
