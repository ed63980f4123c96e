"""The metrics that the gateway counts as it goes; what can be read at any time is in `gateway.admin.gauges`.

`posted` and `acknowledged` run for every post, thousands of times a second: the children of labelled metrics are
kept, which makes a count 0.5 us instead of 1.6 us.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from gateway.admin.outbox_metrics import OutboxMetrics
from gateway.admin.upload_metrics import UploadMetrics
from spool.records import Delivery, Lane

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
        self._posts = _Counters(
            Counter("callspool_posts_total", "Posts by route and result.", ("route", "result"), registry=self.registry)
        )
        self._deliveries = _Counters(
            Counter(
                "callspool_deliveries_total",
                "Attempts to deliver, by what came of them: delivered, retry, held, diverted, dead or corrupt.",
                ("destination", "lane", "outcome"),
                registry=self.registry,
            )
        )
        self._payload = _Counters(
            Counter(
                "callspool_payload_bytes_total",
                "Bytes of accepted call logs: raw as decoded, stored as compressed in the spool.",
                ("stage",),
                registry=self.registry,
            )
        )
        self._two_phase = Counter(
            "callspool_two_phase_total", "Call logs that were split into core and detail.", registry=self.registry
        )
        self._nonfinite = Counter(
            "callspool_nonfinite_numbers_total",
            "NaN and Infinity in accepted call logs, sent on as null.",
            registry=self.registry,
        )
        self._given_up = Counter(
            "callspool_details_given_up_total",
            "Details that were given up to make room in a full spool (spool.when_full).",
            registry=self.registry,
        )
        self._ack = self._histogram("ack_seconds", "From the headers of a post to its durable answer.", _ACK_BOUNDS)
        self._commit = self._histogram("commit_seconds", "How long a commit of the spool took.", _COMMIT_BOUNDS)
        self._batch = self._histogram("commit_batch_size", "Requests that shared one commit.", _BATCH_BOUNDS)
        self._delivery = Histogram(
            "callspool_delivery_seconds",
            "How long an attempt to deliver took.",
            ("destination", "lane"),
            registry=self.registry,
            buckets=_DELIVERY_BOUNDS,
        )
        self._delivery_children: dict[tuple[str, Lane], Histogram] = {}

    def posted(self, route: str, result: str) -> None:
        """A post was answered; both words come from small fixed sets."""
        self._posts.of(route, result).inc()

    def acknowledged(self, seconds: float) -> None:
        """A post was acknowledged so long after its headers came."""
        self._ack.observe(seconds)

    def payload(self, raw: int, stored: int) -> None:
        """A record of so many raw bytes was stored in so many."""
        self._payload.of("raw").inc(raw)
        self._payload.of("stored").inc(stored)

    def nonfinite_numbers(self, count: int) -> None:
        """A record had so many NaN or Infinity."""
        self._nonfinite.inc(count)

    def details_given_up(self, count: int) -> None:
        """So many details were given up for room."""
        self._given_up.inc(count)

    def two_phase(self) -> None:
        """A call log was split."""
        self._two_phase.inc()

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended: `outcome` is one of those in `DispatchObserver.attempted`."""
        lane = delivery.lane
        self._deliveries.of(delivery.destination, lane.value, outcome).inc()
        child = self._delivery_children.get((delivery.destination, lane))
        if child is None:
            child = self._delivery.labels(delivery.destination, lane.value)
            self._delivery_children[delivery.destination, lane] = child
        child.observe(seconds)

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        """Nothing is counted here: `destination_up` is read from the dispatcher when it is asked for."""

    def committed(self, seconds: float, batch: int) -> None:
        """The spool committed so many requests together."""
        self._commit.observe(seconds)
        self._batch.observe(batch)

    def _histogram(self, name: str, meaning: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(f"callspool_{name}", meaning, registry=self.registry, buckets=bounds)


class _Counters:
    """A labelled counter whose children are kept."""

    __slots__ = ("_children", "_counter")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[tuple[str, ...], Counter] = {}

    def of(self, *labels: str) -> Counter:
        """The counter with these values of its labels."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._counter.labels(*labels)
        return child
