"""The figures that a dashboard shows of a call before its detail has come, from its turns and spans.

Each figure that cannot be known is left out. Times of turns are seconds, as their metrics are; times of operations
are milliseconds, as theirs are. Averages are arithmetic; the percentiles p50 and p95 are interpolated linearly
between the two nearest ranks of the sorted values, (n - 1) * p / 100 counted from 0.
"""

import math
import re
import types
import typing
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import DecodeError, Meta, Raw, Struct
from msgspec.json import Decoder

from spool.moments import END_OF_TIMES, read_moment
from spool.records import Buffer

# Decodes JSON into structs so that a value of an unexpected type leaves itself out, and nothing else.
#
# Agents write what they like into their telemetry. The fast way decodes a whole list at once; only when that fails
# is each element, and then each field of it, decoded for itself.

Readable = Buffer | msgspec.Raw
Shape = TypeVar("Shape", bound=msgspec.Struct)

_MAX_REPAIRED: Final = 64 * 1024 * 1024
"""A value with lone surrogates is copied to be read; a larger one is not worth that."""
_MOST_ESCAPES: Final = 500_000
_MOST_SEPARATORS: Final = 400_000
_MOST_LENIENT: Final = 20_000
_COUNT_STEP: Final = 1 << 20
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_any_surrogate = re.compile(rb"\\u[dD][89a-fA-F]").search
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@cache
def _decoder(kind: typing.Any) -> msgspec.json.Decoder[typing.Any]:  # a union of types has no narrower type
    return msgspec.json.Decoder(kind)


def read_list(kind: type[Shape], raw: Readable) -> list[Shape] | None:
    """The elements of a JSON array as structs of this kind; None when it is no array that can be read.

    An element that is no object counts as one whose fields are all missing: `kind` has a default for each.
    """
    try:
        whole: list[Shape] = _decoder(list[kind]).decode(raw)  # type: ignore[valid-type]  # a type made at run time
    except (msgspec.DecodeError, RecursionError):
        return _each(kind, raw)
    return whole


def read_object(kind: type[Shape], raw: Readable) -> Shape:
    """A JSON object as a struct of this kind, without the fields that do not fit."""
    try:
        whole: Shape = _decoder(kind).decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return _field_by_field(kind, raw)
    return whole


def read_elements(raw: Readable) -> list[msgspec.Raw] | None:
    """The elements of a JSON array as they came; None when it is no array that can be read."""
    try:
        return _elements(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def read_members(raw: Readable) -> dict[str, msgspec.Raw] | None:
    """The members of a JSON object as they came, the last of duplicates; None when it is none that can be read."""
    try:
        return _members(raw)
    except (msgspec.DecodeError, RecursionError):
        return None


def without_lone_surrogates(raw: Readable) -> bytes | None:
    """A copy of a JSON value with U+FFFD for each half of a surrogate pair; None when it has none or is too large."""
    view = memoryview(raw)
    if len(view) > _MAX_REPAIRED or not _any_surrogate(view) or _more_than(view, b"\\", _MOST_ESCAPES):
        return None
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], view)


def _each(kind: type[Shape], raw: Readable) -> list[Shape] | None:
    """One by one, which takes 30 us an element; None for more of them than a summary is worth."""
    if _more_than(memoryview(raw), b",", _MOST_SEPARATORS):
        return None
    elements = read_elements(raw)
    if elements is None or len(elements) > _MOST_LENIENT:
        return None
    return [read_object(kind, element) for element in elements]


def _more_than(view: memoryview, byte: bytes, most: int) -> bool:
    """Whether this byte stands there more often; read only until that is known."""
    count = 0
    for start in range(0, len(view), _COUNT_STEP):
        count += bytes(view[start : start + _COUNT_STEP]).count(byte)
        if count > most:
            return True
    return False


def _field_by_field(kind: type[Shape], raw: Readable) -> Shape:
    values = read_members(raw) or {}
    fitting = {}
    for field in msgspec.structs.fields(kind):
        if field.encode_name in values and (value := _field(field.type, values[field.encode_name])) is not None:
            fitting[field.name] = value
    return kind(**fitting)


