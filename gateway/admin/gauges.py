"""The metrics that are read when they are asked for: backlog, spool, destinations.

All of one scrape comes from one snapshot of the spool, so that its figures agree with each other.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.admin.view import GatewayView
from gateway.live_calls import ThrottleStatus
from gateway.logs import redact_text
from gateway.operations.advice import by_kind
from gateway.sdk_outbox.rows import OutboxState, OutboxStatus
from spool.stats import SpoolStats
from uploaders.base import BreakerState, DestinationStatus


class GaugeCollector(Collector):
    """Reads the gauges from the spool and the dispatcher; while the spool is not open its gauges are missing."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The gauges without values, so that registering reads nothing."""
        yield from (_backlog_records(), _backlog_bytes(), _oldest_pending(), _dead_records(), _dead_reasons())
        yield from (_spool_bytes(), _spool_limit(), _spool_reserve(), _unaccounted())
        yield from of_destinations(())
        yield from of_courtesy(None)
        yield from (_outbox_waiting(), _outbox_up())
        yield from (_asides(), _aside_bytes())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges as they are now."""
        stats = self._gateway.spool_stats()
        if stats is not None:
            yield from _of_lanes(stats, self._gateway.now())
            yield _of_dead_letters(stats)
            yield from _of_spool(stats)
        yield from of_destinations(self._gateway.destinations())
        yield from of_courtesy(self._gateway.drain_throttle())
        yield from _of_outboxes(self._gateway.outboxes())


def _of_lanes(stats: SpoolStats, now: int) -> Iterator[GaugeMetricFamily]:
    records, size, oldest, dead = _backlog_records(), _backlog_bytes(), _oldest_pending(), _dead_records()
    dead_by_destination: dict[str, int] = {}
    for (destination, lane), counts in sorted(stats.lanes.items()):
        labels = (destination, lane.value)
        records.add_metric(labels, counts.queued)
        size.add_metric(labels, counts.queued_bytes)
        accepted_at = stats.oldest_pending.get((destination, lane))
        oldest.add_metric(labels, 0.0 if accepted_at is None else max(0, now - accepted_at) / 1000)
        dead_by_destination[destination] = dead_by_destination.get(destination, 0) + counts.dead
    for destination, count in dead_by_destination.items():
        dead.add_metric((destination,), count)
    yield from (records, size, oldest, dead)


def _of_dead_letters(stats: SpoolStats) -> GaugeMetricFamily:
    reasons = _dead_reasons()
    for destination in sorted({name for name, _ in stats.dead_reasons}):
        of_destination = [found for (name, _), found in stats.dead_reasons.items() if name == destination]
        for one in by_kind(of_destination):
            reasons.add_metric((destination, one.kind.value), one.count)
    return reasons


def _of_spool(stats: SpoolStats) -> Iterator[GaugeMetricFamily]:
    used, limit, reserve, unaccounted = _spool_bytes(), _spool_limit(), _spool_reserve(), _unaccounted()
    used.add_metric((), stats.used_bytes)
    limit.add_metric((), stats.limit_bytes)
    reserve.add_metric((), stats.reserve_bytes)
    unaccounted.add_metric((), stats.unaccounted)
    yield from (used, limit, reserve, unaccounted)
    asides, aside_bytes = _asides(), _aside_bytes()
    asides.add_metric((), sum(not aside.brought for aside in stats.asides))
    aside_bytes.add_metric((), sum(aside.size for aside in stats.asides))
    yield from (asides, aside_bytes)


def _of_outboxes(outboxes: Iterable[OutboxStatus]) -> Iterator[GaugeMetricFamily]:
    rows, up = _outbox_waiting(), _outbox_up()
    for outbox in outboxes:
        rows.add_metric((outbox.path,), outbox.rows)
        up.add_metric((outbox.path,), float(outbox.state is not OutboxState.UNUSABLE))
    yield from (rows, up)


def _gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"callspool_{name}", meaning, labels=labels)


def _backlog_records() -> GaugeMetricFamily:
    return _gauge("backlog_records", "Deliveries still to be made.", "destination", "lane")


def _backlog_bytes() -> GaugeMetricFamily:
    return _gauge("backlog_bytes", "Raw bytes of the records still to be delivered.", "destination", "lane")


def _oldest_pending() -> GaugeMetricFamily:
    meaning = "Age of the oldest record still to be delivered; 0 if there is none."
    return _gauge("oldest_pending_seconds", meaning, "destination", "lane")


def _dead_records() -> GaugeMetricFamily:
    return _gauge("dead_records", "Deliveries that are dead letters.", "destination")


def _dead_reasons() -> GaugeMetricFamily:
    meaning = "Why the newest dead letters of each lane, at most 2,000, are some: how many are of each kind of reason."
    return _gauge("dead_reasons", meaning, "destination", "reason")


def _spool_bytes() -> GaugeMetricFamily:
    return _gauge("spool_bytes", "Bytes that the spool takes on disk, write-ahead log and staging included.")


def _asides() -> GaugeMetricFamily:
    meaning = "Damaged databases that were moved aside, and whose records were not brought back by callspool salvage."
    return _gauge("databases_aside", meaning)


def _aside_bytes() -> GaugeMetricFamily:
    return _gauge("aside_bytes", "Bytes of the databases that were moved aside; callspool never deletes them.")


def _spool_limit() -> GaugeMetricFamily:
    return _gauge("spool_limit_bytes", "Bytes that the spool may take at most.")


def _spool_reserve() -> GaugeMetricFamily:
    return _gauge("spool_reserve_bytes", "The last bytes below the limit, which large call logs leave to small ones.")


def _unaccounted() -> GaugeMetricFamily:
    meaning = "Deliveries owed that are neither queued nor dead nor ended, by independent counts. Must be 0."
    return _gauge("unaccounted_records", meaning)


def _outbox_waiting() -> GaugeMetricFamily:
    return _gauge(
        "outbox_waiting_rows", "Rows in an outbox of the SDK: in use there, refused, or still to be taken.", "path"
    )


def _outbox_up() -> GaugeMetricFamily:
    return _gauge("outbox_up", "0 while an outbox is damaged, foreign or closed to this user, else 1.", "path")


# The gauges about destinations and about live calls, read from memory when they are asked for.


def of_destinations(destinations: Iterable[DestinationStatus]) -> Iterator[GaugeMetricFamily]:
    """Whether each configured destination takes deliveries, and how many at once."""
    up, state, trouble, tokens, slots = _families()
    for each in destinations:
        if not each.configured:
            continue
        up.add_metric((each.name,), float(each.up))
        tokens.add_metric((each.name,), each.refused_tokens)
        for known in BreakerState:
            state.add_metric((each.name, known.value), float(each.breaker is known))
        if each.since is not None:
            trouble.add_metric((each.name, short_reason(each.reason)), each.since / 1000)
        for lane, count in each.slots.items():
            slots.add_metric((each.name, lane.value), count)
    yield from (up, state, trouble, tokens, slots)


def of_courtesy(figures: ThrottleStatus | None) -> Iterator[GaugeMetricFamily]:
    """How many calls are live, and whether details are held back for them."""
    live, slowed = _live_calls(), _details_slowed()
    if figures is not None:
        live.add_metric((), figures.live_calls)
        slowed.add_metric((), float(figures.slowed))
    yield from (live, slowed)


def short_reason(reason: str) -> str:
    """A reason fit to be a label: of an answer only its status, since each one may have another body."""
    status, _, _ = redact_text(reason).partition(": ")
    return status if status.startswith("HTTP ") else redact_text(reason)


def _families() -> tuple[GaugeMetricFamily, ...]:
    """Those of destinations, without values."""
    return (
        _gauge("destination_up", "1 while the destination takes deliveries, else 0.", "destination"),
        _gauge("breaker_state", "1 for the state of the destination's circuit breaker.", "destination", "state"),
        _gauge(
            "breaker_open_since_seconds",
            "When the circuit breaker opened (Unix time), by reason; missing while it is closed.",
            "destination",
            "reason",
        ),
        _gauge("refused_tokens", "Tokens of agents that the destination refuses.", "destination"),
        _gauge(
            "concurrency", "Attempts that may be under way at once, as the destination bears.", "destination", "lane"
        ),
    )


def _live_calls() -> GaugeMetricFamily:
    """See its meaning."""
    return _gauge("live_calls", "Calls that began and have not ended.")


def _details_slowed() -> GaugeMetricFamily:
    """See its meaning."""
    return _gauge("details_slowed", "1 while details are held to a slower rate because a call is live, else 0.")
