"""What an exporter posts (OTLP/HTTP), cut into rows by trace. Pure.

The spans of a row are the bytes that came: on the way to the 200 nothing of a span is built but its ids, and what names
the call. That is a tenth of the work of making call logs of them, which can wait until the call has ended. A post is
looked at a piece at a time, so that neither Python's lock nor much memory is held for all of it at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.otlp.spans import (
    SPAN_ID_BYTES,
    TRACE_ID_BYTES,
    SpanRule,
    at,
    attributes_of,
    bytes_of_hex,
    json_attributes,
)
from spool.records import Buffer, NewSpans

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

POST_BYTES: Final = 20 << 20
"""A larger post is refused, as by OpenTelemetry's own collector."""
ROW_BYTES: Final = 1 << 20
"""Spans of a trace are stored in rows of about this size; a span that is larger is rejected."""
_TRACES_MOST: Final = 10_000
"""Of one post: a batch of a collector has 8,192 spans. Each trace costs the transaction two rows."""
_RESOURCE_BYTES: Final = 16 << 10
"""A resource that is larger is left out, but for what names the call."""
_NAME_BYTES: Final = 1024
"""Of a scope."""
_BYTES_PER_VALUE: Final = 16
"""Of a large post in JSON: it is 20 in one of numbers alone. A list of many tiny values takes 30 times its size."""

AGENT_ID_ATTRIBUTES: Final = ("lk.agent_name", "gen_ai.agent.id", "gen_ai.agent.name", "service.name")
_AGENT_IDS_OF_SPANS: Final = ("lk.agent_name", "gen_ai.agent.name")


class Unreadable(Exception):
    """The body is no OTLP request in the encoding that it names; the message says why."""


@dataclass(slots=True)
class Export:
    """What a request holds."""

    groups: list[NewSpans] = field(default_factory=list)
    """Spans by trace, in rows."""
    accepted: int = 0
    rejected: int = 0
    reason: str = ""
    """Why spans were rejected: the last reason."""

    def reject(self, reason: str) -> None:
        """One more span is rejected."""
        self.rejected += 1
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class _Origin:
    """Where spans come from: their resource and their instrumentation scope."""

    resource: bytes
    scope: bytes
    names: Mapping[str, str]
    """The attributes of the resource that name the call."""
    agent_id: str | None


@dataclass(slots=True)
class _Trace:
    """The spans of one trace while a request is read."""

    trace_id: bytes
    wanted: list[tuple[bytes, str]]
    """Attributes that could name the call, and were in none of its spans yet: as bytes, and as text."""
    names: dict[str, str] = field(default_factory=dict)
    agent_id: str | None = None
    origin: _Origin | None = None
    segments: list[tuple[bytes, bytes, list[bytes]]] = field(default_factory=list)
    """Of the row that is being filled: resource, scope and spans."""
    size: int = 0
    spans: int = 0
    rows: list[tuple[bytes, int, bool]] = field(default_factory=list)
    """Full ones: the row, how many spans it has, and whether the root is among them."""
    ended: bool = False


Attributes = Mapping[str, Any]
Joined = Callable[[Sequence[tuple[bytes, bytes, list[bytes]]]], bytes]
"""Makes a row of segments."""


