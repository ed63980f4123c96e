"""The spans of a detail as columns: pure and lenient. A value of an unexpected type is left out of its span.

Only the list of spans is taken apart, not their attributes and events: those stay in the detail.
"""

import json
import re
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from spool.records import Buffer
from uploaders.stores.parts import storable_text
from uploaders.stores.store import Span

LARGEST_BYTES: Final = 512 << 20
"""Of a larger detail no spans are read: its top level alone would hold the interpreter for a sixth of a second."""
MOST_OBJECTS: Final = 2_000_000
"""A detail may hold so many JSON objects, some five for each span; one of more tiny ones has no columns."""
_COUNT_STEP: Final = 1 << 20
_ERROR_CODE: Final = 2
"""OpenTelemetry's StatusCode.ERROR."""
_COPIED_BYTES: Final = 64 << 20
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
"""Any escape; its group is that of a lone surrogate, which the decoder refuses."""
_INT64: Final = 1 << 63
_SMALLINT: Final = 1 << 15
_NULL: Final = Raw(b"null")
_NONE: Final = (_NULL, Raw(b"[]"))
_NAME: Final = b'"telemetry_data"'


class _Detail(Struct):
    telemetry_data: Raw = _NULL


class _Telemetry(Struct):
    session_traces: Raw = _NULL


class _Fields(Struct):
    name: Raw = _NULL
    operation_type: Raw = _NULL
    start_time_ns: Raw = _NULL
    end_time_ns: Raw = _NULL
    duration_ns: Raw = _NULL
    parent_span_id: Raw = _NULL
    status: Raw = _NULL
    context: Raw = _NULL
    exceptions: Raw = _NULL


_decode_detail = msgspec.json.Decoder(_Detail).decode
_decode_telemetry = msgspec.json.Decoder(_Telemetry).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = msgspec.json.Decoder(_Fields).decode
_decode_any = msgspec.json.Decoder().decode
_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class SpansLeftOut(Exception):
    """The detail is too large, or cannot be read well enough, for its spans to be taken out."""


def holds_telemetry(document: bytes) -> bool:
    """Whether a call log came with its telemetry, so that it is its own detail.

    A core never did: its detail has the same digest, and would be taken for a duplicate of what the core had made.
    """
    if _NAME not in document:
        return False
    try:
        return _decode_detail(document).telemetry_data != _NULL
    except _UNREADABLE:
        try:
            return _decode_detail(without_lone_surrogates(document)).telemetry_data != _NULL
        except _UNREADABLE:
            return False


def read_spans(document: Buffer, *, bodies: bool = False) -> Iterator[Span]:
    """The spans of a detail, or of a whole call log, in their order; none where it has none. They are made one by one,
    with `bodies` together with their JSON.

    Raises `SpansLeftOut`, before the first span.
    """
    if len(document) > LARGEST_BYTES:
        raise SpansLeftOut(f"a detail of more than {LARGEST_BYTES >> 20} MiB")
    if _objects(document) > MOST_OBJECTS:
        raise SpansLeftOut(f"a detail of more than {MOST_OBJECTS} objects")
    cleaned: bytes | None = None
    try:
        traces = _traces(document)
    except _UNREADABLE:
        try:
            cleaned = without_lone_surrogates(document)
            traces = _traces(cleaned)
        except _UNREADABLE as error:
            raise SpansLeftOut(f"telemetry_data cannot be read: {error}") from None
    texts = _bodies(document, cleaned, traces) if bodies else repeat(None)
    return (_span(seq, raw, body) for seq, (raw, body) in enumerate(zip(traces, texts, strict=False)))


def _bodies(document: Buffer, cleaned: bytes | None, traces: list[Raw]) -> Iterator[str]:
    """The spans as they were posted: those of a cleaned copy lie at the same places in the document."""
    at = 0
    for raw in traces:
        text = bytes(raw)
        if cleaned is not None:
            at = cleaned.index(text, at)
            text = bytes(memoryview(document)[at : at + len(text)])
            at += len(text)
        yield text.decode()


def _traces(document: Buffer) -> list[Raw]:
    telemetry = _decode_detail(document).telemetry_data
    traces = _NULL if telemetry == _NULL else _decode_telemetry(telemetry).session_traces
    return _decode_list(traces) if bytes(memoryview(traces)[:1]) == b"[" else []


def without_lone_surrogates(document: Buffer) -> bytes:
    """A copy of the same length that the decoder takes; raises its error where the document is too large for a copy."""
    if len(document) > _COPIED_BYTES:
        raise msgspec.DecodeError("it may hold lone surrogates, and is too large to look for them")
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], bytes(document))


def _objects(document: Buffer) -> int:
    """How many objects it may hold: that many braces open in it, in texts or not."""
    view = memoryview(document)
    return sum(bytes(view[start : start + _COUNT_STEP]).count(b"{") for start in range(0, len(view), _COUNT_STEP))


def _span(seq: int, raw: Raw, body: str | None = None) -> Span:
    try:
        fields = _decode_fields(raw)
    except _UNREADABLE:
        fields = _Fields()
    status, context = _object(fields.status), _object(fields.context)
    code, status_name = status.get("code"), status.get("name")
    start, end = _integer(fields.start_time_ns, _INT64), _integer(fields.end_time_ns, _INT64)
    duration = _integer(fields.duration_ns, _INT64)
    if duration is None and start is not None and end is not None:
        duration = end - start
    return Span(
        seq,
        trace_id=_text_of(context.get("trace_id")),
        span_id=_text_of(context.get("span_id")),
        parent_span_id=_text(fields.parent_span_id),
        name=_text(fields.name),
        operation=_text(fields.operation_type),
        start_ns=start,
        duration_ns=duration,
        status=code if type(code) is int and -_SMALLINT <= code < _SMALLINT else None,
        error=code == _ERROR_CODE or "ERROR" in (code, status_name) or fields.exceptions not in _NONE,
        body=body,
    )


def _value(raw: Raw) -> Any:  # Any: whatever an agent wrote
    if raw == _NULL:
        return None
    try:
        return _decode_any(raw)
    except _UNREADABLE:
        try:
            return json.loads(bytes(raw))
        except (ValueError, RecursionError):
            return None


def _object(raw: Raw) -> dict[str, Any]:  # Any: whatever an agent wrote
    value = _value(raw)
    return value if isinstance(value, dict) else {}


def _text(raw: Raw) -> str | None:
    return _text_of(_value(raw))


def _text_of(value: object) -> str | None:
    return storable_text(value) if isinstance(value, str) else None


def _integer(raw: Raw, limit: int) -> int | None:
    """A whole number that a column takes; one that came as a float is rounded."""
    value = _value(raw)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -limit < value < limit:
        return None
    return round(value)
