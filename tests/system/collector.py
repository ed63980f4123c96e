"""A collector of spans that tests run: it takes OTLP/HTTP as OpenTelemetry's own does, and keeps what came."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Listens on loopback while it is used as a context manager."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.via: list[str | None] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def settings(self) -> dict[str, str]:
        """The variables of a gateway that sends its spans here, soon after they ended."""
        return {"CALLSPOOL_TRACES_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    async def _take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.via.append(request.headers.get("Via"))
        return web.Response(content_type="application/x-protobuf")

    @property
    def resources(self) -> list[dict[str, str]]:
        """The attributes of each request's resource."""
        return [
            {one.key: one.value.string_value for one in each.resource.attributes}
            for body in self.bodies
            for each in ExportTraceServiceRequest.FromString(body).resource_spans
        ]

    @property
    def spans(self) -> list[Span]:
        """All that came, in order."""
        return list(self._spans())

    def _spans(self) -> Iterator[Span]:
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    yield from scope.spans

    def named(self, name: str) -> list[Span]:
        """Those of this name."""
        return [span for span in self._spans() if span.name == name]


def attributes_of(span: Span) -> dict[str, object]:
    """By name."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in span.attributes}


def way_of(span: Span, spans: list[Span]) -> list[str]:
    """The names of a span and of all above it, as far as they came; the last is the id of the parent that did not."""
    by_id = {each.span_id: each for each in spans}
    names = [span.name]
    while span.parent_span_id in by_id:
        span = by_id[span.parent_span_id]
        names.append(span.name)
    return [*names, span.parent_span_id.hex()]
