"""Sends the gateway's own spans to a collector by OTLP/HTTP, with OpenTelemetry's SDK: an extra, imported here alone.

Spans wait in a bounded queue for a thread that sends them. A collector that does not answer costs the spans that find
the queue full, which are counted; it is logged once, and once more when spans arrive again.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from config.settings import TracesSettings
from config.values import mask_address
from gateway.runtime.destinations import DriverMissing
from gateway.telemetry import Context, Kind, Span, Spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

QUEUE: Final = 2048
"""Spans that wait, as OpenTelemetry's SDKs have it: some 3 MB."""
BATCH: Final = 512
CLOSE_SECONDS: Final = 2.0
"""How long the end of the process waits for the last spans to be sent."""

_log = structlog.get_logger("callspool")


class SpanObserver(Protocol):
    """Hears what becomes of spans, for metrics."""

    def spans_exported(self, result: str, count: int) -> None:
        """`result` is sent, failed, or dropped: the queue was full."""


def span_sender(
    settings: TracesSettings, instance: str, observer: SpanObserver, via: str | None = None
) -> "SpanSender | None":
    """Who sends spans; None where nobody wants any. `via` names this gateway in headers. Raises `DriverMissing`."""
    return None if settings.url is None else SpanSender(settings.url, settings.sample_ratio, instance, observer, via)


class SpanSender:
    """Where spans are sent; `spans` makes them. For the event loop that runs."""

    def __init__(self, url: str, share: float, instance: str, observer: SpanObserver, via: str | None) -> None:
        """`share` of the traces that begin here are sampled; `instance` names this process among others."""
        for module in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
            if not _is_installed(module):
                raise DriverMissing(
                    f"traces.endpoint needs OpenTelemetry's SDK: pip install 'callspool[traces]' (there is no {module})"
                )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # an extra
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415  # an extra
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # an extra

        # What the library logs of each try to send would be a line every few seconds of an outage.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._observer = observer
        for result in ("sent", "failed", "dropped"):
            observer.spans_exported(result, 0)
        self._loop = asyncio.get_running_loop()
        self._made = 0
        self._taken = 0
        self._failing = False
        self._endpoint = mask_address(url)
        # The intake of a gateway that is its own collector recognises it, and refuses.
        exporter = OTLPSpanExporter(url, headers={"Via": f"1.1 {via}"} if via else None)
        self._exporter = exporter
        about = {"service.name": "callspool", "service.version": version("callspool"), "service.instance.id": instance}
        resource = Resource(about).merge(OTELResourceDetector().detect())
        self._processor = BatchSpanProcessor(
            _reporting(exporter, self._exported), max_queue_size=QUEUE, max_export_batch_size=BATCH
        )
        self._readable = _readable_of(resource)
        self.spans = Spans(self._put, share)

    async def close(self) -> None:
        """Send what waits, for `CLOSE_SECONDS` at most."""
        # A thread that does not keep the process from ending, unlike one of the loop's.
        ending = threading.Thread(target=self._processor.shutdown, name="spans", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, CLOSE_SECONDS)
        if ending.is_alive():
            await asyncio.to_thread(self._exporter.shutdown)

    def _put(self, span: Span) -> None:
        if self._made - self._taken >= QUEUE:
            self._observer.spans_exported("dropped", 1)
            return
        self._made += 1
        self._processor.on_end(self._readable(span))

    def _exported(self, count: int, *, sent: bool) -> None:
        """In the thread of the processor."""
        self._taken += count
        if self._failing == sent:
            self._failing = not sent
            if sent:
                _log.info("spans_sent_again", endpoint=self._endpoint)
            else:
                lost = "the gateway continues; spans beyond the queue's limit are dropped and counted"
                todo = "check that the collector runs, and accepts OTLP/HTTP at this address (traces.endpoint)"
                _log.warning("spans_not_sent", endpoint=self._endpoint, what_happens=lost, what_to_do=todo)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._observer.spans_exported, "sent" if sent else "failed", count)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not
        return False


def _reporting(exporter: "SpanExporter", report: Callable[..., None]) -> "SpanExporter":
    """The same exporter, which says what became of each batch."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult  # noqa: PLC0415  # an extra

    class Reporting(SpanExporter):
        """Passes on."""

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            """Send a batch."""
            result = SpanExportResult.FAILURE
            try:
                result = exporter.export(spans)
            finally:  # older exporters raise what the network does
                report(len(spans), sent=result is SpanExportResult.SUCCESS)
            return result

        def shutdown(self) -> None:
            """End retries."""
            exporter.shutdown()

    return Reporting()


def _readable_of(resource: object) -> "Callable[[Span], ReadableSpan]":
    """Makes of a span what the SDK exports."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # an extra
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415  # an extra
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415  # an extra
    from opentelemetry.trace import (  # noqa: PLC0415  # an extra
        Link,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TraceFlags,
        TraceState,
    )

    assert isinstance(resource, Resource)
    scope = InstrumentationScope("callspool", version("callspool"))
    kinds = {kind: SpanKind[kind.name] for kind in Kind}
    flags, fine, failed, no_state = TraceFlags(1), Status(StatusCode.UNSET), Status(StatusCode.ERROR), TraceState()

    def context_of(context: Context, *, remote: bool = False) -> SpanContext:
        state = TraceState.from_header([context.state]) if context.state else no_state
        return SpanContext(context.trace_id, context.span_id, remote, flags, state)

    def readable(span: Span) -> ReadableSpan:
        context = span.context
        parent = None if span.parent_id is None else context_of(context._replace(span_id=span.parent_id), remote=True)
        return ReadableSpan(
            name=span.name, context=context_of(context), parent=parent, resource=resource,
            attributes=span.attributes, links=[Link(context_of(link, remote=True)) for link in span.links],
            kind=kinds[span.kind], instrumentation_scope=scope, status=failed if span.failed else fine,
            start_time=span.started, end_time=span.ended,
        )  # fmt: skip

    return readable