class _Reader:
    """Collects the spans of one request."""

    def __init__(
        self, data: bytes, rule: SpanRule, joined: Joined, attributes: Callable[[Any], Attributes]
    ) -> None:  # Any: a message, or JSON
        """`attributes` reads those of a span, as `add` was given it."""
        self.rule = rule
        self.export = Export()
        self._joined = joined
        self._attributes = attributes
        self._traces: dict[bytes, _Trace] = {}
        names = dict.fromkeys((*rule.call_id_attributes, *_AGENT_IDS_OF_SPANS))
        self._present = [(name.encode(), name) for name in names if name.encode() in data]
        self._resource_bytes_left = (1 << 20) + 4 * len(data)
        """Resources are stored again for each trace with a root span: a request of many must not grow by it."""

    def origin(self, resource: bytes, scope: bytes, attributes: Attributes) -> _Origin:
        """Of the spans that come next."""
        names = {name: named for name in self.rule.call_id_names if (named := _text(attributes.get(name)))}
        agents = (named for name in AGENT_ID_ATTRIBUTES if (named := _text(attributes.get(name))))
        agent_id = next((name for name in agents if not name.startswith("unknown_service")), None)
        return _Origin(resource if len(resource) <= _RESOURCE_BYTES else b"", scope, names, agent_id)

    def add(self, origin: _Origin, trace_id: bytes, span: bytes, given: object, *, is_root: bool) -> None:
        """One span, as it is stored. Its attributes are read only where one of them could name the call."""
        trace = self._traces.get(trace_id)
        if trace is None:
            if len(self._traces) >= _TRACES_MOST:
                self.export.reject(f"a request has spans of more than {_TRACES_MOST} traces")
                return
            trace = self._traces[trace_id] = _Trace(trace_id, list(self._present))
        resource = b""
        if is_root and origin.resource and len(origin.resource) <= self._resource_bytes_left:
            resource = origin.resource
            self._resource_bytes_left -= len(resource)
        self._name(trace, origin, span, given)
        size = len(span) + 16
        last = trace.segments[-1] if trace.segments else None
        if last is None or origin is not trace.origin or resource:
            size += len(resource) + len(origin.scope)
        if trace.segments and trace.size + size > ROW_BYTES:
            self._end_row(trace)
            last = None
        if last is None or origin is not trace.origin or (resource and not last[0]):
            last = (resource, origin.scope, [])
            trace.segments.append(last)
            trace.origin = origin
        last[2].append(span)
        trace.size += size
        trace.spans += 1
        trace.ended = trace.ended or is_root
        self.export.accepted += 1

    def _name(self, trace: _Trace, origin: _Origin, span: bytes, given: object) -> None:
        if origin is not trace.origin:
            for name, named in origin.names.items():
                trace.names.setdefault(name, named)
            trace.agent_id = trace.agent_id or origin.agent_id
        for encoded, _ in trace.wanted:
            if encoded in span:
                break
        else:
            return
        attributes = self._attributes(given)
        for encoded, name in list(trace.wanted):
            found = _text(attributes.get(name))
            if found is None:
                continue
            if name in self.rule.call_id_names:
                trace.names.setdefault(name, found)
            if name in _AGENT_IDS_OF_SPANS:
                trace.agent_id = trace.agent_id or found
            trace.wanted.remove((encoded, name))

    def _end_row(self, trace: _Trace) -> None:
        trace.rows.append((self._joined(trace.segments), trace.spans, trace.ended))
        trace.segments, trace.size, trace.spans, trace.ended = [], 0, 0, False

    def done(self) -> Export:
        """All of it. That a call has ended stands in the last row of its trace."""
        for trace in self._traces.values():
            self._end_row(trace)
            call_id = next((trace.names[name] for name in self.rule.call_id_attributes if name in trace.names), None)
            ended = any(has_root for _, _, has_root in trace.rows)
            last = len(trace.rows) - 1
            for number, (row, spans, _) in enumerate(trace.rows):
                new = NewSpans(trace.trace_id, row, spans, call_id, trace.agent_id, ended and number == last)
                self.export.groups.append(new)
        return self.export


def _text(value: object) -> str | None:
    """What names a call or an agent; blanks do not."""
    return None if value is None else str(value).strip()[:512] or None


def _fault(trace_id: bytes, span_id: bytes) -> str | None:
    """Why these ids name no span: all zeros are invalid, too (W3C Trace Context)."""
    if len(trace_id) != TRACE_ID_BYTES or not any(trace_id):
        return "a span has no valid trace id of 16 bytes"
    if len(span_id) != SPAN_ID_BYTES or not any(span_id):
        return "a span has no valid span id of 8 bytes"
    return None


def _too_large(size: int) -> str:
    return f"a span of {size} bytes is larger than {ROW_BYTES}"


# Protobuf: the outer messages are walked here, and spans decoded a MiB at a time. Decoding the whole request would hold
# Python's lock for a millisecond for each MiB, and take four times its size.

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIRST, _SECOND = 0x0A, 0x12
"""Tags of the fields 1 and 2 as bytes."""
_LONGEST_VARINT: Final = 10


def from_protobuf(body: Buffer, rule: SpanRule) -> Export:
    """The spans of an `ExportTraceServiceRequest`. An empty body is a valid, empty request. Raises `Unreadable`.

    Needs `opentelemetry-proto` (`callspool[otlp]`).
    """
    from google.protobuf.message import DecodeError  # noqa: PLC0415  # an extra, loaded with the first post

    data = bytes(body)
    reader = _Reader(data, rule, _protobuf_row, lambda span: attributes_of(span.attributes))
    try:
        for number, _, start, end in _fields(data, 0, len(data)):
            if number == 1:
                _read_resource(reader, data, start, end)
    except (DecodeError, IndexError) as error:
        raise Unreadable(f"it is no ExportTraceServiceRequest: {error or 'it is cut off'}") from None
    return reader.done()


