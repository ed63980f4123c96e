"""OTLP spans in the form that call logs have. Pure.

Protobuf and JSON of the same spans give the same result: ids as hexadecimal text, times as whole nanoseconds, values of
attributes as plain JSON. The JSON mapping of OTLP is not that of protobuf: ids are hexadecimal there, not base64, and
the library's own parser turns 16 bytes into 24 without a word (opentelemetry-proto, "JSON Protobuf Encoding").
"""

import base64
import binascii
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from spool.records import Buffer

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
_MOST_ATTRIBUTES: Final = 1024
_STATUS: Final = ("UNSET", "OK", "ERROR")
_KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_INT64: Final = 1 << 63
_LARGEST_DOUBLE: Final = sys.float_info.max
_DEEPEST: Final = 50
"""Protobuf lets values nest so deeply: each level is two messages of a hundred."""

CALL_ID_ATTRIBUTES: Final = (
    "lk.room_sid",
    "conversation.id",
    "gen_ai.conversation.id",
    "session.id",
    "lk.job_id",
)
"""What names a call, in LiveKit Agents 1.8, Pipecat 1.14 and OpenTelemetry's own conventions; the first wins."""


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


# Rows of stored spans.


def encoded(span: Mapping[str, Any]) -> bytes:
    """A span as JSON."""
    try:
        return _encode(span)
    except OverflowError:  # a whole number beyond 64 bits
        return json.dumps(span, separators=(",", ":")).encode()


_encode = msgspec.json.Encoder().encode
_OF_BEFORE: Final = b'{"name"'
"""So begins a row that an earlier version stored: spans in the form of call logs, apart by line breaks."""


class UnreadableRow(Exception):
    """A row is whole, and holds no spans: it came from the spool of somebody else."""


def spans_of(row: Buffer, rule: SpanRule) -> Iterator[dict[str, Any]]:
    """The spans of a row, in the form of call logs, one after the other: a row may hold 20,000.

    Raises `UnreadableRow`, and `ImportError` for protobuf without `callspool[otlp]`.
    """
    try:
        yield from _spans_of(bytes(row), rule)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        raise UnreadableRow(f"{type(error).__name__}: {error}") from error


def _spans_of(data: bytes, rule: SpanRule) -> Iterator[dict[str, Any]]:
    if data.startswith(_OF_BEFORE):
        for line in data.split(b"\n"):
            _check_before(line)
            yield msgspec.json.decode(line)
        return
    made = _from_json_row(data) if data.startswith(b"{") else _from_protobuf_row(data)
    for resource, span in made:
        if rule.drops_any:
            span["attributes"] = {name: value for name, value in span["attributes"].items() if not rule.drops(name)}
        if span["parent_span_id"] is None:
            span["resource"] = resource
        yield span


class _ContextBefore(msgspec.Struct):
    span_id: str


class _Before(msgspec.Struct):
    name: str
    context: _ContextBefore
    start_time_ns: int | str
    end_time_ns: int | str
    attributes: dict[str, Any]


_check_before = msgspec.json.Decoder(_Before).decode


def _from_protobuf_row(data: bytes) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    from google.protobuf.message import DecodeError  # noqa: PLC0415  # an extra
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: PLC0415

    try:
        request = ExportTraceServiceRequest.FromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    for of_resource in request.resource_spans:
        resource = attributes_of(of_resource.resource.attributes)
        for in_scope in of_resource.scope_spans:
            name, version = in_scope.scope.name, in_scope.scope.version
            for span in in_scope.spans:
                yield resource, _from_message(name, version, span)


def _from_json_row(data: bytes) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    try:
        request = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        request = _read_apart(data)
    for of_resource in _list(request, "resourceSpans"):
        resource = json_attributes(at(of_resource, "resource", "attributes"))
        for in_scope in _list(of_resource, "scopeSpans"):
            for span in _list(in_scope, "spans"):
                yield resource, _from_json(at(in_scope, "scope"), span)


class _Unread(msgspec.Struct):
    """A span of which the ids can be read, but not all of the rest: a number out of range, a byte that is no UTF-8."""

    trace_id: str = msgspec.field(name="traceId", default="")
    span_id: str = msgspec.field(name="spanId", default="")


class _UnreadScope(msgspec.Struct):
    spans: list[msgspec.Raw]


class _UnreadResource(msgspec.Struct):
    scopes: list[_UnreadScope] = msgspec.field(name="scopeSpans")


class _UnreadRow(msgspec.Struct):
    resources: list[_UnreadResource] = msgspec.field(name="resourceSpans")


_unread_row = msgspec.json.Decoder(_UnreadRow).decode
_unread = msgspec.json.Decoder(_Unread).decode


def _read_apart(data: bytes) -> dict[str, Any]:
    """A row with spans that cannot be read: they are kept as text, the others as they are."""
    spans = [raw for resource in _unread_row(data).resources for scope in resource.scopes for raw in scope.spans]
    return {"resourceSpans": [{"scopeSpans": [{"spans": [_read_or_kept(raw) for raw in spans]}]}]}


def _read_or_kept(raw: msgspec.Raw) -> Any:  # Any: plain JSON
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        ids = _unread(raw)
        kept = {"key": "otlp.unreadable", "value": {"stringValue": bytes(raw).decode("utf-8", "replace")}}
        return {"traceId": ids.trace_id, "spanId": ids.span_id, "name": "unreadable", "attributes": [kept]}


