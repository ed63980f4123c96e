"""The gateway's own spans: what became of a post, from its arrival to the last attempt to deliver it.

    the agent's span
    └─ send_call_log          the post, until it was answered
       ├─ receive, parse     where either took a millisecond
       └─ commit              until the record was durable
          └─ deliver core     one for each form and destination, until it was delivered or dead
             ├─ attempt
             └─ attempt       what its destination is sent as `traceparent`

A record keeps the context of its commit, and the id of a delivery's span is made of its key. So what is sent after a
restart belongs to the same tree, whatever process began it. No span says what a call log holds, who called or with
which token: a record's id leads to all of that, for whoever may see it.

A parent that is sampled, or not, decides for all below it; without a parent the trace's id does, by the share that is
wanted. Without an endpoint for spans nothing of this is constructed.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from hashlib import blake2b
from random import getrandbits
from typing import Final, NamedTuple

from msgspec.structs import replace

from spool.records import Delivery, DeliveryKey, Record

_ENDED = frozenset({"delivered", "dead", "corrupt", "diverted"})
"""Outcomes of an attempt (`DispatchObserver.attempted`) after which a delivery is not attempted again by itself."""
MOST_LINKS = 128
"""Of one span, as OpenTelemetry's SDKs limit it."""
_NANOSECONDS = 1_000_000
"""Of a millisecond."""
_SHORT = 1_000_000
"""Nanoseconds that a stage takes at least which is a span of its own."""


class Kind(StrEnum):
    """What a span is in relation to other services, as OpenTelemetry has it."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    CONSUMER = "consumer"


class Context(NamedTuple):
    """Where a span is: its trace and its id, and what its trace's vendors want to be passed on."""

    trace_id: int
    span_id: int
    state: str = ""

    def child(self) -> "Context":
        """A new span of the same trace."""
        return self._replace(span_id=getrandbits(64) or 1)

    @property
    def text(self) -> str:
        """As `Record.trace_context` has it."""
        parent = f"00-{self.trace_id:032x}-{self.span_id:016x}-01"
        return f"{parent} {self.state}" if self.state else parent


class Span(NamedTuple):
    """A span that ended. Times in nanoseconds since the Unix epoch."""

    name: str
    kind: Kind
    context: Context
    parent_id: int | None
    started: int
    ended: int
    attributes: Mapping[str, str | int | bool]
    failed: bool = False
    links: tuple[Context, ...] = ()


_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(r"[\x20-\x7e]{1,512}")
"""What W3C Trace Context asks everybody to pass on at least."""


def trace_context(parent: str, state: str) -> str | None:
    """A `traceparent` and a `tracestate` as `Record.trace_context` has them, without what is malformed."""
    if _PARENT.fullmatch(parent) is None:
        return None
    state = state.strip()
    return f"{parent} {state}" if _STATE.fullmatch(state) else parent


def sampled(trace_context: str) -> Context | None:
    """The span of a `traceparent`, and perhaps `tracestate`, that was checked; None where its trace is not sampled."""
    parent, _, state = trace_context.partition(" ")
    if not int(parent[53:55], 16) & 1:
        return None
    return Context(int(parent[3:35], 16), int(parent[36:52], 16), state)