def _read_resource(reader: _Reader, data: bytes, start: int, end: int) -> None:
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource  # noqa: PLC0415  # an extra

    resource = _first_field(data, start, end)
    known = Resource.FromString(resource) if len(resource) <= ROW_BYTES else Resource()
    attributes = attributes_of(known.attributes)
    for number, _, scope_start, scope_end in _fields(data, start, end):
        if number == 2:
            _read_scope(reader, data, scope_start, scope_end, resource, attributes)


def _read_scope(reader: _Reader, data: bytes, start: int, end: int, resource: bytes, attributes: Attributes) -> None:
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope  # noqa: PLC0415  # an extra

    scope = _first_field(data, start, end)
    if len(scope) > _NAME_BYTES:
        known = InstrumentationScope.FromString(scope)
        half = _NAME_BYTES // 2
        scope = InstrumentationScope(name=known.name[:half], version=known.version[:half]).SerializeToString()
    origin = reader.origin(resource, scope, attributes)
    places: list[tuple[int, int]] = []
    for number, tag, _, span_end in _fields(data, start, end):
        if number != 2:
            continue
        if span_end - tag > ROW_BYTES:
            reader.export.reject(_too_large(span_end - tag))
            continue
        if places and span_end - places[0][0] > ROW_BYTES:
            _read_spans(reader, origin, data, places)
            places = []
        places.append((tag, span_end))
    if places:
        _read_spans(reader, origin, data, places)


def _read_spans(reader: _Reader, origin: _Origin, data: bytes, places: Sequence[tuple[int, int]]) -> None:
    from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans  # noqa: PLC0415  # an extra

    pieces = [data[start:end] for start, end in places]
    drops = reader.rule.drops_any
    for piece, span in zip(pieces, ScopeSpans.FromString(b"".join(pieces)).spans, strict=True):
        trace_id = span.trace_id
        if (fault := _fault(trace_id, span.span_id)) is not None:
            reader.export.reject(fault)
            continue
        kept = _without(span, piece, reader.rule) if drops else piece
        is_root = not any(span.parent_span_id)
        reader.add(origin, trace_id, kept, span, is_root=is_root)


def _without(span: "Span", piece: bytes, rule: SpanRule) -> bytes:
    """The span without the attributes that are not to be stored."""
    kept = [pair for pair in span.attributes if not rule.drops(pair.key)]
    if len(kept) == len(span.attributes):
        return piece
    copies = [type(pair).FromString(pair.SerializeToString()) for pair in kept]
    span.ClearField("attributes")
    span.attributes.extend(copies)
    return _field(_SECOND, span.SerializeToString())


def _protobuf_row(segments: Sequence[tuple[bytes, bytes, list[bytes]]]) -> bytes:
    """An `ExportTraceServiceRequest`; each span has its tag and length before it, as it came."""
    made = []
    for resource, scope, spans in segments:
        own = _field(_FIRST, resource) if resource else b""
        inner = (_field(_FIRST, scope) if scope else b"") + b"".join(spans)
        made.append(_field(_FIRST, own + _field(_SECOND, inner)))
    return b"".join(made)


