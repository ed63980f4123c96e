"""From the spans of a trace to a call log: the transcript out of their attributes, the spans as telemetry.

A span is built, written as JSON and forgotten, one after the other: of a call with 100,000 of them, what is kept in
memory is their order, and what was said. Their JSON is in memory only while it is small. For worker threads.
Before spans are stored, their texts are redacted.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from gateway.calllog.toplevel import scan
from gateway.intake.memory import SMALL_POST_BYTES, Body
from gateway.intake.redaction import redactor_of
from gateway.intake.staging import Staged, StagedFile
from gateway.otlp.spans import SpanRule, UnreadableRow, encoded, spans_of
from spool.payload.frames import cut
from spool.records import Buffer, NewSpans, TraceRow
from uploaders.redaction.finders import Finder, finders_of, masked
from uploaders.redaction.options import Redaction

if TYPE_CHECKING:
    from google.protobuf.message import Message


_log = structlog.get_logger(__name__)

_NANOSECONDS: Final = 1_000_000_000
_LATEST_SECOND: Final = 253402300799
_IN_MEMORY_BYTES: Final = 1 << 20
"""Lines of more than this are written to a file."""
_WRITE_BYTES: Final = 1 << 20

Turn = tuple[str, str]
"""Who spoke, and what."""


@dataclass(slots=True)
class _Place:
    """One span: when it began, where its line is, and what was said in it."""

    start: int
    span_id: str
    offset: int
    length: int
    turns: tuple[Turn, ...]


@dataclass(slots=True)
class SpanLines:
    """The spans of one trace as lines of JSON. A span that came twice, because its exporter tried again, is in it once.

    What is made is the same for the same spans, whatever their order.
    """

    staged: Staged
    rule: SpanRule
    started: int = 0
    ended: int = 0
    close_reason: tuple[int, str, str] | None = None
    """When the span that names it began, its id, and the reason: that of the first of them counts."""
    damaged: int = 0
    """How many spans could not be read back from the spool."""
    size: int = 0
    _lines: bytearray = field(default_factory=bytearray)
    _file: StagedFile | None = None
    _places: dict[str, _Place] = field(default_factory=dict)

    def add(self, row: TraceRow) -> None:
        """Add the spans of a row; how many cannot be read is counted. Raises `SpoolFull`, `OSError`, `ImportError`."""
        before = len(self._places)
        try:
            self._add(row.data or b"")
        except UnreadableRow as error:
            _log.error("spans_unreadable", row=row.row_id, reason=str(error))
            self.damaged += max(0, row.spans - (len(self._places) - before))

    def _add(self, data: bytes) -> None:
        for span in spans_of(data, self.rule):
            line = encoded(span)
            span_id, start = span["context"]["span_id"], _number(span["start_time_ns"])
            self._places[span_id] = _Place(start, span_id, self.size, len(line), tuple(said(span)))
            self.started = min(filter(None, (self.started, start)), default=0)
            self.ended = max(self.ended, _number(span["end_time_ns"]))
            if reason := span["attributes"].get("lk.close_reason"):
                found = start, span_id, str(reason)
                self.close_reason = min(filter(None, (self.close_reason, found)))
            self._lines += line
            self.size += len(line)
            if len(self._lines) > _IN_MEMORY_BYTES:
                self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = self.staged.file()
        self._file.write(self._lines)
        self._lines = bytearray()

    def call_log(self, trace_id: str, call_id: str, agent_id: str | None, *, update: bool) -> Body:
        """The call log, which the caller must release. With `update` it says only what is late.

        Raises `SpoolFull` and `OSError`.
        """
        if self._file is not None:
            self._spill()
        lines = memoryview(bytes(self._lines)) if self._file is None else self._file.map()
        places = sorted(self._places.values(), key=lambda place: (place.start, place.span_id))
        about: dict[str, object] = {"call_id": call_id}
        if agent_id is not None:
            about["agent_id"] = agent_id
        about |= {"update_type": "late_spans"} if update else self._of_the_call(places)
        damage = {"damaged_spans": self.damaged} if self.damaged else {}
        about["otel"] = {"trace_id": trace_id, "spans": len(places), **damage}
        pieces = cut(_pieces(about, lines, places), _WRITE_BYTES)
        if self.size <= SMALL_POST_BYTES // 2:
            return Body(b"".join(pieces), None, self.staged)
        file = self.staged.file()
        for piece in pieces:
            file.write(piece)
        return Body(file.map(), None, self.staged, file)

    def _of_the_call(self, places: list[_Place]) -> dict[str, object]:
        given = {
            "wcall_event": "call_ended",
            "call_started_at": _moment(self.started),
            "call_ended_at": _moment(self.ended),
            "call_ended_reason": self.close_reason[2] if self.close_reason else "completed",
            "transcript_type": "agent",
            "transcript_json": [
                {"role": role, "content": content} for place in places for role, content in place.turns
            ],
        }
        return {name: value for name, value in given.items() if value}


def _pieces(about: Mapping[str, object], lines: memoryview, places: list[_Place]) -> Iterator[Buffer]:
    written = json.dumps(about, separators=(",", ":"))[:-1]
    yield f'{written},"telemetry_data":{{"session_traces":['.encode()
    for number, place in enumerate(places):
        if number:
            yield b","
        yield lines[place.offset : place.offset + place.length]
    yield b"]}}"


def said(span: Mapping[str, Any]) -> Iterator[Turn]:
    """Who said what in a span.

    LiveKit puts both sides into `agent_turn`; Pipecat the caller into `stt`, and the agent into `llm`.
    """
    attributes, name = span["attributes"], span["name"].lower()
    found: tuple[tuple[str, object], ...] = ()
    if name == "agent_turn":
        found = (
            ("user", attributes.get("lk.pii.user_input", attributes.get("lk.user_input"))),
            ("assistant", attributes.get("lk.pii.response.text", attributes.get("lk.response.text"))),
        )
    elif name.startswith("stt") and attributes.get("is_final", True):
        found = (("user", attributes.get("transcript")),)
    elif name.startswith("llm"):
        found = (("assistant", attributes.get("output")),)
    for role, words in found:
        if isinstance(words, str) and words.strip():
            yield role, words


def _number(time: int | str) -> int:
    return time if isinstance(time, int) else 0


def _moment(nanoseconds: int) -> str | None:
    seconds = nanoseconds / _NANOSECONDS
    if not 0 < seconds <= _LATEST_SECOND:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Redaction of the spans of a post, before they are stored. Pure.
#
# Their texts are searched as those of call logs are. What is put together of them later is redacted once more, by the
# rules for fields, too.

_KEPT: Final = frozenset({"key", "schema_url"})
"""Fields that name something. Ids are bytes, and times numbers."""


def redacted(groups: Iterable[NewSpans], redaction: Redaction) -> list[NewSpans]:
    """The spans as they may be stored, each row in its encoding; a row in which nothing is found as it came."""
    return [msgspec.structs.replace(new, data=_row(new.data, redaction)) for new in groups]


def _row(data: bytes, redaction: Redaction) -> bytes:
    if data[:1] == b"{":
        text, counts = redactor_of(redaction).redact(scan(data), bytearray)
        return bytes(text) if counts else data
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: PLC0415  # an extra

    request = ExportTraceServiceRequest.FromString(data)
    return request.SerializeToString() if _mask(request, finders_of(redaction)) else data


def _mask(message: "Message", finders: tuple[Finder, ...]) -> bool:
    """Mask all texts of a message; whether there was anything to mask."""
    changed = False
    for described, value in message.ListFields():
        if described.type == described.TYPE_MESSAGE:
            for each in (value,) if hasattr(value, "ListFields") else value:
                changed |= _mask(each, finders)
        elif isinstance(value, str) and described.name not in _KEPT:
            text = masked(value, finders)
            if text != value:
                setattr(message, described.name, text)
                changed = True
    return changed
