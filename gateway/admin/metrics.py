"""The metrics that the gateway counts as it goes; what can be read at any time is in `gateway.admin.gauges`."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.sdk_outbox.rows import Outcome
from spool.records import Delivery

# Counters and histograms that are counted on the event loop, several for each post, and shown when they are asked for.
#
# The library's own take a lock for each number that changes, which was a twentieth of the event loop's work for a 2 KB
# post. These need none: they are counted and collected in the event loop's thread alone.


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

    def collect(self) -> Iterator[CounterMetricFamily]:
        """As it stands."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
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

    def _zeros(self) -> list[int]:
        return [0] * (len(self._bounds) + 1)


_ACK_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from a 2 KB post alone on a fast disk to the time-out of the SDK (30 s)."""
_DELIVERY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Seconds: from an endpoint next door to a large upload over a thin line."""
_COMMIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: from a fast SSD to a disk that is about to fail."""
_BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Requests: from a lone post to a burst."""


class Metrics:
    """Counts and times what happens. Implements the dispatcher's and the spool's observers."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left this one without types
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.uploads = UploadMetrics(self.registry)
        self.outboxes = OutboxMetrics(self.registry)
        self._posts = self._counter("posts", "Posts by route and result.", "route", "result")
        self._deliveries = self._counter(
            "deliveries",
            "Attempts to deliver, by what came of them: delivered, retry, held, diverted, dead or corrupt.",
            "destination",
            "lane",
            "outcome",
        )
        self._payload = self._counter(
            "payload_bytes",
            "Bytes of accepted call logs: raw as decoded, stored as compressed in the spool.",
            "stage",
        )
        self._two_phase = self._counter("two_phase", "Call logs that were split into core and detail.")
        self._nonfinite = self._counter("nonfinite_numbers", "NaN and Infinity in accepted call logs, sent on as null.")
        self._given_up = self._counter(
            "details_given_up", "Details that were given up to make room in a full spool (spool.when_full)."
        )
        self._ack = self._histogram("ack_seconds", "From the headers of a post to its durable answer.", _ACK_BOUNDS)
        self._commit = self._histogram("commit_seconds", "How long a commit of the spool took.", _COMMIT_BOUNDS)
        self._batch = self._histogram("commit_batch_size", "Requests that shared one commit.", _BATCH_BOUNDS)
        self._delivery = self._histogram(
            "delivery_seconds", "How long an attempt to deliver took.", _DELIVERY_BOUNDS, "destination", "lane"
        )

    def posted(self, route: str, result: str) -> None:
        """A post was answered; both words come from small fixed sets."""
        self._posts.inc(route, result)

    def acknowledged(self, seconds: float) -> None:
        """A post was acknowledged so long after its headers came."""
        self._ack.observe(seconds)

    def payload(self, raw: int, stored: int) -> None:
        """A record of so many raw bytes was stored in so many."""
        self._payload.inc("raw", by=raw)
        self._payload.inc("stored", by=stored)

    def nonfinite_numbers(self, count: int) -> None:
        """A record had so many NaN or Infinity."""
        self._nonfinite.inc(by=count)

    def details_given_up(self, count: int) -> None:
        """So many details were given up for room."""
        self._given_up.inc(by=count)

    def two_phase(self) -> None:
        """A call log was split."""
        self._two_phase.inc()

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended: `outcome` is one of those in `DispatchObserver.attempted`."""
        lane = delivery.lane.value
        self._deliveries.inc(delivery.destination, lane, outcome)
        self._delivery.observe(seconds, delivery.destination, lane)

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        """Nothing is counted here: `destination_up` is read from the dispatcher when it is asked for."""

    def committed(self, seconds: float, batch: int) -> None:
        """The spool committed so many requests together."""
        self._commit.observe(seconds)
        self._batch.observe(batch)

    def _counter(self, name: str, meaning: str, *labels: str) -> CounterTally:
        return CounterTally(f"callspool_{name}_total", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...], *labels: str) -> HistogramTally:
        return HistogramTally(f"callspool_{name}", meaning, bounds, labels, registry=self.registry)


# The metrics of uploads: to buckets, and through upload addresses.

_UPLOAD_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Seconds: from a small object to a server next door to a large one over a thin line."""
_DESTINATION = ("destination",)


class UploadMetrics:
    """Counts and times uploads. Implements the observers of `uploaders.s3` and of `uploaders.presigned`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._large = Counter(
            "callspool_large_payloads_total",
            "Details and large wholes that were delivered as objects, to a bucket or through an upload address.",
            _DESTINATION,
            registry=registry,
        )
        self._seconds = Histogram(
            "callspool_upload_seconds",
            "How long an object took to be sent and confirmed, by a bucket or through an upload address.",
            _DESTINATION,
            registry=registry,
            buckets=_UPLOAD_BOUNDS,
        )
        self._bytes = Counter(
            "callspool_upload_bytes_total",
            "Bytes of the objects that were delivered, as they are stored there.",
            _DESTINATION,
            registry=registry,
        )
        self._parts = Counter(
            "callspool_upload_parts_total",
            "Parts of objects: sent, repeated (sent again, since nobody saw the end of the first time), "
            "or resumed (there already after a restart or a failure, and not sent again).",
            ("destination", "result"),
            registry=registry,
        )
        self._aborted = Counter(
            "callspool_uploads_aborted_total",
            "Uploads in parts that nobody will complete: aborted at the server, or failed to be.",
            ("destination", "result"),
            registry=registry,
        )
        self._read_back = Counter(
            "callspool_upload_read_back_bytes_total",
            "Bytes that were read back because the server told no checksum that proves the object.",
            _DESTINATION,
            registry=registry,
        )

    def part_sent(
        self,
        destination: str,
        size: int,  # noqa: ARG002  # objects are measured as a whole
        seconds: float,  # noqa: ARG002  # objects are measured as a whole
        *,
        repeated: bool,
    ) -> None:
        """A part arrived."""
        self._parts.labels(destination, "repeated" if repeated else "sent").inc()

    def parts_resumed(self, destination: str, count: int) -> None:
        """So many parts were there already."""
        self._parts.labels(destination, "resumed").inc(count)

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """An object was sent and confirmed."""
        self._seconds.labels(destination).observe(seconds)
        self._bytes.labels(destination).inc(size)
        if large:
            self._large.labels(destination).inc()

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """Uploads were aborted at the server, or could not be."""
        self._aborted.labels(destination, "aborted").inc(count)
        self._aborted.labels(destination, "failed").inc(failed)

    def read_back(self, destination: str, size: int) -> None:
        """An object was read back."""
        self._read_back.labels(destination).inc(size)


# The metrics of rows that are rescued from the SDK's outboxes.


class OutboxMetrics:
    """Counts rows. Implements the observer of `gateway.sdk_outbox`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Counter(
            "callspool_outbox_rows_total",
            "Rows of the SDK's outbox: rescued, duplicate (its post had been accepted), superseded (an end without "
            "telemetry of a call whose end is known), or refused (no call log; left there).",
            ("path", "outcome"),
            registry=registry,
        )
        self._bytes = Counter(
            "callspool_outbox_rescued_bytes_total",
            "Bytes of the rows that became new records of the spool.",
            ("path",),
            registry=registry,
        )

    def row_settled(self, path: str, outcome: Outcome, size: int) -> None:
        """A row was taken, or will not be."""
        self._rows.labels(path, outcome.value).inc()
        if outcome is Outcome.RESCUED:
            self._bytes.labels(path).inc(size)