class Spans:
    """Makes spans and gives them to `sink`, which must not wait. For the event loop."""

    def __init__(self, sink: Callable[[Span], None], share: float) -> None:
        """`share`, from 0 to 1, of the traces that begin here are sampled."""
        self._sink = sink
        self._below = round(share * 2**64)
        self._under_way: dict[DeliveryKey, tuple[int, int]] = {}
        """Attempts: their spans' ids, and when they began."""

    # Posts -----------------------------------------------------------------------------------------------------

    def post(self, trace_context: str | None) -> "PostSpan | None":
        """A post that begins now, in the span that its sender named; None where nothing of it is wanted."""
        if trace_context is None:
            root = Context(getrandbits(128) or 1, getrandbits(64) or 1)
            return PostSpan(self._sink, root, None) if self._wants(root.trace_id) else None
        parent = sampled(trace_context)
        return None if parent is None else PostSpan(self._sink, parent.child(), parent.span_id)

    # Deliveries ------------------------------------------------------------------------------------------------

    def attempting(self, delivery: Delivery) -> Delivery:
        """An attempt begins: the delivery as its destination is to get it, in the span of the attempt."""
        found = self._parent_of(delivery.record)
        if found is None:
            return delivery
        attempt = found[0].child()
        self._under_way[delivery.key] = attempt.span_id, time.time_ns()
        return replace(delivery, record=replace(delivery.record, trace_context=attempt.text))

    def attempted(self, delivery: Delivery, outcome: str) -> None:
        """An attempt ended, and with it perhaps the delivery. What was cancelled is told of by nobody."""
        begun, found = self._under_way.pop(delivery.key, None), self._parent_of(delivery.record)
        if begun is None or found is None:
            return
        (context, parent_id), (attempt_id, started), now = found, begun, time.time_ns()
        of_delivery = context._replace(span_id=_delivery_id(delivery))
        about: dict[str, str | int | bool] = {
            "callspool.record_id": delivery.record.uid,
            "callspool.destination": delivery.destination,
            "callspool.form": str(delivery.form),
            "callspool.outcome": outcome,
        }
        failed = outcome not in {"delivered", "diverted"}
        number = {"callspool.attempt": delivery.attempts + 1}
        attempt = context._replace(span_id=attempt_id)
        self._sink(Span("attempt", Kind.CLIENT, attempt, of_delivery.span_id, started, now, about | number, failed))
        if outcome in _ENDED:
            began, many = delivery.record.accepted_at * _NANOSECONDS, {"callspool.attempts": delivery.attempts + 1}
            name = f"deliver {delivery.form}"
            self._sink(Span(name, Kind.INTERNAL, of_delivery, parent_id, began, now, about | many, failed))

    # What is worked on together, or beside posts ------------------------------------------------------------------

    def batch(self, name: str, contexts: Iterable[str], started: int, count: int, *, failed: bool) -> None:
        """Work that began at `started` on what came in spans of several traces, which it is linked to, ended."""
        root = Context(getrandbits(128) or 1, getrandbits(64) or 1)
        links = [context for text in contexts if (context := sampled(text)) is not None][:MOST_LINKS]
        if not links and not self._wants(root.trace_id):
            return
        about = {"messaging.batch.message_count": count}
        self._sink(Span(name, Kind.CONSUMER, root, None, started, time.time_ns(), about, failed, tuple(links)))

    def job(self, trace_context: str | None) -> "JobSpan | None":
        """Work that begins now in the trace of a record, or in one of its own; None where nothing of it is wanted."""
        if trace_context is not None:
            parent = sampled(trace_context)
            return None if parent is None else JobSpan(self._sink, parent.child(), parent.span_id)
        root = Context(getrandbits(128) or 1, getrandbits(64) or 1)
        return JobSpan(self._sink, root, None) if self._wants(root.trace_id) else None

    def _wants(self, trace_id: int) -> bool:
        """As OpenTelemetry's SDKs decide by a trace's id: services that want the same share want the same traces."""
        return trace_id & (2**64 - 1) < self._below

    def _parent_of(self, record: Record) -> tuple[Context, int | None] | None:
        """The trace of a record, and its commit's span; that of one without a context is made of the record's id."""
        if record.trace_context is not None:
            parent = sampled(record.trace_context)
            return None if parent is None else (parent, parent.span_id)
        trace_id = int.from_bytes(blake2b(record.uid.encode(), digest_size=16).digest()) or 1
        return (Context(trace_id, 0), None) if self._wants(trace_id) else None


def _delivery_id(delivery: Delivery) -> int:
    """The same in every process."""
    key = f"{delivery.idempotency_key}\0{delivery.destination}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest()) or 1


class PostSpan:
    """A post that is being answered, and what is done for it; as a context manager it is the `current_post`."""

    __slots__ = ("_ended", "_parent_id", "_reset", "_sink", "_started", "context", "trace_context")

    def __init__(self, sink: Callable[[Span], None], context: Context, parent_id: int | None) -> None:
        self.context = context
        self.trace_context = context.text
        self._sink = sink
        self._parent_id = parent_id
        self._started = time.time_ns()
        self._ended = False

    def __enter__(self) -> "PostSpan":
        self._reset = current_post.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current_post.reset(self._reset)

    def stage(self, name: str, started: int, context: Context | None = None, **about: str | int | bool) -> None:
        """A part of it that began at `started` ended now: a span if it was long, or if its `context` is known already.

        For a small post there are as many spans as somebody looks at, and half as many as there could be.
        """
        now = time.time_ns()
        if self._ended or (context is None and now - started < _SHORT):
            return
        stage = context or self.context.child()
        attributes = {f"callspool.{key}": value for key, value in about.items()}
        self._sink(Span(name, Kind.INTERNAL, stage, self.context.span_id, started, now, attributes))

    def ended(self, route: str, method: str, status: int, outcome: str) -> None:
        """It was answered with `status`; `outcome` is what metrics count. A path is not named: it may be a secret."""
        self._ended = True
        attributes: dict[str, str | int | bool] = {
            "http.request.method": method,
            "http.response.status_code": status,
            "callspool.outcome": outcome,
        }
        span = Span(route, Kind.SERVER, self.context, self._parent_id, self._started, time.time_ns(), attributes)
        self._sink(span._replace(failed=status >= 500))


current_post: Final[ContextVar[PostSpan | None]] = ContextVar("post", default=None)
"""The post that is being answered, where it is sampled."""


class JobSpan:
    """Work in steps on one call."""

    def __init__(self, sink: Callable[[Span], None], context: Context, parent_id: int | None) -> None:
        self._sink = sink
        self._context = context
        self._parent_id = parent_id
        self._started = time.time_ns()

    def step(self, name: str, outcome: str, seconds: float) -> None:
        """A step that took so long ended now."""
        now = time.time_ns()
        about = {"callspool.outcome": outcome}
        began = now - round(seconds * 1e9)
        step = self._context.child()
        self._sink(Span(f"step {name}", Kind.INTERNAL, step, self._context.span_id, began, now, about))

    def ended(self, outcome: str) -> None:
        """All of it ended."""
        about, failed = {"callspool.outcome": outcome}, outcome not in {"done", "postponed"}
        now = time.time_ns()
        self._sink(Span("pipeline", Kind.CONSUMER, self._context, self._parent_id, self._started, now, about, failed))
