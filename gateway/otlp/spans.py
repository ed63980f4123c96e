"""OTLP/HTTP requests as spans in the form that call logs have. Pure.

Protobuf and JSON of the same spans give the same result: ids as hexadecimal text, times as whole nanoseconds, values of
attributes as plain JSON. The JSON mapping of OTLP is not that of protobuf: ids are hexadecimal there, not base64, and
the library's own parser turns 16 bytes into 24 without a word (opentelemetry-proto, "JSON Protobuf Encoding").
"""

import base64
import binascii
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from spool.records import Buffer, NewSpans

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

ROW_BYTES: Final = 1 << 20
"""Spans of a trace are stored in rows of about this size; a span that is larger is rejected."""
_MOST_ATTRIBUTES: Final = 1024
_STATUS: Final = ("UNSET", "OK", "ERROR")
_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_INT64: Final = 1 << 63

CALL_ID_ATTRIBUTES: Final = (
    "lk.room_sid",
    "conversation.id",
    "gen_ai.conversation.id",
    "session.id",
    "lk.job_id",
)
"""What names a call, in LiveKit Agents 1.8, Pipecat 1.14 and OpenTelemetry's own conventions; the first wins."""
AGENT_ID_ATTRIBUTES: Final = ("lk.agent_name", "gen_ai.agent.id", "gen_ai.agent.name", "service.name")

_encode = msgspec.json.Encoder().encode


class Unreadable(Exception):
    """The body is no OTLP request in the encoding that it names; the message says why."""


@dataclass(frozen=True, slots=True)
class SpanRule:
    """How spans are read."""

    call_id_attributes: tuple[str, ...] = CALL_ID_ATTRIBUTES
    drop_attributes: frozenset[str] = frozenset()
    """Attributes that are left out, by name, or by what they begin with where they end in `*`."""
    drop_prefixes: tuple[str, ...] = ()

    @property
    def call_id_names(self) -> frozenset[str]:
        """The attributes that name a call, without their order."""
        return _as_set(self.call_id_attributes)

    @property
    def drops_any(self) -> bool:
        """Whether any attribute is left out."""
        return bool(self.drop_attributes or self.drop_prefixes)

    @classmethod
    def of(cls, call_id_attributes: Iterable[str], drop_attributes: Iterable[str]) -> "SpanRule":
        """The configured call id attributes are asked before the known ones."""
        dropped = tuple(drop_attributes)
        return cls(
            tuple(dict.fromkeys((*call_id_attributes, *CALL_ID_ATTRIBUTES))),
            frozenset(name for name in dropped if not name.endswith("*")),
            tuple(name[:-1] for name in dropped if name.endswith("*")),
        )

    def drops(self, name: str) -> bool:
        """Whether this attribute is left out."""
        return name in self.drop_attributes or name.startswith(self.drop_prefixes)


