"""What is counted of call logs on their way: posts, commits, deliveries, uploads; and the tallies for that.

Several numbers change for each post, on the event loop. The library's own counters take a lock for each of them, which
was a twentieth of the event loop's work for a 2 KB post. Tallies need none: they are counted and collected in the event
loop's thread alone.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from spool.records import Clock, Delivery, Lane, system_clock


class CounterTally(Collector):
    """A counter. `name` ends in `_total`; without labels it is shown before anything was counted, too."""

    def __init__(self, name: str, meaning: str, labels: tuple[str, ...] = (), *, registry: CollectorRegistry) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._counts: dict[tuple[str, ...], float] = {} if labels else {(): 0}
        registry.register(self)

    def inc(self, *labels: str, by: float = 1) -> None:
        """`by` more, for these values of the labels."""
        self._counts[labels] = self._counts.get(labels, 0) + by

    def value(self, *labels: str) -> float:
        """As it stands, for these values of the labels."""
        return self._counts.get(labels, 0)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """As it stands."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        yield family


class GaugeTally(Collector):
    """A gauge that is set now and then."""

    def __init__(self, name: str, meaning: str, labels: tuple[str, ...], *, registry: CollectorRegistry) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def set(self, value: float, *labels: str) -> None:
        """As it is now, for these values of the labels."""
        self._values[labels] = value

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As it stands."""
        family = GaugeMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class HistogramTally(Collector):
    """A histogram: how many values lay at or below each of `bounds`, which ascend, and their sum."""

    def __init__(
        self,
        name: str,
        meaning: str,
        bounds: tuple[float, ...],
        labels: tuple[str, ...] = (),
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds = bounds
        self._labels = labels
        self._counts: dict[tuple[str, ...], list[int]] = {} if labels else {(): self._zeros()}
        self._sums: dict[tuple[str, ...], float] = dict.fromkeys(self._counts, 0.0)
        registry.register(self)

    def observe(self, value: float, *labels: str) -> None:
        """One more value, for these values of the labels."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = self._zeros()
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """As it stands."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        names = [str(floatToGoString(bound)) for bound in (*self._bounds, inf)]  # type: ignore[no-untyped-call]  # the library left it so
        for labels, counts in self._counts.items():
            buckets = list(zip(names, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family

    def counts(self) -> list[int]:
        """How many values lay in each bucket, over all values of the labels; the last one has no upper bound."""
        return [sum(column) for column in zip(self._zeros(), *self._counts.values(), strict=True)]

    def _zeros(self) -> list[int]:
        return [0] * (len(self._bounds) + 1)


# What is counted.

_ACK_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from a 2 KB post alone on a fast disk to the time-out of the SDK (30 s)."""
DELIVERY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Seconds: from an endpoint next door to a large upload over a thin line."""
_COMMIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from a fast SSD to a disk that is about to fail."""
_ARRIVAL_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 3600.0, 24 * 3600.0)
"""Seconds: from an endpoint next door to one that was down for a day."""
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Requests: from a lone post to a burst."""


class SpoolMetrics:
    """Counts and times what happens to call logs from their post to their last delivery. For the event loop.

    Implements the observers of the intake, the spool, the dispatcher and the uploads.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left this one without types
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._declare_intake()
        self._declare_spool()
        self._declare_deliveries()
        self._declare_uploads()

    def posted(self, route: str, result: str) -> None:
        """A post was answered; both words come from small fixed sets."""
        self._posts.inc(route, result)

    def acknowledged(self, seconds: float) -> None:
        """A post was acknowledged `seconds` after its headers came."""
        self._ack.observe(seconds)

    def payload(self, raw: int, stored: int) -> None:
        """A record of `raw` bytes was stored in `stored` bytes."""
        self._accepted_records += 1
        self._payload.inc("raw", by=raw)
        self._payload.inc("stored", by=stored)

    def stray_token(self) -> None:
        """A new record has a `token` that is no credential."""
        self._stray_tokens.inc()

    def redacted(self, counts: Mapping[str, int]) -> None:
        """Rules of redaction found something in a record."""
        for rule, count in counts.items():
            self._redacted.inc(rule, by=count)

    def nonfinite_numbers(self, count: int) -> None:
        """A record had `count` NaN or Infinity."""
        self._nonfinite.inc(by=count)

    def details_given_up(self, count: int) -> None:
        """Details were given up to make room."""
        self._given_up.inc(by=count)

    def two_phase(self) -> None:
        """A call log was split."""
        self._two_phase.inc()

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended: `outcome` is one of those in `DispatchObserver.attempted`."""
        lane = str(delivery.lane)  # `.value` of an enum is a function of Python's
        self._deliveries.inc(delivery.destination, lane, outcome)
        if outcome == "delivered" and delivery.lane is Lane.CORE:
            seconds_here = max(0, self._clock() - delivery.record.accepted_at) / 1000  # the clock may be set back
            self._arrival.observe(seconds_here, delivery.destination)
        self._delivery.observe(seconds, delivery.destination, lane)

    def committed(self, seconds: float, batch: int) -> None:
        """The spool committed `batch` requests together."""
        self._commit.observe(seconds)
        self._batch.observe(batch)

    def part_sent(self, destination: str, size: int, *, repeated: bool) -> None:  # noqa: ARG002  # as a whole
        """A part arrived: objects are measured as a whole."""
        self._parts.inc(destination, "repeated" if repeated else "sent")

    def parts_resumed(self, destination: str, count: int) -> None:
        """Parts were at the server already."""
        self._parts.inc(destination, "resumed", by=count)

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """An object was sent and confirmed."""
        self._upload.observe(seconds, destination)
        self._upload_bytes.inc(destination, by=size)
        if large:
            self._large.inc(destination)

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """Uploads were aborted at the server, or could not be."""
        self._aborted.inc(destination, "aborted", by=count)
        self._aborted.inc(destination, "failed", by=failed)

    def read_back(self, destination: str, size: int) -> None:
        """An object was read back."""
        self._read_back.inc(destination, by=size)

    pace_bounds = (_ACK_BOUNDS, _ARRIVAL_BOUNDS, _COMMIT_BOUNDS)
    """The bounds of `pace_counts`."""

    def pace_counts(self) -> tuple[list[int], ...]:
        """How long acknowledgements, cores on their way, and commits took so far, by bucket."""
        return self._ack.counts(), self._arrival.counts(), self._commit.counts()

    def accepted(self) -> int:
        """Call logs that were accepted since the start, by whichever way."""
        return int(self._accepted_records)

    def _declare_intake(self) -> None:
        self._accepted_records = 0
        self._posts = self._counter("posts", "Posts by route and result.", "route", "result")
        self._ack = self._histogram(
            "ack_seconds", "Time from the headers of a post to its durable answer.", _ACK_BOUNDS
        )
        self._payload = self._counter(
            "payload_bytes",
            "Bytes of accepted call logs: raw (decoded), or stored (compressed, in the spool).",
            "stage",
        )
        self._two_phase = self._counter("two_phase", "Call logs that were split into core and detail.")
        self._nonfinite = self._counter("nonfinite_numbers", "NaN and Infinity in accepted call logs, sent on as null.")
        self._redacted = self._counter("redacted", "Values replaced in accepted call logs, by rule.", "rule")
        self._stray_tokens = self._counter(
            "stray_tokens", "Accepted call logs whose top-level token is not a credential; it is left in place."
        )

    def _declare_spool(self) -> None:
        self._commit = self._histogram("commit_seconds", "Duration of a commit to the spool.", _COMMIT_BOUNDS)
        self._batch = self._histogram("commit_batch_size", "Requests that shared one commit.", BATCH_BOUNDS)
        self._given_up = self._counter(
            "details_given_up", "Details evicted to make room in a full spool (spool.when_full)."
        )

    def _declare_deliveries(self) -> None:
        self._deliveries = self._counter(
            "deliveries",
            "Delivery attempts by outcome: delivered, retry, held, diverted, dead or corrupt.",
            "destination",
            "lane",
            "outcome",
        )
        self._delivery = self._histogram(
            "delivery_seconds", "Duration of a delivery attempt.", DELIVERY_BOUNDS, "destination", "lane"
        )
        self._arrival = self._histogram(
            "core_delivered_seconds",
            "Time from accepting a call log to delivering its core, or all of it if it is small.",
            _ARRIVAL_BOUNDS,
            "destination",
        )

    def _declare_uploads(self) -> None:
        """To buckets, and through upload addresses."""
        self._large = self._counter(
            "large_payloads",
            "Details and large wholes delivered as objects, to a bucket or an upload address.",
            "destination",
        )
        self._upload = self._histogram(
            "upload_seconds",
            "Time to send and confirm an object, at a bucket or an upload address.",
            DELIVERY_BOUNDS,
            "destination",
        )
        self._upload_bytes = self._counter(
            "upload_bytes", "Bytes of delivered objects, as stored in the bucket.", "destination"
        )
        self._parts = self._counter(
            "upload_parts",
            "Parts of objects: sent, repeated (sent again, since the first result is unknown), or resumed (already "
            "at the server after a restart or failure).",
            "destination",
            "result",
        )
        self._aborted = self._counter(
            "uploads_aborted",
            "Abandoned multipart uploads: aborted at the server, or failed to abort.",
            "destination",
            "result",
        )
        self._read_back = self._counter(
            "upload_read_back_bytes",
            "Bytes read back because the server returned no checksum of the object.",
            "destination",
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> CounterTally:
        return CounterTally(f"callspool_{name}_total", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...], *labels: str) -> HistogramTally:
        return HistogramTally(f"callspool_{name}", meaning, bounds, labels, registry=self.registry)
