"""The gauges, read when they are asked for: backlog, spool, destinations, live calls, outboxes.

All of one scrape comes from one snapshot of the spool, so that its figures agree with each other.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.admin.status import obstacles, short_reason, version_of_callspool
from gateway.admin.view import BackPressure, GatewayView
from gateway.live_calls import ThrottleStatus
from gateway.logs import dropped_messages
from gateway.operations.advice import by_kind
from gateway.sdk_outbox.model import OutboxState, OutboxStatus
from spool.stats import SpoolStats
from uploaders.base import BreakerState, DestinationStatus

_LANE = ("destination", "lane")

MetricTable = Mapping[str, tuple[str, tuple[str, ...]]]
"""What each metric means, and its labels."""

GAUGES: Final[MetricTable] = {
    "backlog_records": ("Deliveries in the queue.", _LANE),
    "backlog_bytes": ("Raw bytes still to be delivered; a core and its detail share those of their record.", _LANE),
    "oldest_pending_seconds": ("Age of the oldest record still to be delivered; 0 if none is.", _LANE),
    "dead_records": ("Deliveries that are dead letters.", ("destination",)),
    "held_records": ("Deliveries held until a token or a core is accepted.", ("destination",)),
    "dead_reasons": (
        "Reasons of the newest dead letters (at most 2,000 per lane), by kind.",
        ("destination", "reason"),
    ),
    "ready": ("1 while posts can be accepted, as /readyz says, else 0.", ()),
    "build_info": ("Always 1; the version is its label.", ("version",)),
    "disk_free_bytes": ("Free bytes on the disk of the spool's directory.", ()),
    "spool_bytes": ("Bytes of the spool on disk, write-ahead log and staging included.", ()),
    "spool_limit_bytes": ("The quota of the spool in bytes.", ()),
    "spool_reserve_bytes": ("The part of the quota that is reserved for cores and small call logs.", ()),
    "unaccounted_records": (
        "Deliveries owed that are neither queued, dead nor ended, by independent counts. Must be 0.",
        (),
    ),
    "quarantined_databases": (
        "Corrupt databases in quarantine whose records `callspool salvage` has not imported yet.",
        (),
    ),
    "quarantined_bytes": ("Bytes of the databases in quarantine; callspool never deletes them.", ()),
    "destination_up": ("1 while the destination accepts deliveries, else 0.", ("destination",)),
    "breaker_state": (
        "1 for the state of the destination's circuit breaker: closed, open or half_open.",
        ("destination", "state"),
    ),
    "breaker_open_since_seconds": (
        "When the circuit breaker opened (Unix time), by reason; missing while it is closed.",
        ("destination", "reason"),
    ),
    "refused_tokens": ("Agents' tokens that the destination refuses.", ("destination",)),
    "concurrency": ("Attempts allowed at once, adapted to what the destination can handle.", _LANE),
    "intake_posts_in_flight": ("Posts that are being read or written to the spool.", ()),
    "intake_posts_waiting": ("Back-pressure: posts waiting for memory before their body is read.", ()),
    "intake_memory_bytes": ("Memory held by posts, out of intake_memory_limit_bytes.", ()),
    "intake_memory_limit_bytes": ("Memory for the bodies of all posts together (intake.memory_budget).", ()),
    "live_calls": ("Calls that have started but not ended.", ()),
    "drain_throttled": ("1 while the draining of details is throttled because a call is live, else 0.", ()),
    "outbox_waiting_rows": ("Rows in an SDK outbox: in use there, refused, or still to be rescued.", ("path",)),
    "outbox_up": ("0 while an outbox is damaged, not an outbox or not readable by this user, else 1.", ("path",)),
}

COUNTERS: Final[MetricTable] = {
    "log_messages_dropped": ("Log messages dropped because nobody read the log.", ()),
    "audit_lines_dropped": (
        "Lines of the audit log lost because the queue was full or the file could not be written.",
        (),
    ),
}
"""What counts for itself, read as the gauges are."""


class GaugeCollector(Collector):
    """Reads the gauges from the spool and the dispatcher; while the spool is not open its gauges are missing."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway
        self._intake_obstacle: str | None = None

    async def prepare(self) -> None:
        """Ask what has to be waited for, before each scrape."""
        self._intake_obstacle = await self._gateway.intake_obstacle()

    def describe(self) -> Iterator[Metric]:
        """The gauges without values, so that registering reads nothing."""
        yield from map(_gauge, GAUGES)
        yield from map(_counter, COUNTERS)

    def collect(self) -> Iterator[Metric]:
        """The gauges as they are now."""
        stats = self._gateway.spool_stats()
        build = _gauge("build_info")
        build.add_metric((version_of_callspool(),), 1)
        yield build
        found = obstacles(self._gateway.lifecycle, stats, self._intake_obstacle)
        yield _gauge("ready", float(not found))
        yield _gauge("disk_free_bytes", self._gateway.disk_free_bytes())
        if stats is not None:
            yield from _of_lanes(stats, self._gateway.now())
            yield _of_dead_letters(stats)
            yield from _of_spool(stats)
        yield from _of_destinations(self._gateway.destinations())
        yield from _of_intake(self._gateway.back_pressure())
        yield from _of_live_calls(self._gateway.drain_throttle())
        yield from _of_outboxes(self._gateway.outboxes())
        yield _counter("log_messages_dropped", dropped_messages())
        yield _counter("audit_lines_dropped", self._gateway.audit_lines_dropped())