@cache
def _as_set(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(names)


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


class _Group:
    """The spans of one trace while a request is read."""

    def __init__(self, trace_id: bytes) -> None:
        self.trace_id = trace_id
        self.lines: list[bytes] = []
        self.size = 0
        self.names: dict[str, str] = {}
        self.agent_id: str | None = None
        self.ended = False
        self._resource: Mapping[str, Any] | None = None

    def learn(self, rule: SpanRule, attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> None:
        """What a span and its resource say of the call. A resource is looked at once: it is the same for many spans."""
        found = attributes.keys() & rule.call_id_names
        if resource is not self._resource:
            self._resource = resource
            found |= resource.keys() & rule.call_id_names
            named = next((str(value) for name in AGENT_ID_ATTRIBUTES if (value := resource.get(name))), None)
            if self.agent_id is None and named is not None and not named.startswith("unknown_service"):
                self.agent_id = named[:512]
        if self.agent_id is None and (agent := attributes.get("lk.agent_name", attributes.get("gen_ai.agent.name"))):
            self.agent_id = str(agent)[:512]
        for name in found - self.names.keys():
            value = attributes.get(name, resource.get(name))
            if value is not None and (named := str(value).strip()):
                self.names[name] = named[:512]

    def rows(self, rule: SpanRule) -> Iterator[NewSpans]:
        """In rows of about `ROW_BYTES`."""
        call_id = next((self.names[name] for name in rule.call_id_attributes if name in self.names), None)
        batch: list[bytes] = []
        size = 0
        for line in self.lines:
            if batch and size + len(line) > ROW_BYTES:
                yield self._row(batch, call_id, ended=False)
                batch, size = [], 0
            batch.append(line)
            size += len(line) + 1
        yield self._row(batch, call_id, ended=self.ended)

    def _row(self, lines: list[bytes], call_id: str | None, *, ended: bool) -> NewSpans:
        return NewSpans(self.trace_id, b"\n".join(lines), len(lines), call_id, self.agent_id, ended)


def from_protobuf(body: Buffer, rule: SpanRule) -> Export:
    """The spans of an `ExportTraceServiceRequest`. An empty body is a valid, empty request. Raises `Unreadable`.

    Needs `opentelemetry-proto` (`callspool[otlp]`).
    """
    from google.protobuf.message import DecodeError  # noqa: PLC0415  # an extra, loaded with the first post
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: PLC0415

    try:
        request = ExportTraceServiceRequest.FromString(bytes(body))
    except DecodeError as error:
        raise Unreadable(f"it is no ExportTraceServiceRequest: {error}") from None
    spans = (
        (_attributes(of_resource.resource.attributes), in_scope.scope.name, in_scope.scope.version, span)
        for of_resource in request.resource_spans
        for in_scope in of_resource.scope_spans
        for span in in_scope.spans
    )
    return _export((_from_message(*each) for each in spans), rule)


def from_json(body: Buffer, rule: SpanRule) -> Export:
    """The same of OTLP's JSON. Raises `Unreadable`."""
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"it is no JSON: {error}") from None
    if not isinstance(request, dict):
        raise Unreadable("it is no JSON object")
    spans = (
        (_json_attributes(_at(of_resource, "resource", "attributes")), _at(in_scope, "scope"), span)
        for of_resource in _list(request, "resourceSpans")
        for in_scope in _list(of_resource, "scopeSpans")
        for span in _list(in_scope, "spans")
    )
    return _export((_from_json(*each) for each in spans), rule)


Read = tuple[bytes, dict[str, Any], Mapping[str, Any]] | str
"""The trace id, the span, and its resource's attributes; or why it is rejected."""


def _export(spans: Iterable[Read], rule: SpanRule) -> Export:
    export = Export()
    groups: dict[bytes, _Group] = {}
    for read in spans:
        if isinstance(read, str):
            export.reject(read)
            continue
        trace_id, span, resource = read
        group = groups.get(trace_id) or groups.setdefault(trace_id, _Group(trace_id))
        attributes: dict[str, Any] = span["attributes"]
        group.learn(rule, attributes, resource)
        if rule.drops_any:
            span["attributes"] = {name: value for name, value in attributes.items() if not rule.drops(name)}
        if span["parent_span_id"] is None:
            span["resource"] = dict(resource)
        line = _encode(span)
        if len(line) > ROW_BYTES:
            export.reject(f"a span of {len(line)} bytes is larger than {ROW_BYTES}")
            continue
        group.lines.append(line)
        group.ended = group.ended or span["parent_span_id"] is None
        export.accepted += 1
    export.groups = [row for group in groups.values() if group.lines for row in group.rows(rule)]
    return export


def _span(
    name: str, trace_id: bytes, span_id: bytes, parent_id: bytes, start: int, end: int, **more: Any
) -> dict[str, Any]:
    """In the form of call logs (`telemetry_data.session_traces`)."""
    duration = max(0, end - start) if start and end else 0
    return {
        "name": name,
        "operation_type": operation_type(name, more["attributes"]),
        "context": {"trace_id": trace_id.hex(), "span_id": span_id.hex()},
        "parent_span_id": parent_id.hex() if parent_id else None,
        "start_time_ns": _time(start),
        "end_time_ns": _time(end),
        "duration_ns": duration,
        "duration_ms": duration / 1e6,
        **more,
    }


def _time(nanoseconds: int) -> int | str:
    """A time beyond 64 bits with sign stays as text."""
    return nanoseconds if nanoseconds < _INT64 else str(nanoseconds)


_OPERATIONS: Final = {
    "agent_session": "session_management",
    "agent_speaking": "assistant_interaction",
    "agent_turn": "assistant_interaction",
    "conversation": "session_management",
    "function_tool": "tool",
    "job_entrypoint": "session_management",
    "session_close": "session_management",
    "session_start": "session_management",
    "turn": "assistant_interaction",
    "user_speaking": "user_interaction",
    "user_turn": "user_interaction",
}
_OPERATIONS_OF_GEN_AI: Final = {
    "chat": "llm",
    "execute_tool": "tool",
    "generate_content": "llm",
    "text_completion": "llm",
}


def operation_type(name: str, attributes: Mapping[str, Any]) -> str:
    """What call logs call this operation, by the names that LiveKit and Pipecat give their spans."""
    lowered = name.lower().replace(".", "_")
    if (known := _OPERATIONS.get(lowered)) is not None:
        return known
    words = lowered.split("_")
    spoken = next((kind for kind in ("llm", "tts", "stt") if kind in words), None)
    return spoken or _OPERATIONS_OF_GEN_AI.get(str(attributes.get("gen_ai.operation.name")), "other")


def _from_message(resource: Mapping[str, Any], scope: str, version: str, span: "Span") -> Read:
    if (fault := _id_fault(span.trace_id, span.span_id)) is not None:
        return fault
    attributes = _attributes(span.attributes)
    events = [
        {"name": each.name, "timestamp_ns": _time(each.time_unix_nano), "attributes": _attributes(each.attributes)}
        for each in span.events
    ]
    links = [
        {"trace_id": each.trace_id.hex(), "span_id": each.span_id.hex(), "attributes": _attributes(each.attributes)}
        for each in span.links
    ]
    parent = span.parent_span_id if any(span.parent_span_id) else b""
    made = _span(
        span.name, span.trace_id, span.span_id, parent, span.start_time_unix_nano, span.end_time_unix_nano,
        **_rest(attributes, events, links, span.kind, span.status.code, span.status.message, scope, version),
    )  # fmt: skip
    return span.trace_id, made, resource


def _rest(
    attributes: dict[str, Any], events: list[dict[str, Any]], links: list[dict[str, Any]], kind: int, status: int,
    message: str, scope: str, version: str,
) -> dict[str, Any]:  # fmt: skip
    """The members of a span that both encodings give in the same way."""
    return {
        "kind": _KINDS[kind] if 0 <= kind < len(_KINDS) else str(kind),
        "status": {
            "code": status,
            "name": _STATUS[status] if 0 <= status < len(_STATUS) else str(status),
            **({"description": message} if message else {}),
        },
        "attributes": attributes,
        "events": events,
        "exceptions": [each["attributes"] for each in events if each["name"] == "exception"],
        **({"links": links} if links else {}),
        "instrumentation": {"name": scope, "version": version},
    }


def _id_fault(trace_id: bytes, span_id: bytes) -> str | None:
    """Why these ids name no span: all zeros are invalid, too (W3C Trace Context)."""
    if len(trace_id) != _TRACE_ID_BYTES or not any(trace_id):
        return "a span has no valid trace id of 16 bytes"
    if len(span_id) != _SPAN_ID_BYTES or not any(span_id):
        return "a span has no valid span id of 8 bytes"
    return None


def _attributes(pairs: Sequence[Any]) -> dict[str, Any]:  # Any: messages whose types come with an extra
    kept = pairs if len(pairs) <= _MOST_ATTRIBUTES else pairs[:_MOST_ATTRIBUTES]
    return {pair.key: _value(pair.value) for pair in kept}


def _value(value: Any) -> Any:  # Any: as above, and plain JSON
    kind = value.WhichOneof("value")
    if kind == "string_value":  # almost all are texts
        return value.string_value
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: _value(each.value) for each in value.kvlist_value.values}
    held: Any = None if kind is None else getattr(value, kind)
    if kind == "bytes_value":
        return base64.b64encode(held).decode()
    return _finite(held) if kind == "double_value" else held


