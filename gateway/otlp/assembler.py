"""Watches open traces, and makes one call log of each when it is closed.

A trace is closed some seconds after its root span came, which ends last; when the call's own end was posted;
when no span came for minutes; or when it has grown too large. What comes after that is an update of its call.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from gateway.calllog.errors import CallLogError
from gateway.intake.accept import Acceptor, Arrival, owner_of
from gateway.intake.parse import CallLog
from gateway.intake.responses import Rejection
from gateway.intake.staging import StagingArea
from gateway.live_calls import ENDED, STARTED
from gateway.otlp.assemble import SpanLines, redacted
from gateway.otlp.posts import Export
from gateway.otlp.spans import SpanRule
from spool.errors import SpoolError
from spool.records import (
    TENANT_PREFIX,
    Clock,
    ClosedTrace,
    NewSpans,
    OpenTrace,
    OwnedCall,
    TraceRow,
    principal_of,
    tenant_of,
)
from uploaders.tasks import Tasks, to_the_end

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
"""How often to look for traces that are to be closed."""
_RETRY_MS = 5_000
"""After a failure a trace is left alone for so long."""
_REMEMBERED_MS = 3600 * 1000
"""As the spool does: what is closed is remembered for an hour."""
_REMEMBERED_MOST = 10_000
"""Of traces that are closed. A later span of one that is forgotten finds its call log in the spool."""
_OPEN_MOST = 50_000
"""Of traces whose spans wait: some 25 MB. More are refused until some are closed."""

Key = tuple[bytes, str]
"""A trace id, and who posted it."""


class TraceStore(Protocol):
    """The durable store of spans (`spool.queue.traces.Traces`)."""

    async def add(self, posted: Sequence[NewSpans], token: str | None, principal: str) -> None:
        """Make spans durable. Raises `SpoolError`."""

    async def open(self) -> list[OpenTrace]:
        """Every trace that is remembered; those first that were quiet longest."""

    def rows(self, trace_id: bytes, principal: str) -> AsyncIterator[TraceRow]:
        """The spans of a trace, row by row."""

    async def token_id(self, trace_id: bytes, principal: str) -> int | None:
        """Where the sender's key is kept, if a post of this trace brought one."""

    imported: Callable[[NewSpans, str, int], None]
    """Called with spans that a salvage brought, who posted them, and how many call logs their trace has."""

    async def has_ended(self, call_id: str, principal: str) -> bool:
        """Whether this principal posted an end of this call, or all of it at once."""

    async def erase(self, trace_id: bytes, principal: str) -> None:
        """Delete a trace with its spans. Raises `SpoolError`."""


class TraceObserver(Protocol):
    """Observes spans for metrics, on the event loop."""

    def otlp_spans(self, result: str, count: int) -> None:
        """So many spans were accepted, rejected, or late."""

    def otlp_open_calls(self, count: int) -> None:
        """So many traces are open."""


@dataclass(frozen=True, slots=True)
class ClosingRule:
    """When a trace is closed. Times in milliseconds."""

    close_after: int = 5_000
    """Without a span, once the root span came."""
    idle_after: int = 300_000
    """Without a span, whatever came before."""
    spans_max: int = 100_000
    bytes_max: int = 64 << 20
    """Of its spans as they came."""


