"""`POST /v1/traces` (OTLP/HTTP): spans are durable when they are answered 200.

Exporters try again after 429, 502, 503 and 504 alone, within ten seconds in all: so what the intake answers 507 is a
503 here, with a Retry-After of one second.
"""

import asyncio
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import msgspec
from aiohttp import web

from gateway.intake.body_reader import BodyReader
from gateway.intake.responses import Rejection, translate
from gateway.intake.routes import ANSWERED, IntakeToken, Match, Result, Route
from gateway.intake.staging import Workers
from gateway.otlp.assembler import TraceAssembler
from gateway.otlp.posts import POST_BYTES, ROW_BYTES, Export, Unreadable, from_json, from_protobuf
from gateway.otlp.spans import SpanRule
from spool.records import Buffer

NAME = "otlp_traces"
"""Labels metrics."""
PROTOBUF, JSON = "application/x-protobuf", "application/json"
_INLINE_BYTES = 16 << 10
"""The spans of this much are read in 2 ms; what is larger is read in a thread."""


class TraceSource:
    """Answers what exporters send. For the event loop."""

    def __init__(
        self,
        reader: BodyReader,
        workers: Workers,
        assembler: TraceAssembler,
        rule: SpanRule,
        token: IntakeToken,
        *,
        serves: bool = True,
    ) -> None:
        """Without `serves` only what is open from before is put together."""
        self.assembler = assembler
        self._serves = serves
        self._reader = reader
        self._workers = workers
        self._rule = rule
        self._token = token
        self._large = asyncio.Semaphore(1)
        """Large posts one after the other: each takes up to three times its size until it is durable."""

    def routes(self) -> Sequence[Route]:
        """Its route, if it is served."""
        return (Route(NAME, "POST", "/v1/traces", self._respond),) if self._serves else ()

    async def _respond(self, request: web.BaseRequest, _match: Match) -> Result | web.StreamResponse:
        """Raises `Rejection`, and what reading and the spool raise."""
        kind = request.content_type
        if kind not in {PROTOBUF, JSON}:
            raise Rejection(
                415, "unknown_type", f"Traces come as {PROTOBUF} or {JSON}, not as {kind[:60]}.", "Set the exporter so."
            )
        if kind == PROTOBUF and not _reads_protobuf():
            hint = "pip install 'callspool[otlp]', or have the exporter send JSON (OTEL_EXPORTER_OTLP_PROTOCOL)."
            raise Rejection(415, "no_protobuf", "This gateway has no protobuf definitions of OpenTelemetry.", hint)
        if (request.content_length or 0) > POST_BYTES:
            raise _too_large()
        try:
            export = await self._spool(request, from_protobuf if kind == PROTOBUF else from_json)
        except Exception as error:
            rejection = translate(error)
            if rejection is None or rejection.status not in {503, 507}:
                raise
            raise Rejection(503, rejection.code, rejection.message, rejection.hint, retry_after=1) from error
        return _answer(export, kind)

    async def _spool(self, request: web.BaseRequest, decode: Callable[[Buffer, SpanRule], Export]) -> Export:
        """Make its spans durable."""
        with await self._reader.read(request) as body:
            size = len(body.data)
            if size > POST_BYTES:
                raise _too_large()
            async with self._large if size > ROW_BYTES else nullcontext():
                try:
                    inline = size <= _INLINE_BYTES
                    export = (
                        decode(body.data, self._rule)
                        if inline
                        else await self._workers.run(decode, body.data, self._rule)
                    )
                except Unreadable as error:
                    hint = "Send an ExportTraceServiceRequest in the encoding that Content-Type names."
                    raise Rejection(400, "not_otlp", f"The body cannot be read: {error}.", hint) from None
                await self.assembler.add(export, self._token.agents_key(request), self._token.tenant_of(request))
                return export


def _reads_protobuf() -> bool:
    """Whether the extra is installed; `find_spec` raises where not even the package above is."""
    try:
        return importlib.util.find_spec("opentelemetry.proto") is not None
    except ModuleNotFoundError:
        return False


def _too_large() -> Rejection:
    hint = "Let the exporter send smaller batches (OTEL_BSP_MAX_EXPORT_BATCH_SIZE)."
    return Rejection(413, "too_large", f"A request with spans may have {POST_BYTES} bytes.", hint, closes=True)


def _answer(export: Export, kind: str) -> Result | web.StreamResponse:
    """Success, partial if spans were rejected, in the encoding of the request."""
    if kind == JSON:
        partial = {"rejectedSpans": str(export.rejected), "errorMessage": export.reason}
        return Result(200, msgspec.json.encode({"partialSuccess": partial} if export.rejected else {}), ANSWERED)
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415  # an extra
        ExportTracePartialSuccess,
        ExportTraceServiceResponse,
    )

    response = ExportTraceServiceResponse()
    if export.rejected:
        partial_success = ExportTracePartialSuccess(rejected_spans=export.rejected, error_message=export.reason)
        response.partial_success.CopyFrom(partial_success)
    return web.Response(body=response.SerializeToString(), content_type=PROTOBUF)
