"""Watches open traces, and makes one call log of each when it is closed.

A trace is closed some seconds after its root span came, which ends last; when the call's own `call_ended` was posted;
when no span came for minutes; or when it has grown too large. What comes after that is an update of its call.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway.calllog.errors import CallLogError
from gateway.intake.accept import Acceptor, owner_of
from gateway.intake.body_reader import body_of
from gateway.intake.parse import CallLog
from gateway.intake.staging import StagingArea
from gateway.live_calls import ENDED, STARTED
from gateway.otlp.assemble import assemble
from gateway.otlp.spans import Export
from spool.errors import CorruptPayload, SpoolError
from spool.records import Clock, ClosedTrace, NewSpans, OpenTrace, principal_of

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
"""How often to look for traces that are to be closed."""
_RETRY_MS = 5_000
"""After a failure a trace is left alone for so long."""


class TraceStore(Protocol):
    """The durable store of spans (`spool.queue.traces.Traces`)."""

    async def add(self, posted: Sequence[NewSpans], token: str | None, principal: str) -> None:
        """Make spans durable. Raises `SpoolError`."""
        ...

    async def open(self) -> list[OpenTrace]:
        """Every trace that is remembered."""
        ...

    def spans(self, trace_id: bytes) -> AsyncIterator[tuple[int, bytes]]:
        """The spans of a trace, row by row."""
        ...

    async def has_ended(self, call_id: str, principal: str) -> bool:
        """Whether this principal posted a `call_ended` of this call."""
        ...


class TraceObserver(Protocol):
    """Observes spans for metrics, on the event loop."""

    def otlp_spans(self, result: str, count: int) -> None:
        """So many spans were accepted, rejected, or late."""
        ...

    def otlp_open_calls(self, count: int) -> None:
        """So many traces are open."""
        ...


@dataclass(frozen=True, slots=True)
class ClosingRule:
    """When a trace is closed. Times in milliseconds."""

    close_after: int = 5_000
    """Without a span, once the root span came."""
    idle_after: int = 300_000
    """Without a span, whatever came before."""
    spans_max: int = 100_000
    bytes_max: int = 64 << 20
    """Of its spans as JSON."""


class TraceAssembler:
    """The open traces of a gateway. For the event loop."""

    def __init__(
        self,
        store: TraceStore,
        acceptor: Acceptor,
        staging: StagingArea,
        rule: ClosingRule,
        token_of: Callable[[int], Awaitable[str | None]],
        observer: TraceObserver,
        clock: Clock,
    ) -> None:
        self._store = store
        self._acceptor = acceptor
        self._staging = staging
        self._rule = rule
        self._token_of = token_of
        self._observer = observer
        self._clock = clock
        self._traces: dict[bytes, OpenTrace] = {}
        self._not_before: dict[bytes, int] = {}
        self._ended: set[str] = set()
        """Calls of open traces whose own end was posted."""
        self._some = asyncio.Event()
        """Whether there are traces."""
        self._running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Read which traces are open from before."""
        self._traces = {trace.trace_id: trace for trace in await self._store.open()}
        for trace in self._traces.values():
            if trace.spans and not trace.closed:
                self._live(trace, STARTED)
        self._count()

    def start(self) -> None:
        """Begin to close what is to be closed."""
        self._running = asyncio.create_task(self._run(), name="otlp-traces")

    async def close(self) -> None:
        """Stop watching; what is open stays in the spool for the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def add(self, export: Export, token: str | None, tenant: str | None = None) -> None:
        """Make the spans of a post durable; `tenant` is whose token came with it.

        Raises `SpoolError`; then none of them is kept.
        """
        if export.groups:
            principal = principal_of(tenant, token)
            await self._store.add(export.groups, token, principal)
            self._note(export.groups, principal)
        self._observer.otlp_spans("accepted", export.accepted)
        if export.rejected:
            self._observer.otlp_spans("rejected", export.rejected)

    def _note(self, groups: Iterable[NewSpans], principal: str) -> None:
        now = self._clock()
        for new in groups:
            trace = self._traces.get(new.trace_id)
            if trace is None:
                trace = OpenTrace(new.trace_id, None, None, principal, None, now, now, None, 0, 0, 0)
                self._traces[new.trace_id] = trace
                self._live(trace, STARTED)
            if trace.closed:
                self._observer.otlp_spans("late", new.spans)
            trace.call_id = trace.call_id or new.call_id
            trace.agent_id = trace.agent_id or new.agent_id
            trace.last_at = max(trace.last_at, now)
            trace.root_at = trace.root_at or (now if new.ended else None)
            trace.spans += new.spans
            trace.raw_bytes += len(new.data)
        self._count()

    def _note_end(self, call_id: str) -> None:
        if any(_call_id_of(trace) == call_id for trace in self._traces.values()):
            self._ended.add(call_id)

    def _is_due(self, trace: OpenTrace, now: int) -> bool:
        rule, quiet = self._rule, now - trace.last_at
        if not trace.spans or now < self._not_before.get(trace.trace_id, 0):
            return False
        if trace.spans >= rule.spans_max or trace.raw_bytes >= rule.bytes_max or quiet >= rule.idle_after:
            return True
        ended = trace.root_at is not None or trace.closed > 0 or _call_id_of(trace) in self._ended
        return ended and quiet >= rule.close_after

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(_LOOK_SECONDS)
            await self.close_due()

    async def close_due(self) -> None:
        """Close every trace that is to be closed now; one that cannot be is tried again later."""
        now = self._clock()
        for trace in [each for each in self._traces.values() if self._is_due(each, now)]:
            try:
                await self._close(trace)
            except (SpoolError, OSError, CallLogError) as error:
                _log.warning("trace_not_closed", trace_id=trace.trace_id.hex(), reason=str(error))
                self._not_before[trace.trace_id] = now + _RETRY_MS
        self._forget(now)

    async def _close(self, trace: OpenTrace) -> None:
        """Make a call log of the spans that are there, and delete them with its acceptance."""
        lines, closed = await self._read(trace)
        call_id = _call_id_of(trace)
        update = trace.closed > 0 or await self._store.has_ended(call_id, trace.principal)
        pieces = await self._staging.workers.run(
            assemble, trace.trace_id.hex(), call_id, trace.agent_id, lines, update=update
        )
        token = None if trace.token_id is None else await self._token_of(trace.token_id)
        with await body_of(pieces, self._staging) as body:
            parsed = await self._acceptor.parse(body)
            assert isinstance(parsed, CallLog), "it has an id and is no reference"
            await self._acceptor.accept(parsed, token, owner=owner_of(trace.principal), closes=closed)
        trace.spans -= closed.spans
        trace.raw_bytes -= closed.raw_bytes
        trace.closed += 1
        trace.root_at = None
        self._live(trace, ENDED)
        self._count()

    async def _read(self, trace: OpenTrace) -> tuple[list[bytes], ClosedTrace]:
        """The lines of its spans, up to the limit of its size, and the rows that they came from."""
        lines: list[bytes] = []
        last_row = size = 0
        try:
            async for row, data in self._store.spans(trace.trace_id):
                lines += data.split(b"\n")
                last_row, size = row, size + len(data)
                if size >= self._rule.bytes_max:
                    break
        except CorruptPayload as error:
            # What came before the damage is delivered; the scrub reports the database.
            _log.error("spans_damaged", trace_id=trace.trace_id.hex(), reason=str(error))
            if not lines:
                raise
        return lines, ClosedTrace(trace.trace_id, last_row, len(lines), size)

    def _forget(self, now: int) -> None:
        """As the spool does: what is closed is remembered for an hour."""
        old = [key for key, trace in self._traces.items() if not trace.spans and now - trace.last_at > 3600 * 1000]
        for key in old:
            self._ended.discard(_call_id_of(self._traces.pop(key)))
            self._not_before.pop(key, None)
        self._count()

    def _live(self, trace: OpenTrace, event: str) -> None:
        """A call whose spans come is live, so that details make room for it, as for one that was posted."""
        self._acceptor.open_calls.accepted(trace.trace_id.hex(), event, self._clock(), trace.principal)

    def _count(self) -> None:
        # Where no spans come, nothing looks for them, and posts cost nothing more.
        if self._traces:
            self._some.set()
            self._acceptor.call_ended = self._note_end
        else:
            self._some.clear()
            self._acceptor.call_ended = None
        self._observer.otlp_open_calls(sum(1 for trace in self._traces.values() if trace.spans))


def _call_id_of(trace: OpenTrace) -> str:
    return trace.call_id or trace.trace_id.hex()
