"""Makes a detail smaller by leaving spans out, for an endpoint that will not have it whole; the spool keeps all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from gateway.calllog.shape import IN_THE_WORKER, Costly, is_dense
from gateway.calllog.split import TELEMETRY, TURNS
from gateway.calllog.summary import Readable, Span, read_elements, read_list, read_members
from gateway.calllog.toplevel import scan
from spool.records import Buffer

_SESSION_SPANS: Final = "session_traces"
_TURN_SPANS: Final = "otel_spans"


@dataclass(frozen=True, slots=True)
class Critical:
    """Keep the spans slower than this, tool calls, and spans with an error."""

    slower_than_ms: float = 1_000.0

    @property
    def name(self) -> str:
        """What `reduced` calls it."""
        return "critical"

    def keeps(self, spans: Sequence[Span]) -> list[bool]:
        """For each span, whether it stays."""
        return [
            span.failed or span.operation_type == "tool" or (span.milliseconds or 0.0) > self.slower_than_ms
            for span in spans
        ]


@dataclass(frozen=True, slots=True)
class TopN:
    """Keep the `n` slowest spans; of equally slow ones the earlier."""

    n: int

    @property
    def name(self) -> str:
        """What `reduced` calls it."""
        return "top_n"

    def keeps(self, spans: Sequence[Span]) -> list[bool]:
        """For each span, whether it stays."""
        slowest = sorted(range(len(spans)), key=lambda index: -(spans[index].milliseconds or 0.0))
        kept = set(slowest[: self.n])
        return [index in kept for index in range(len(spans))]


Policy = Critical | TopN


def reduce_detail(detail: Buffer, policy: Policy) -> tuple[Buffer, ...]:
    """A detail (a whole JSON object) with fewer spans and `"reduced": {"policy", "kept", "total"}`, as pieces.

    The policy is applied to `telemetry_data.session_traces`, and once more to the `otel_spans` of all turns
    together; `kept` and `total` count both. What stays, stays as it came and in its order. What cannot be read as
    such lists is passed on as it is. Raises `CallLogError` when the detail is not a JSON object, and `Costly` for one
    of very many members and elements, each of which would be built here.
    """
    if is_dense(detail):
        raise Costly
    top = scan(detail, bounds=IN_THE_WORKER)
    members = {name: raw for name, raw in top.values.items() if name != "reduced"}
    session = _Session.read(members)
    turns = _Turns.read(members)
    session_keeps = policy.keeps([span for _, span in session.spans])
    turn_keeps = policy.keeps([span for spans in turns.spans for _, span in spans])
    changed: dict[str, list[Buffer]] = {}
    if session.spans:
        changed[TELEMETRY] = session.rebuilt(session_keeps)
    if any(turns.spans):
        changed[TURNS] = turns.rebuilt(turn_keeps)
    keeps = [*session_keeps, *turn_keeps]
    note = {"policy": policy.name, "kept": sum(keeps), "total": len(keeps)}
    pieces: list[Buffer] = [b"{"]
    for name, raw in members.items():
        pieces += [_key(name), *changed.get(name, [memoryview(raw)]), b","]
    return (*pieces, _key("reduced"), msgspec.json.encode(note), b"}")


_RawSpan = tuple[msgspec.Raw, Span]


@dataclass(frozen=True, slots=True)
class _Session:
    """`telemetry_data` and the spans in it."""

    values: Mapping[str, msgspec.Raw]
    spans: list[_RawSpan]

    @classmethod
    def read(cls, members: Mapping[str, msgspec.Raw]) -> "_Session":
        """What a detail's members hold of it; nothing where they are of another kind."""
        values = _object(members.get(TELEMETRY))
        return cls(values, _spans(values.get(_SESSION_SPANS)))

    def rebuilt(self, keeps: Sequence[bool]) -> list[Buffer]:
        """The member's value with those spans that are to be kept, one answer for each span."""
        return _with_list(self.values, _SESSION_SPANS, _kept(self.spans, keeps))


@dataclass(frozen=True, slots=True)
class _Turns:
    """`transcript_with_metrics` and the spans in each turn."""

    turns: list[msgspec.Raw]
    spans: list[list[_RawSpan]]

    @classmethod
    def read(cls, members: Mapping[str, msgspec.Raw]) -> "_Turns":
        """What a detail's members hold of them; none where they are of another kind."""
        turns = (read_elements(members[TURNS]) if TURNS in members else None) or []
        return cls(turns, [_spans(_object(turn).get(_TURN_SPANS)) for turn in turns])

    def rebuilt(self, keeps: Sequence[bool]) -> list[Buffer]:
        """The member's value with those spans that are to be kept, one answer for each span of all turns."""
        remaining = iter(keeps)
        pieces: list[Buffer] = []
        for turn, spans in zip(self.turns, self.spans, strict=True):
            pieces.append(b"," if pieces else b"[")
            if spans:
                kept = _kept(spans, list(islice(remaining, len(spans))))
                pieces += _with_list(_object(turn), _TURN_SPANS, kept)
            else:
                pieces.append(memoryview(turn))
        return [*pieces, b"]"]


def _object(raw: Readable | None) -> Mapping[str, msgspec.Raw]:
    return {} if raw is None else read_members(raw) or {}


def _spans(raw: Readable | None) -> list[_RawSpan]:
    if raw is None or (elements := read_elements(raw)) is None or (spans := read_list(Span, raw)) is None:
        return []
    return list(zip(elements, spans, strict=True))


def _kept(spans: Sequence[_RawSpan], keeps: Sequence[bool]) -> Iterator[msgspec.Raw]:
    return (raw for (raw, _), keep in zip(spans, keeps, strict=True) if keep)


def _with_list(values: Mapping[str, msgspec.Raw], name: str, elements: Iterator[msgspec.Raw]) -> list[Buffer]:
    """The object with this member's value replaced by a list of these elements."""
    pieces: list[Buffer] = []
    for key, raw in values.items():
        pieces += [b"," if pieces else b"{", _key(key)]
        pieces += _list(elements) if key == name else [memoryview(raw)]
    return [*pieces, b"}"]


def _list(elements: Iterator[msgspec.Raw]) -> list[Buffer]:
    pieces: list[Buffer] = []
    for raw in elements:
        pieces += [b"," if pieces else b"[", memoryview(raw)]
    return [*(pieces or [b"["]), b"]"]


def _key(name: str) -> bytes:
    """A member's key and colon; `json` writes lone surrogates as the escapes they came as."""
    return json.dumps(name).encode() + b":"