def _field(kind: typing.Any, raw: msgspec.Raw) -> object | None:  # as for _decoder
    try:
        value: object = _decoder(kind).decode(raw)
    except (msgspec.DecodeError, RecursionError):
        nested = [part for part in _parts(kind) if isinstance(part, type) and issubclass(part, msgspec.Struct)]
        return _field_by_field(nested[0], raw) if nested else None
    return value


def _parts(kind: typing.Any) -> tuple[typing.Any, ...]:  # as for _decoder
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


# The turns and spans of a call log: only the fields that summaries need, the rest is skipped while decoding.
#
# Turns lie in `transcript_with_metrics`, spans in `telemetry_data.session_traces` and in each turn's `otel_spans`.

ERROR_CODE = 2
"""The number of OpenTelemetry's status ERROR."""

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e12)]
Nanoseconds = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Tokens = Annotated[int, Meta(ge=0, le=2**53)]
"""Figures outside of these bounds measure nothing (an unknown time is -1 at some agents), and are left out."""


class LanguageModel(Struct, frozen=True):
    """`llm_metrics` of a turn; `ttft` (time to first token) in seconds."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    ttft: Seconds | None = None


class Speech(Struct, frozen=True):
    """`tts_metrics` of a turn; `ttfb` (time to first byte of sound) in seconds."""

    ttfb: Seconds | None = None


class EndOfUtterance(Struct, frozen=True):
    """`eou_metrics` of a turn; the delay until the caller's turn was taken as ended, in seconds."""

    end_of_utterance_delay: Seconds | None = None


class Turn(Struct, frozen=True):
    """One turn of the conversation."""

    user_transcript: str | None = None
    agent_response: str | None = None
    llm_metrics: LanguageModel | None = None
    tts_metrics: Speech | None = None
    eou_metrics: EndOfUtterance | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds to the first token."""
        return self.llm_metrics.ttft if self.llm_metrics else None

    @property
    def ttfb(self) -> float | None:
        """Seconds to the first sound."""
        return self.tts_metrics.ttfb if self.tts_metrics else None

    @property
    def end_of_utterance_delay(self) -> float | None:
        """Seconds until the caller's turn was taken as ended."""
        return self.eou_metrics.end_of_utterance_delay if self.eou_metrics else None

    @property
    def latency(self) -> float | None:
        """Seconds that the caller waited for the answer: all three, as far as known; None without ttft and ttfb."""
        if self.ttft is None and self.ttfb is None:
            return None
        return (self.end_of_utterance_delay or 0.0) + (self.ttft or 0.0) + (self.ttfb or 0.0)

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens, as far as known."""
        metrics = self.llm_metrics
        if metrics is None or (metrics.prompt_tokens is None and metrics.completion_tokens is None):
            return None
        return (metrics.prompt_tokens or 0) + (metrics.completion_tokens or 0)


class Status(Struct, frozen=True):
    """The status of a span, by OpenTelemetry's number or name."""

    code: int | str | None = None
    name: str | None = None


class Span(Struct, frozen=True):
    """One measured operation."""

    name: str | None = None
    operation_type: str | None = None
    duration_ms: Milliseconds | None = None
    duration_ns: Nanoseconds | None = None
    start_time_ns: Nanoseconds | None = None
    end_time_ns: Nanoseconds | None = None
    status: Status | None = None
    exceptions: list[Raw] | None = None

    @property
    def milliseconds(self) -> float | None:
        """How long it took, by the first of its fields that says it; None when none does."""
        if self.duration_ms is not None:
            duration = self.duration_ms
        elif self.duration_ns is not None:
            duration = self.duration_ns / 1e6
        elif self.start_time_ns is not None and self.end_time_ns is not None:
            duration = (self.end_time_ns - self.start_time_ns) / 1e6
        else:
            return None
        return duration if duration >= 0 else None

    @property
    def failed(self) -> bool:
        """Whether its status is an error, or it recorded an exception."""
        if self.exceptions:
            return True
        return self.status is not None and (self.status.code in {ERROR_CODE, "ERROR"} or self.status.name == "ERROR")


class _TelemetryData(Struct, frozen=True):
    session_traces: Raw = Raw(b"null")