def _span(
    name: str, trace_id: bytes, span_id: bytes, parent_id: bytes, start: int, end: int, **more: Any
) -> dict[str, Any]:
    """In the form of call logs (`telemetry_data.session_traces`)."""
    lasted = end - start if start and end else 0
    duration = lasted if 0 < lasted < 2 * _INT64 else 0
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
    return nanoseconds if -_INT64 <= nanoseconds < _INT64 else str(nanoseconds)


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


def _from_message(scope: str, version: str, span: "Span") -> dict[str, Any]:
    attributes = attributes_of(span.attributes)
    events = [
        {"name": each.name, "timestamp_ns": _time(each.time_unix_nano), "attributes": attributes_of(each.attributes)}
        for each in span.events
    ]
    links = [
        {"trace_id": each.trace_id.hex(), "span_id": each.span_id.hex(), "attributes": attributes_of(each.attributes)}
        for each in span.links
    ]
    parent = span.parent_span_id if any(span.parent_span_id) else b""
    return _span(
        span.name, span.trace_id, span.span_id, parent, span.start_time_unix_nano, span.end_time_unix_nano,
        **_rest(attributes, events, links, span.kind, span.status.code, span.status.message, scope, version),
    )  # fmt: skip


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


def attributes_of(pairs: Sequence[Any]) -> dict[str, Any]:  # Any: messages whose types come with an extra
    """Of a span, an event, a link or a resource, as plain JSON; the first 1,024."""
    kept = pairs if len(pairs) <= _MOST_ATTRIBUTES else pairs[:_MOST_ATTRIBUTES]
    return {pair.key: _value(pair.value) for pair in kept}


def _value(value: Any) -> Any:  # Any: as above, and plain JSON
    if text := value.string_value:  # almost all are texts, and asking which one it is takes as long again
        return text
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: _value(each.value) for each in value.kvlist_value.values}
    held: Any = None if kind is None else getattr(value, kind)
    if kind == "bytes_value":
        return base64.b64encode(held).decode()
    return _finite(held) if kind == "double_value" else held


def _finite(number: float) -> float | str:
    """JSON knows neither NaN nor Infinity: they stay as OTLP's JSON writes them. What is too large is infinite."""
    if abs(number) <= _LARGEST_DOUBLE:
        return float(number)
    return "Infinity" if number > 0 else "-Infinity" if number < 0 else "NaN"


# JSON.


def _from_json(scope: object, span: Any) -> dict[str, Any]:  # Any: plain JSON
    trace_id, span_id = bytes_of_hex(span.get("traceId")), bytes_of_hex(span.get("spanId"))
    events = [
        {
            "name": str(at(each, "name") or ""),
            "timestamp_ns": _time(_int(at(each, "timeUnixNano"))),
            "attributes": json_attributes(at(each, "attributes")),
        }
        for each in _list(span, "events")
    ]
    links = [
        {
            "trace_id": bytes_of_hex(at(each, "traceId")).hex(),
            "span_id": bytes_of_hex(at(each, "spanId")).hex(),
            "attributes": json_attributes(at(each, "attributes")),
        }
        for each in _list(span, "links")
    ]
    parent = bytes_of_hex(span.get("parentSpanId"))
    status = _named(at(span, "status", "code"), "STATUS_CODE_", _STATUS)
    message, scope_name = str(at(span, "status", "message") or ""), str(at(scope, "name") or "")
    return _span(
        str(span.get("name") or ""), trace_id, span_id, parent if any(parent) else b"",
        _int(span.get("startTimeUnixNano")), _int(span.get("endTimeUnixNano")),
        **_rest(
            json_attributes(span.get("attributes")), events, links, _named(span.get("kind"), "SPAN_KIND_", _KINDS),
            status, message, scope_name, str(at(scope, "version") or ""),
        ),
    )  # fmt: skip


def json_attributes(pairs: object, depth: int = 0) -> dict[str, Any]:
    """The same of OTLP's JSON."""
    found = {}
    for pair, _ in zip(pairs if isinstance(pairs, list) else (), range(_MOST_ATTRIBUTES), strict=False):
        key = at(pair, "key")
        if isinstance(key, str):
            found[key] = _json_value(at(pair, "value"), depth)
    return found


def _json_value(value: object, depth: int) -> Any:  # Any: plain JSON
    kind, held = next(iter(value.items()), ("", None)) if isinstance(value, dict) else ("", None)
    if depth > _DEEPEST:
        return "nested too deeply"
    match kind:
        case "arrayValue":
            return [_json_value(each, depth + 1) for each in _list(held, "values")]
        case "kvlistValue":
            return json_attributes(at(held, "values"), depth + 1)
        case "intValue":
            return _int(held)
        case "doubleValue" if isinstance(held, int | float):
            return _finite(held)
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


def bytes_of_hex(value: object) -> bytes:
    """An id; empty where there is none."""
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except (ValueError, binascii.Error):
        return b""


def at(value: object, *path: str) -> Any:  # Any: plain JSON
    """What lies there; None where there is nothing."""
    for step in path:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _list(value: object, name: str) -> list[Any]:
    found = at(value, name)
    return found if isinstance(found, list) else []
