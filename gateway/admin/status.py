"""The status of the gateway as one document, for the status page and the command line. Pure."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import structlog
from msgspec import structs

from gateway.admin.events import RecentEvents
from gateway.admin.verdict import verdict_of
from gateway.admin.view import Lifecycle, Phase
from gateway.formatting import bytes_text
from gateway.live_calls import ThrottleStatus
from gateway.operations.advice import ADVICE, by_kind
from gateway.operations.schemas import (
    DeadReason,
    DestinationReport,
    DrainThrottleReport,
    Event,
    LaneStatus,
    OutboxReport,
    Pace,
    SpoolReport,
    Status,
)
from gateway.runbooks import Runbook
from gateway.sdk_outbox.model import OutboxStatus, Outcome
from gateway.trace import instant
from spool.records import Lane
from spool.stats import LaneCounts, SpoolStats
from uploaders.base import DestinationStatus
from uploaders.redact import redact


@cache
def version_of_callspool() -> str:
    """Read from a file once, not for each request."""
    return version("callspool")


def status_of(
    *,
    now: int,
    lifecycle: Lifecycle,
    stats: SpoolStats | None,
    intake_obstacle: str | None,
    destinations: tuple[DestinationStatus, ...],
    throttle: ThrottleStatus | None,
    outboxes: tuple[OutboxStatus, ...],
    events: tuple[Event, ...],
    pace: Pace,
    targets: Mapping[str, str],
) -> Status:
    """The status at `now` (ms since the epoch). `targets` are the addresses of destinations, without secrets."""
    found, notes = obstacles(lifecycle, stats, intake_obstacle), attention(stats)
    status = Status(
        version=version_of_callspool(),
        now=instant(now),
        phase=lifecycle.phase.value,
        ready=not found,
        reasons=tuple(redact(each.text) for each in found),
        attention=tuple(redact(each.text) for each in notes),
        runbook=first_runbook(found, notes),
        spool=None if stats is None else _spool(stats),
        drain_throttle=None if throttle is None else _drain_throttle(throttle),
        destinations=tuple(
            _destination(each, targets.get(each.name, ""), stats, now) for each in _with_forgotten(destinations, stats)
        ),
        outboxes=tuple(map(_outbox, outboxes)),
        events=events,
        pace=pace,
    )
    return structs.replace(status, verdict=verdict_of(status, pace))


def for_everyone(status: Status) -> Status:
    """The status without what names a call or repeats what an endpoint answered."""
    shorten = structs.replace
    destinations = tuple(
        shorten(
            each,
            reason=short_reason(each.reason),
            dead_reasons=tuple(shorten(one, example=short_reason(one.example)) for one in each.dead_reasons),
        )
        for each in status.destinations
    )
    open_status = shorten(status, complete=False, destinations=destinations, events=())
    return shorten(open_status, verdict=verdict_of(open_status, status.pace)) if status.pace else open_status


_OUR_WORDS = re.compile(
    r"(given up after [^:]+: )?(upload: )?"
    r"(HTTP \d{3}.*?(?=: |$)|(Put|Get|Head|Create|Upload|Complete|Abort|List|Copy)\w+: (HTTP \d{3}|\w+)(?=: )"
    r"|(the )?object(?= (at )?s3://))",
    re.DOTALL,
)
"""How a reason begins that goes on with what a server answered, or with the key of an object."""


def short_reason(reason: str) -> str:
    """A reason fit for everyone, and to be a label: neither what a server answered nor what names a call."""
    ours = _OUR_WORDS.match(redact(reason))
    return redact(reason) if ours is None else ours[0]


def _spool(stats: SpoolStats) -> SpoolReport:
    return SpoolReport(
        used_bytes=stats.used_bytes,
        limit_bytes=stats.limit_bytes,
        reserve_bytes=stats.reserve_bytes,
        full_of_details=stats.full_of_details,
        unaccounted=stats.unaccounted,
        failure=None if stats.failure is None else redact(stats.failure),
    )


def _outbox(outbox: OutboxStatus) -> OutboxReport:
    return OutboxReport(
        path=outbox.path,
        state=outbox.state.value,
        reason=redact(outbox.reason),
        rows=outbox.rows,
        rescued=outbox.outcomes.get(Outcome.RESCUED, 0),
        duplicate=outbox.outcomes.get(Outcome.DUPLICATE, 0),
        superseded=outbox.outcomes.get(Outcome.SUPERSEDED, 0),
        refused=outbox.outcomes.get(Outcome.REFUSED, 0),
    )


def _drain_throttle(status: ThrottleStatus) -> DrainThrottleReport:
    return DrainThrottleReport(live_calls=status.live_calls, throttled=status.slowed, bytes_per_second=status.rate)


def _with_forgotten(
    destinations: tuple[DestinationStatus, ...], stats: SpoolStats | None
) -> tuple[DestinationStatus, ...]:
    """The destinations, and after them those that only the spool still owes something to."""
    known = {each.name for each in destinations}
    owed = {name for (name, _), counts in stats.lanes.items() if counts.queued or counts.dead} if stats else set()
    return destinations + tuple(
        DestinationStatus(name, "", configured=False, up=False, reason="not configured", retry_at=None, in_flight={})
        for name in sorted(owed - known)
    )


def _destination(destination: DestinationStatus, target: str, stats: SpoolStats | None, now: int) -> DestinationReport:
    lanes = tuple(_lane(destination, lane, stats, now) for lane in Lane)
    return DestinationReport(
        name=destination.name,
        type=destination.type,
        target=target,
        configured=destination.configured,
        up=destination.up,
        reason=redact(destination.reason),
        breaker=destination.breaker.value,
        since=None if destination.since is None else instant(destination.since),
        refused_tokens=destination.refused_tokens,
        retry_at=None if destination.retry_at is None else instant(destination.retry_at),
        dead=sum(lane.dead for lane in lanes),
        dead_reasons=_dead_reasons(destination.name, stats),
        lanes=lanes,
    )


def _dead_reasons(name: str, stats: SpoolStats | None) -> tuple[DeadReason, ...]:
    found = [] if stats is None else [stats.dead_reasons.get((name, lane), {}) for lane in Lane]
    return tuple(
        DeadReason(kind=one.kind.value, count=one.count, example=redact(one.example), advice=ADVICE[one.kind])
        for one in by_kind(found)
    )


def _lane(destination: DestinationStatus, lane: Lane, stats: SpoolStats | None, now: int) -> LaneStatus:
    key = (destination.name, lane)
    counts = stats.lanes.get(key, LaneCounts()) if stats else LaneCounts()
    oldest = stats.oldest_pending.get(key) if stats else None
    ready = stats.oldest_ready.get(key) if stats else None
    return LaneStatus(
        lane=lane.value,
        ready=counts.ready,
        waiting=counts.waiting,
        held=counts.held,
        queued=counts.queued,
        queued_bytes=counts.queued_bytes,
        in_flight=destination.in_flight.get(lane, 0),
        concurrency=destination.slots.get(lane, 0),
        dead=counts.dead,
        delivered=counts.delivered,
        expired=counts.expired,
        discarded=counts.discarded,
        oldest_seconds=None if oldest is None else max(0, now - oldest) / 1000,
        oldest_ready_seconds=None if ready is None else max(0, now - ready) / 1000,
    )


# Readiness: whether posts can be accepted. Pure; it never depends on destinations.
#
# A gateway whose endpoint is down is ready: keeping call logs meanwhile is its purpose.


class Obstacle(NamedTuple):
    """Something that an operator should look at."""

    text: str
    runbook: Runbook


def obstacles(lifecycle: Lifecycle, stats: SpoolStats | None, intake_obstacle: str | None) -> tuple[Obstacle, ...]:
    """Why posts cannot be accepted now; empty when they can."""
    found: list[Obstacle] = []
    if lifecycle.phase is not Phase.RUNNING:
        reasons = lifecycle.reasons or (f"the gateway is {lifecycle.phase}",)
        found.extend(Obstacle(reason, Runbook.POSTS_REFUSED) for reason in reasons)
    if stats is None:
        found.append(Obstacle("the spool is not open", Runbook.POSTS_REFUSED))
    elif (obstacle := _spool_obstacle(stats)) is not None:
        found.append(obstacle)
    if intake_obstacle is not None:
        found.append(Obstacle(intake_obstacle, Runbook.POSTS_REFUSED))
    return tuple(found)


def _spool_obstacle(stats: SpoolStats) -> Obstacle | None:
    """Why the spool cannot take every record now; None when it can."""
    if stats.failure is not None:
        return Obstacle(f"the spool cannot take records: {stats.failure}", Runbook.POSTS_REFUSED)
    if stats.shortage is not None:
        return Obstacle(f"the spool cannot take every record: {stats.shortage}", Runbook.DISK_FULL)
    if stats.used_bytes >= stats.limit_bytes:
        text = f"the spool is full: {bytes_text(stats.used_bytes)} of {bytes_text(stats.limit_bytes)}"
        return Obstacle(text, Runbook.SPOOL_FULL)
    return None


def attention(stats: SpoolStats | None) -> tuple[Obstacle, ...]:
    """What an operator should do although posts can be accepted; empty when there is nothing."""
    return tuple(
        Obstacle(
            f"a corrupt database is in quarantine at {one.directory} ({one.reason}): run `callspool salvage`",
            Runbook.QUARANTINE,
        )
        for one in (stats.quarantined if stats else ())
        if not one.imported
    )


def first_runbook(*found: Sequence[Obstacle]) -> str | None:
    """Of the first obstacle there is."""
    return next((str(obstacle.runbook) for some in found for obstacle in some), None)


# One log line a minute that sums up what happened, for those who read logs and scrape nothing.

EVERY_SECONDS = 60.0

_log = structlog.get_logger("callspool")


@dataclass(frozen=True, slots=True)
class Totals:
    """All destinations and lanes together."""

    owed: int
    delivered: int
    queued: int
    dead: int
    expired: int


def totals_of(stats: SpoolStats) -> Totals:
    """The sum over destinations and lanes."""
    lanes = stats.lanes.values()
    return Totals(
        sum(lane.owed for lane in lanes),
        sum(lane.delivered for lane in lanes),
        sum(lane.queued for lane in lanes),
        sum(lane.dead for lane in lanes),
        sum(lane.expired for lane in lanes),
    )


async def summarize_forever(
    stats: Callable[[], SpoolStats], trouble: Callable[[], str | None], every_seconds: float = EVERY_SECONDS
) -> None:
    """Log a summary every minute in which something happened or waits, until cancelled.

    `trouble` says what is wrong with the maintenance of the spool, if anything.
    """
    before = totals_of(stats())
    while True:
        await asyncio.sleep(every_seconds)
        current = stats()
        after = totals_of(current)
        if after != before or after.queued or after.dead:
            _log.info(
                "summary",
                new_deliveries=after.owed - before.owed,
                delivered=after.delivered - before.delivered,
                queued=after.queued,
                dead=after.dead,
                expired=after.expired - before.expired,
                spool=bytes_text(current.used_bytes),
            )
        before = after
        reason = trouble()
        if reason is not None:
            _log.warning("maintenance_failed", reason=reason)


# Whether the spool takes every record, told when it changes: a disk may be full for seconds only.

LOOK_SECONDS = 1.0
_GOOD_LOOKS = 5
"""So often in a row it takes all before it is called ready again: at the edge of a full disk it comes and goes."""


async def follow_readiness(
    stats: Callable[[], SpoolStats],
    events: RecentEvents,
    look_seconds: float = LOOK_SECONDS,
    every_seconds: float = EVERY_SECONDS,
) -> None:
    """Tell the log and the page why the spool refuses records, and when that is over, until cancelled.

    The log has it again when the reason becomes another one, and every minute that it lasts.
    """
    clock = asyncio.get_running_loop().time
    told: Obstacle | None = None
    began = told_at = last = 0.0
    good_looks = 0
    while True:
        obstacle, now = _spool_obstacle(stats()), clock()
        if obstacle is not None:
            changed = told is None or obstacle.runbook is not told.runbook
            if told is None:
                began = now
            if changed:
                events.spool_refuses(obstacle.text)
            if changed or now - told_at >= every_seconds:
                _log.warning("not_ready", reason=obstacle.text, runbook=obstacle.runbook.value)
                told, told_at = obstacle, now
            last, good_looks = now, 0
        elif told is not None:
            good_looks += 1
            if good_looks == _GOOD_LOOKS:
                events.spool_takes_all_again()
                _log.info("ready_again", seconds=round(last - began, 1))
                told = None
        await asyncio.sleep(look_seconds)