class _SoundTelemetryData(Struct, frozen=True):
    session_traces: list[Span] | None = None


_decode_sound = Decoder(_SoundTelemetryData).decode


def read_turns(transcript_with_metrics: Readable) -> list[Turn] | None:
    """The turns; None when the value is no list that can be read."""
    turns = read_list(Turn, transcript_with_metrics)
    if turns is None and (repaired := without_lone_surrogates(transcript_with_metrics)):
        turns = read_list(Turn, repaired)
    return turns


def read_spans(telemetry_data: Readable) -> list[Span] | None:
    """The spans of the session; None when there is no list of them that can be read."""
    spans = _spans(telemetry_data)
    if spans is None and (repaired := without_lone_surrogates(telemetry_data)):
        spans = _spans(repaired)
    return spans


def _spans(telemetry_data: Readable) -> list[Span] | None:
    """In one pass where every field is of its type; otherwise the list is looked for first, and then read leniently."""
    try:
        return _decode_sound(telemetry_data).session_traces
    except (DecodeError, RecursionError):
        return read_list(Span, read_object(_TelemetryData, telemetry_data).session_traces)


Figures = dict[str, int | float]

_SECONDS_DIGITS: Final = 6
_MILLISECONDS_DIGITS: Final = 3
_OTHER: Final = "other"
"""What a span without an operation type is counted as, and what comes after too many different ones."""
_MAX_OPERATION_TYPES: Final = 32
_MAX_NAME: Final = 200
"""Characters of a span's name or type in a summary: the sizes of all figures together stay bounded."""
_SLOWEST: Final = 5
_TIMED_OPERATIONS: Final = ("llm", "tts", "stt")


def summary_metrics(turns: Sequence[Turn], *, duration_seconds: float | None = None) -> Figures:
    """The `summary_metrics` of the core.

    `total_turns`; `total_tokens` (prompt and completion, where any turn knows them); of `ttft`, `ttfb` and
    `end_of_utterance_delay` the average, p50 and p95; `duration_seconds` if given; and `avg_latency`: the average
    time that a caller waited for the answer, which for a turn is its end_of_utterance_delay, ttft and ttfb, as
    far as each is known, and where at least one of ttft and ttfb is.
    """
    figures: Figures = {"total_turns": len(turns)}
    figures.update(_average("latency", _known(turn.latency for turn in turns)))
    if tokens := [turn.tokens for turn in turns if turn.tokens is not None]:
        figures["total_tokens"] = sum(tokens)
    for name, values in (
        ("ttft", _known(turn.ttft for turn in turns)),
        ("ttfb", _known(turn.ttfb for turn in turns)),
        ("end_of_utterance_delay", _known(turn.end_of_utterance_delay for turn in turns)),
    ):
        figures.update(_average(name, values))
        figures.update(_percentiles(name, values))
    if duration_seconds is not None:
        figures["duration_seconds"] = duration_seconds
    return figures


def telemetry_summary(spans: Sequence[Span]) -> dict[str, object]:
    """The `telemetry_summary` of the core.

    `total_spans`; `avg_llm_latency`, `avg_tts_latency`, `avg_stt_latency` (ms) of the spans with that operation
    type and a known duration; `operation_counts` by type; `error_count`: spans with an error status or an
    exception; `slowest_operations`: the 5 slowest, the earlier one first where two took the same time.
    """
    summary: dict[str, object] = {"total_spans": len(spans)}
    timed = [(duration, span) for span in spans if (duration := span.milliseconds) is not None]
    for operation in _TIMED_OPERATIONS:
        durations = [duration for duration, span in timed if span.operation_type == operation]
        if durations:
            summary[f"avg_{operation}_latency"] = round(math.fsum(durations) / len(durations), _MILLISECONDS_DIGITS)
    summary["operation_counts"] = _operation_counts(spans)
    summary["error_count"] = sum(span.failed for span in spans)
    timed.sort(key=lambda entry: -entry[0])
    summary["slowest_operations"] = [_operation(span, duration) for duration, span in timed[:_SLOWEST]]
    return summary