def _field(tag: int, content: bytes) -> bytes:
    length, encoded = len(content), bytearray((tag,))
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + content


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields with a length: number, where the tag stands, and from where to where the content.

    Raises `Unreadable`, `IndexError` where the data is cut off.
    """
    while position < end:
        tag = position
        key = data[position]
        position += 1
        if key > 0x7F:
            key, position = _varint(data, tag)
        kind = key & 7
        if kind == _BYTES:
            length = data[position]
            position += 1
            if length > 0x7F:
                length, position = _varint(data, position - 1)
            start, position = position, position + length
            if position > end:
                break
            yield key >> 3, tag, start, position
        elif kind == _VARINT:
            _, position = _varint(data, position)
        elif kind in {_FIXED64, _FIXED32}:
            position += 8 if kind == _FIXED64 else 4
        else:
            raise Unreadable("it is no ExportTraceServiceRequest: a field has an unknown type")
    if position != end:
        raise Unreadable("it is no ExportTraceServiceRequest: a field is longer than its message")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Unreadable("it is no ExportTraceServiceRequest: a number is too long")


def _first_field(data: bytes, start: int, end: int) -> bytes:
    """The content of field 1: a resource, or a scope. Senders write it first."""
    return next((data[at:to] for number, _, at, to in _fields(data, start, end) if number == 1), b"")


# JSON: spans stay as they came, too.


class _Request(msgspec.Struct):
    resources: msgspec.Raw = msgspec.field(name="resourceSpans", default_factory=lambda: msgspec.Raw(b"[]"))


class _OfResource(msgspec.Struct):
    resource: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    scopes: msgspec.Raw = msgspec.field(name="scopeSpans", default_factory=lambda: msgspec.Raw(b"[]"))


class _OfScope(msgspec.Struct):
    scope: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    spans: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"[]"))


class _Ids(msgspec.Struct):
    trace_id: str = msgspec.field(name="traceId", default="")
    span_id: str = msgspec.field(name="spanId", default="")
    parent_id: str | None = msgspec.field(name="parentSpanId", default=None)


_request = msgspec.json.Decoder(_Request).decode
_of_resource = msgspec.json.Decoder(_OfResource).decode
_of_scope = msgspec.json.Decoder(_OfScope).decode
_ids = msgspec.json.Decoder(_Ids).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def from_json(body: Buffer, rule: SpanRule) -> Export:
    """The same of OTLP's JSON. Raises `Unreadable`."""
    data = bytes(body)
    if len(data) > ROW_BYTES and data.count(b",") * _BYTES_PER_VALUE > len(data):
        raise Unreadable("it has more values than spans of its size have")
    try:
        request = _request(data)
    except msgspec.ValidationError:
        raise Unreadable("it is no JSON object") from None
    except _UNREADABLE as error:
        raise Unreadable(f"it is no JSON: {error}") from None
    reader = _Reader(data, rule, _json_row, lambda span: json_attributes(at(_value(span), "attributes")))
    for each in _items(request.resources):
        of_resource = _decoded(each, _of_resource, _OfResource())
        resource = bytes(of_resource.resource)
        attributes = json_attributes(at(_value(resource), "attributes")) if len(resource) <= ROW_BYTES else {}
        for inner in _items(of_resource.scopes):
            of_scope = _decoded(inner, _of_scope, _OfScope())
            origin = reader.origin(resource, _scope_of(bytes(of_scope.scope)), attributes)
            for span in _items(of_scope.spans):
                _read_json_span(reader, origin, bytes(span))
    return reader.done()


def _read_json_span(reader: _Reader, origin: _Origin, span: bytes) -> None:
    ids = _decoded(span, _ids, None)
    if ids is None:
        reader.export.reject("a span is no object with ids in hexadecimal")
        return
    trace_id = bytes_of_hex(ids.trace_id)
    if (fault := _fault(trace_id, bytes_of_hex(ids.span_id))) is not None:
        reader.export.reject(fault)
        return
    if reader.rule.drops_any:
        value = _value(span)
        if not isinstance(value, dict):
            reader.export.reject("a span cannot be read, so that attributes could be left out")
            return
        pairs = [pair for pair in _pairs(value) if not reader.rule.drops(str(at(pair, "key")))]
        span = msgspec.json.encode({**value, "attributes": pairs})
    if len(span) > ROW_BYTES:
        reader.export.reject(_too_large(len(span)))
        return
    is_root = not any(bytes_of_hex(ids.parent_id))
    reader.add(origin, trace_id, span, span, is_root=is_root)


def _pairs(span: Mapping[str, Any]) -> list[Any]:
    pairs = span.get("attributes")
    return pairs if isinstance(pairs, list) else []


def _json_row(segments: Iterable[tuple[bytes, bytes, list[bytes]]]) -> bytes:
    """An `ExportTraceServiceRequest` in JSON."""
    made = [
        b'{%b"scopeSpans":[{"scope":%b,"spans":[%b]}]}'
        % (b'"resource":%b,' % resource if resource else b"", scope, b",".join(spans))
        for resource, scope, spans in segments
    ]
    return b'{"resourceSpans":[%b]}' % b",".join(made)


def _items(raw: msgspec.Raw) -> list[msgspec.Raw]:
    """What a list holds; nothing, if it is none."""
    items: list[msgspec.Raw] = _decoded(raw, _list, [])
    return items


def _decoded(raw: Buffer | msgspec.Raw, decode: Callable[[Any], Any], otherwise: Any) -> Any:  # Any: of four decoders
    try:
        return decode(raw)
    except _UNREADABLE:
        return otherwise


def _value(raw: bytes) -> object:
    return _decoded(raw, msgspec.json.decode, None)


def _scope_of(raw: bytes) -> bytes:
    """The scope with no more than its name and version, each of bounded length."""
    scope, half = _value(raw) if len(raw) <= ROW_BYTES else None, _NAME_BYTES // 2
    return msgspec.json.encode({name: str(at(scope, name) or "")[:half] for name in ("name", "version")})
