"""The metrics of uploads: to buckets, and through upload addresses."""

from prometheus_client import CollectorRegistry, Counter, Histogram

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