F = TypeVar("F", GaugeMetricFamily, CounterMetricFamily)


def family_of(kind: type[F], table: MetricTable, name: str, value: float | None = None) -> F:
    """A metric of the table; with a value where it has no labels."""
    meaning, labels = table[name]
    family = kind(f"callspool_{name}", meaning, labels=labels)
    if value is not None:
        family.add_metric((), value)
    return family


_gauge = partial(family_of, GaugeMetricFamily, GAUGES)
_counter = partial(family_of, CounterMetricFamily, COUNTERS)


def _of_lanes(stats: SpoolStats, now: int) -> Iterator[GaugeMetricFamily]:
    records, size = _gauge("backlog_records"), _gauge("backlog_bytes")
    oldest, dead, held = _gauge("oldest_pending_seconds"), _gauge("dead_records"), _gauge("held_records")
    dead_by_destination: dict[str, int] = {}
    held_by_destination: dict[str, int] = {}
    for (destination, lane), counts in sorted(stats.lanes.items()):
        labels = (destination, lane.value)
        records.add_metric(labels, counts.queued)
        size.add_metric(labels, counts.queued_bytes)
        accepted_at = stats.oldest_pending.get((destination, lane))
        oldest.add_metric(labels, 0.0 if accepted_at is None else max(0, now - accepted_at) / 1000)
        dead_by_destination[destination] = dead_by_destination.get(destination, 0) + counts.dead
        held_by_destination[destination] = held_by_destination.get(destination, 0) + counts.held
    for destination, count in dead_by_destination.items():
        dead.add_metric((destination,), count)
        held.add_metric((destination,), held_by_destination[destination])
    yield from (records, size, oldest, dead, held)


def _of_dead_letters(stats: SpoolStats) -> GaugeMetricFamily:
    reasons = _gauge("dead_reasons")
    for destination in sorted({name for name, _ in stats.dead_reasons}):
        of_destination = [found for (name, _), found in stats.dead_reasons.items() if name == destination]
        for one in by_kind(of_destination):
            reasons.add_metric((destination, one.kind.value), one.count)
    return reasons


def _of_spool(stats: SpoolStats) -> Iterator[GaugeMetricFamily]:
    yield _gauge("spool_bytes", stats.used_bytes)
    yield _gauge("spool_limit_bytes", stats.limit_bytes)
    yield _gauge("spool_reserve_bytes", stats.reserve_bytes)
    yield _gauge("unaccounted_records", stats.unaccounted)
    yield _gauge("quarantined_databases", sum(not one.imported for one in stats.quarantined))
    yield _gauge("quarantined_bytes", sum(one.size for one in stats.quarantined))


def _of_destinations(destinations: Iterable[DestinationStatus]) -> Iterator[GaugeMetricFamily]:
    """Those that are configured."""
    up, state, since = _gauge("destination_up"), _gauge("breaker_state"), _gauge("breaker_open_since_seconds")
    tokens, slots = _gauge("refused_tokens"), _gauge("concurrency")
    for each in destinations:
        if not each.configured:
            continue
        up.add_metric((each.name,), float(each.up))
        tokens.add_metric((each.name,), each.refused_tokens)
        for known in BreakerState:
            state.add_metric((each.name, known.value), float(each.breaker is known))
        if each.since is not None:
            since.add_metric((each.name, short_reason(each.reason)), each.since / 1000)
        for lane, count in each.slots.items():
            slots.add_metric((each.name, lane.value), count)
    yield from (up, state, since, tokens, slots)


def _of_intake(pressure: BackPressure | None) -> Iterator[GaugeMetricFamily]:
    yield _gauge("intake_posts_in_flight", None if pressure is None else pressure.posts_in_flight)
    yield _gauge("intake_posts_waiting", None if pressure is None else pressure.posts_waiting)
    yield _gauge("intake_memory_bytes", None if pressure is None else pressure.memory_bytes)
    yield _gauge("intake_memory_limit_bytes", None if pressure is None else pressure.memory_limit_bytes)


def _of_live_calls(status: ThrottleStatus | None) -> Iterator[GaugeMetricFamily]:
    yield _gauge("live_calls", None if status is None else status.live_calls)
    yield _gauge("drain_throttled", None if status is None else float(status.slowed))


def _of_outboxes(outboxes: Iterable[OutboxStatus]) -> Iterator[GaugeMetricFamily]:
    rows, up = _gauge("outbox_waiting_rows"), _gauge("outbox_up")
    for outbox in outboxes:
        rows.add_metric((outbox.path,), outbox.rows)
        up.add_metric((outbox.path,), float(outbox.state is not OutboxState.UNUSABLE))
    yield from (rows, up)