_AROUND_CONTENT: Final = len('{"role":"user","content":""},')
"""The least that a turn of a transcript takes besides its text."""


def transcript_json(turns: Iterable[Turn], *, max_bytes: int) -> list[dict[str, str]] | None:
    """The conversation as plain turns, `{"role": "user" | "assistant", "content"}`, without the silent ones.

    None where it is longer than `max_bytes` as JSON: of 100,000 turns, 20 MB of objects are not made then.
    """
    transcript = []
    length = 0
    for turn in turns:
        for role, content in (("user", turn.user_transcript), ("assistant", turn.agent_response)):
            if content:
                length += _AROUND_CONTENT + len(content)
                if length > max_bytes:
                    return None
                transcript.append({"role": role, "content": content})
    return transcript


def duration_between(started_at: object, ended_at: object) -> float | None:
    """Seconds from start to end, each an ISO 8601 string or a Unix number, also as text.

    The size of a number shows its unit: seconds, milliseconds, microseconds or nanoseconds. None when either is missing
    or unreadable, when the end is before the start, and where the agent's zone, which is not known here, would decide:
    when only one time names its offset from UTC, or none does and the clocks of this machine's zone changed in between.
    """
    started, ended = read_moment(started_at), read_moment(ended_at)
    if isinstance(started, datetime) and isinstance(ended, datetime):
        if (started.tzinfo is None) != (ended.tzinfo is None):
            return None
        if started.tzinfo is None and _clocks_changed(started, ended):
            return None
        duration = (ended - started).total_seconds()
    elif (from_seconds := _unix(started)) is not None and (to_seconds := _unix(ended)) is not None:
        duration = to_seconds - from_seconds
    else:
        return None
    return round(duration, _SECONDS_DIGITS) if duration >= 0 else None


def unix_of(moment: object) -> float | None:
    """A time as seconds since the Unix epoch; None where it is none, or does not say its zone.

    What lies before 1970 or behind 9999 is none: it has no date that could be shown.
    """
    at = _unix(read_moment(moment))
    return at if at is not None and 0 <= at < END_OF_TIMES else None


def _clocks_changed(started: datetime, ended: datetime) -> bool:
    """Whether this machine's zone may have another offset at the one local time than at the other.

    A local time that the clocks show twice has two.
    """
    moments = [moment.replace(fold=fold) for moment in (started, ended) for fold in (0, 1)]
    try:
        return len({moment.astimezone().utcoffset() for moment in moments}) > 1
    except (OverflowError, OSError, ValueError):  # a year that the system's clock does not know
        return False


def _unix(moment: datetime | float | None) -> float | None:
    if isinstance(moment, datetime):
        return None if moment.tzinfo is None else moment.timestamp()
    return moment


def _known(values: Iterable[float | None]) -> list[float]:
    return sorted(value for value in values if value is not None)


def _average(name: str, values: Sequence[float]) -> Figures:
    return {f"avg_{name}": round(math.fsum(values) / len(values), _SECONDS_DIGITS)} if values else {}


def _percentiles(name: str, ascending: Sequence[float]) -> Figures:
    if not ascending:
        return {}
    return {f"p{p}_{name}": round(percentile(ascending, p), _SECONDS_DIGITS) for p in (50, 95)}


def percentile(ascending: Sequence[float], p: float) -> float:
    """The p-th percentile of at least one value in ascending order, interpolated linearly."""
    rank = (len(ascending) - 1) * p / 100
    below = math.floor(rank)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (rank - below)


def _operation_counts(spans: Iterable[Span]) -> dict[str, int]:
    counts = Counter((span.operation_type or _OTHER)[:_MAX_NAME] for span in spans)
    kept = dict(counts.most_common(_MAX_OPERATION_TYPES))
    if rest := counts.total() - sum(kept.values()):
        kept[_OTHER] = kept.get(_OTHER, 0) + rest
    return kept


def _operation(span: Span, duration: float) -> dict[str, object]:
    return {
        "name": span.name and span.name[:_MAX_NAME],
        "operation_type": (span.operation_type or _OTHER)[:_MAX_NAME],
        "duration_ms": round(duration, _MILLISECONDS_DIGITS),
    }
