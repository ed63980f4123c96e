"""The metrics of rows that are rescued from the SDK's outboxes."""

from prometheus_client import CollectorRegistry, Counter

from gateway.outbox.rows import Outcome


class OutboxMetrics:
    """Counts rows. Implements the observer of `gateway.outbox`."""

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