def _finite(number: float) -> float | str:
    """JSON knows neither NaN nor Infinity: they stay as OTLP's JSON writes them."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


# JSON.


def _from_json(resource: Mapping[str, Any], scope: object, span: object) -> Read:
    if not isinstance(span, dict):
        return "a span is no object"
    trace_id, span_id = _hex(span.get("traceId")), _hex(span.get("spanId"))
    if (fault := _id_fault(trace_id, span_id)) is not None:
        return fault
    events = [
        {
            "name": str(_at(each, "name") or ""),
            "timestamp_ns": _time(_int(_at(each, "timeUnixNano"))),
            "attributes": _json_attributes(_at(each, "attributes")),
        }
        for each in _list(span, "events")
    ]
    links = [
        {
            "trace_id": _hex(_at(each, "traceId")).hex(),
            "span_id": _hex(_at(each, "spanId")).hex(),
            "attributes": _json_attributes(_at(each, "attributes")),
        }
        for each in _list(span, "links")
    ]
    parent = _hex(span.get("parentSpanId"))
    status = _named(_at(span, "status", "code"), "STATUS_CODE_", _STATUS)
    message, scope_name = str(_at(span, "status", "message") or ""), str(_at(scope, "name") or "")
    made = _span(
        str(span.get("name") or ""), trace_id, span_id, parent if any(parent) else b"",
        _int(span.get("startTimeUnixNano")), _int(span.get("endTimeUnixNano")),
        **_rest(
            _json_attributes(span.get("attributes")), events, links, _named(span.get("kind"), "SPAN_KIND_", _KINDS),
            status, message, scope_name, str(_at(scope, "version") or ""),
        ),
    )  # fmt: skip
    return trace_id, made, resource


def _json_attributes(pairs: object) -> dict[str, Any]:
    found = {}
    for pair, _ in zip(pairs if isinstance(pairs, list) else (), range(_MOST_ATTRIBUTES), strict=False):
        key = _at(pair, "key")
        if isinstance(key, str):
            found[key] = _json_value(_at(pair, "value"))
    return found


def _json_value(value: object) -> Any:  # Any: plain JSON
    if not isinstance(value, dict) or not value:
        return None
    kind, held = next(iter(value.items()))
    match kind:
        case "arrayValue":
            return [_json_value(each) for each in _list(held, "values")]
        case "kvlistValue":
            return _json_attributes(_at(held, "values"))
        case "intValue":
            return _int(held)
        case "doubleValue":
            return held if isinstance(held, str) else _finite(float(held)) if isinstance(held, int | float) else None
        case _:
            return held


def _named(value: object, prefix: str, names: tuple[str, ...]) -> int:
    """An enum: its number, or its name, which the protocol allows senders to use."""
    if isinstance(value, str) and value.startswith(prefix):
        name = value.removeprefix(prefix)
        return names.index(name) if name in names else 0
    return _int(value)


def _int(value: object) -> int:
    """A 64-bit number, which JSON has as text; 0 for what is none."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value
    if isinstance(value, str) and len(value) <= 24 and value.lstrip("-").isascii() and value.lstrip("-").isdigit():
        return int(value)
    return int(value) if isinstance(value, float) and math.isfinite(value) else 0


def _hex(value: object) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except (ValueError, binascii.Error):
        return b""


def _at(value: object, *path: str) -> Any:  # Any: plain JSON
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _list(value: object, name: str) -> list[Any]:
    found = _at(value, name)
    return found if isinstance(found, list) else []