class TraceAssembler:
    """The open traces of a gateway. For the event loop."""

    def __init__(
        self,
        store: TraceStore,
        acceptor: Acceptor,
        staging: StagingArea,
        rule: ClosingRule,
        spans: SpanRule,
        token_of: Callable[[int], Awaitable[str | None]],
        observer: TraceObserver,
        clock: Clock,
    ) -> None:
        self._store = store
        self._acceptor = acceptor
        self._staging = staging
        self._rule = rule
        self._spans = spans
        self._token_of = token_of
        self._observer = observer
        self._clock = clock
        self._open: dict[Key, OpenTrace] = {}
        """Traces whose spans wait; those first that were quiet longest."""
        self._ending: set[Key] = set()
        """Those of them that are to be closed after some quiet seconds, or at once."""
        self._closed: dict[Key, OpenTrace] = {}
        """Traces of which a call log was made, for what comes late."""
        self._calls: dict[str, set[Key]] = {}
        """The open traces of each call."""
        self._not_before: dict[Key, int] = {}
        self._last_seen = 0
        self._some = asyncio.Event()
        """Whether there are traces."""
        self._tasks = Tasks()

    async def open(self) -> None:
        """Read which traces are open from before."""
        now = self._last_seen = self._clock()
        for trace in await self._store.open():
            key = trace.trace_id, trace.principal
            trace.last_at = min(trace.last_at, now)
            if not trace.spans:
                self._closed[key] = trace
                continue
            self._watch(key, trace, [])
            if not trace.closed:
                self._live(trace, STARTED)
        self._store.imported = self._note_imported
        self._count()

    def start(self) -> None:
        """Begin to close what is to be closed."""
        self._tasks.keep(self._run)

    async def close(self) -> None:
        """Stop watching; what is open stays in the spool for the next start."""
        await self._tasks.cancel()

    async def add(self, export: Export, token: str | None, tenant: str | None = None) -> None:
        """Make the spans of a post durable; `tenant` is whose token came with it.

        Raises `SpoolError`, and `Rejection` (503) where too many traces are open; then none of them is kept.
        """
        if export.groups:
            if len(self._open) >= _OPEN_MOST:
                message = f"{len(self._open)} traces are open."
                raise Rejection(503, "too_many_traces", message, "They are closed when they end.", retry_after=1)
            principal = principal_of(tenant, token)
            groups: Sequence[NewSpans] = export.groups
            if self._acceptor.redacts:
                groups = await self._redacted(groups, token, tenant)
            groups = [new for new in groups if not self._is_erased(new, principal, token)]
            await to_the_end(self._keep(groups, token, principal))
        self._observer.otlp_spans("accepted", export.accepted)
        if export.rejected:
            self._observer.otlp_spans("rejected", export.rejected)

    async def _keep(self, groups: Sequence[NewSpans], token: str | None, principal: str) -> None:
        """Durable spans are watched, whether their sender still waits or not."""
        await self._store.add(groups, token, principal)
        self._note(groups, principal)

    def _is_erased(self, new: NewSpans, principal: str, token: str | None) -> bool:
        return self._acceptor.is_erased(new.call_id or new.trace_id.hex(), principal, new.agent_id, token)

    def erased(self, calls: Collection[OwnedCall]) -> None:
        """These calls were erased with their spans: no call log is made of them."""
        for key, trace in list(self._open.items()):
            call_id = _call_id_of(trace)
            tenant = tenant_of(self._acceptor.principal_of_agent(trace.principal, trace.agent_id, None)) or ""
            if OwnedCall(call_id) in calls or OwnedCall(call_id, tenant) in calls:
                self._drop(key, trace)
        self._count()

    def _drop(self, key: Key, trace: OpenTrace) -> None:
        """Nothing of this trace waits any more."""
        self._forget_call(key, trace)
        self._open.pop(key, None)
        self._ending.discard(key)
        self._not_before.pop(key, None)
        self._live(trace, ENDED)

    async def _redacted(self, groups: Sequence[NewSpans], token: str | None, tenant: str | None) -> list[NewSpans]:
        """The spans of a post as they may be stored."""
        found = []
        for new in groups:
            rules = self._acceptor.redaction_of(new.agent_id, token, tenant)
            found += [new] if rules is None else await self._staging.workers.run(redacted, [new], rules)
        return found

    def _note(self, groups: Iterable[NewSpans], principal: str) -> None:
        now = self._clock()
        self._last_seen = max(self._last_seen, now)
        for new in groups:
            key = new.trace_id, principal
            trace = self._open.pop(key, None) or self._closed.pop(key, None)
            if trace is None:
                trace = OpenTrace(new.trace_id, principal, None, None, now, now, None, 0, 0, 0)
                self._live(trace, STARTED)
            if trace.closed:
                self._observer.otlp_spans("late", new.spans)
            trace.last_at = now
            trace.root_at = trace.root_at or (now if new.ended else None)
            trace.spans += new.spans
            trace.raw_bytes += len(new.data)
            self._watch(key, trace, [new])
        self._count()

    def _note_imported(self, new: NewSpans, principal: str, closed: int) -> None:
        self._note([new], principal)
        trace = self._open[new.trace_id, principal]
        trace.closed = max(trace.closed, closed)

    def _watch(self, key: Key, trace: OpenTrace, posted: Sequence[NewSpans]) -> None:
        """Spans of this trace wait."""
        for new in posted:
            trace.agent_id = trace.agent_id or new.agent_id
            if trace.call_id is None and new.call_id is not None:
                self._forget_call(key, trace)
                trace.call_id = new.call_id
        self._open[key] = trace
        self._calls.setdefault(_call_id_of(trace), set()).add(key)
        if trace.root_at is not None or trace.closed or self._is_full(trace):
            self._ending.add(key)

    def _note_end(self, call_id: str, principal: str) -> None:
        """An end of this call was accepted."""
        for key in self._calls.get(call_id, ()):
            theirs = key[1]
            # Where tenants are named by their agents, spans do not know theirs yet.
            named_later = principal.startswith(TENANT_PREFIX) and not theirs.startswith(TENANT_PREFIX)
            if theirs == principal or named_later:
                self._ending.add(key)

    def _is_full(self, trace: OpenTrace) -> bool:
        return trace.spans >= self._rule.spans_max or trace.raw_bytes >= self._rule.bytes_max

    def _due(self, now: int) -> list[Key]:
        """What is to be closed now."""
        due = [
            key
            for key in self._ending
            if self._is_full(self._open[key]) or now - self._open[key].last_at >= self._rule.close_after
        ]
        for key, trace in self._open.items():
            if now - trace.last_at < self._rule.idle_after:
                break
            if key not in self._ending:
                due.append(key)
        return [key for key in due if now >= self._not_before.get(key, 0)]

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(_LOOK_SECONDS)
            await self.close_due()

    async def close_due(self) -> None:
        """Close every trace that is to be closed now; one that cannot be is tried again later."""
        now = self._clock()
        if now < self._last_seen:
            self._forget_the_future(now)
        self._last_seen = now
        for key in self._due(now):
            trace = self._open.get(key)
            if trace is None:  # it was erased while another one was closed
                continue
            try:
                await self._close(key, trace)
            except (SpoolError, OSError, CallLogError, Rejection, ImportError) as error:
                _log.warning("trace_not_closed", trace_id=trace.trace_id.hex(), reason=str(error))
                self._not_before[key] = now + _RETRY_MS
            except Exception as error:  # noqa: BLE001  # a defect that one trace meets must not keep the others open
                _log.error("unexpected error with a trace", trace_id=trace.trace_id.hex(), exc_info=error)
                self._not_before[key] = now + _RETRY_MS
        self._forget(now)

    def _forget_the_future(self, now: int) -> None:
        """The clock was set back: nothing waits until it is as late again."""
        for trace in (*self._open.values(), *self._closed.values()):
            trace.last_at = min(trace.last_at, now)
        self._not_before.clear()

    async def _close(self, key: Key, trace: OpenTrace) -> None:
        """Make a call log of the spans that are there, and delete them with its acceptance."""
        token_id = await self._store.token_id(trace.trace_id, trace.principal)
        token = None if token_id is None else await self._token_of(token_id)
        call_id = _call_id_of(trace)
        if self._acceptor.is_erased(call_id, trace.principal, trace.agent_id, token):  # spans that were on their way
            await self._store.erase(trace.trace_id, trace.principal)
            self._drop(key, trace)
            self._count()
            return
        owner = self._acceptor.principal_of_agent(trace.principal, trace.agent_id, token)
        update = trace.closed > 0 or await self._store.has_ended(call_id, owner)
        lines = SpanLines(self._staging.begin(), self._spans)
        try:
            closed = await self._read(trace, lines)
            body = await self._staging.workers.run(
                lines.call_log, trace.trace_id.hex(), call_id, trace.agent_id, update=update
            )
        except BaseException:
            lines.staged.discard()
            raise
        with body:
            arrival = Arrival(agents_key=token, owner=owner_of(trace.principal), closes=closed)
            parsed = await self._acceptor.parse(body, arrival)
            assert isinstance(parsed, CallLog), "it has an id and is no reference"
            await self._acceptor.accept(parsed, arrival)
        trace.spans -= closed.spans
        trace.raw_bytes -= closed.raw_bytes
        trace.closed += 1
        trace.root_at = None
        if self._open.get(key) is not trace:  # it was erased meanwhile
            return
        if trace.spans > 0:
            self._live(trace, ENDED)
        else:
            self._drop(key, trace)
            self._closed[key] = trace
        self._count()

    async def _read(self, trace: OpenTrace, lines: SpanLines) -> ClosedTrace:
        """Read its spans, up to the limits of a call log; what is returned says which rows they came from."""
        last_row = spans = size = 0
        async for row in self._store.rows(trace.trace_id, trace.principal):
            last_row, spans, size = row.row_id, spans + row.spans, size + row.raw_bytes
            if row.data is None:
                # What is whole is delivered, and says what is not.
                _log.error("spans_damaged", trace_id=trace.trace_id.hex(), spans=row.spans)
                lines.damaged += row.spans
                self._observer.otlp_spans("damaged", row.spans)
            else:
                await self._staging.workers.run(lines.add, row)
            if size >= self._rule.bytes_max or spans >= self._rule.spans_max:
                break
        return ClosedTrace(trace.trace_id, trace.principal, last_row, spans, size)

    def _forget_call(self, key: Key, trace: OpenTrace) -> None:
        keys = self._calls.get(_call_id_of(trace))
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._calls[_call_id_of(trace)]

    def _forget(self, now: int) -> None:
        while self._closed:
            key, trace = next(iter(self._closed.items()))
            if len(self._closed) <= _REMEMBERED_MOST and now - trace.last_at <= _REMEMBERED_MS:
                break
            del self._closed[key]
        self._count()

    def _live(self, trace: OpenTrace, event: str) -> None:
        """A call whose spans come is live, so that details make room for it, as for one that was posted."""
        self._acceptor.open_calls.accepted(trace.trace_id.hex(), event, self._clock(), trace.principal)

    def _count(self) -> None:
        # Where no spans come, nothing looks for them, and posts cost nothing more.
        if self._open or self._closed:
            self._some.set()
        else:
            self._some.clear()
        self._acceptor.open_calls.call_ended = self._note_end if self._open else None
        self._observer.otlp_open_calls(len(self._open))


def _call_id_of(trace: OpenTrace) -> str:
    return trace.call_id or trace.trace_id.hex()
