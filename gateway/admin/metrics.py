"""The metrics that the gateway counts as it goes; what can be read at any time is in `gateway.admin.gauges`."""

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from gateway.admin.outbox_metrics import OutboxMetrics
from gateway.admin.tallies import CounterTally, HistogramTally
from gateway.admin.upload_metrics import UploadMetrics
from spool.records import Delivery

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
