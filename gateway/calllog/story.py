"""What a developer looks at after a call: what was said, how long the caller waited, and the spans by turn. Pure.

Made of the whole call log, leniently: agents write what they like into their telemetry, and a value of an unexpected
type leaves itself out. Times are milliseconds from the start of the call.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import msgspec
from msgspec import Raw, Struct

from gateway.calllog.document import text_of
from gateway.calllog.summary import percentile, read_list, read_members, read_object, unix_of
from spool.records import Buffer

MOST_SPANS: Final = 5000
"""Of more, the longest of each turn are shown."""
MOST_TURNS: Final = 2000
LONGEST_TEXT: Final = 4000
"""Characters of one thing that was said, or of a name."""
OPERATIONS: Final = ("llm", "tts", "stt", "tool", "other")
_SLOW: Final = 2.0
"""Times the median of the call."""
_ERROR: Final = 2
"""OpenTelemetry's StatusCode.ERROR."""
_LONGEST_FIELD: Final = 10_000
_LONGEST_NS: Final = 2**63 - 1
_LONGEST_MS: Final = 1e12
"""What lasted longer, or less than nothing, was not measured."""
_NULL: Final = Raw(b"null")


class _Eou(Struct):
    end_of_utterance_delay: float | None = None


class _Llm(Struct):
    ttft: float | None = None


class _Tts(Struct):
    ttfb: float | None = None


class _Priced(Struct):
    calculated_cost: float | None = None


class _Said(Struct):
    turn_id: str | None = None
    user_transcript: str | None = None
    agent_response: str | None = None
    timestamp: float | None = None
    eou_metrics: Raw = _NULL
    llm_metrics: Raw = _NULL
    tts_metrics: Raw = _NULL
    stt_metrics: Raw = _NULL
    tool_calls: Raw = _NULL
    otel_spans: Raw = _NULL

    @property
    def moment(self) -> float | None:
        """In seconds, whatever unit it counts."""
        return unix_of(self.timestamp)


class _ToolCall(Struct):
    name: str | None = None
    duration_ms: float | None = None


class _Named(Struct):
    span_id: str | None = None


class _Status(Struct):
    code: int | None = None
    description: str | None = None


class _Captured(Struct):
    name: str | None = None
    operation_type: str | None = None
    start_time_ns: int | None = None
    duration_ms: float | None = None
    parent_span_id: str | None = None
    conversation_turn_id: str | None = None
    context: Raw = _NULL
    status: Raw = _NULL
    exceptions: Raw = _NULL
    attributes: Raw = _NULL

    @property
    def moment(self) -> float:
        """When it began, in seconds; 0 where it does not say."""
        return self.start_time_ns / 1e9 if self.start_time_ns and 0 < self.start_time_ns <= _LONGEST_NS else 0.0


class _Usage(Struct):
    llm_prompt_tokens: int | None = None
    llm_completion_tokens: int | None = None


class _Metadata(Struct):
    usage: Raw = _NULL


class _Telemetry(Struct):
    session_traces: Raw = _NULL


class _Line(Struct):
    role: str | None = None
    content: str | None = None


class Turn(Struct, frozen=True, array_like=True):
    """One turn of the conversation. What was not measured is None."""

    number: int
    at: float | None
    said: str
    told: str
    eou: float | None
    """From the end of the caller's words to the decision that they ended."""
    ttft: float | None
    """From there to the first token of the answer."""
    ttfb: float | None
    """And from its text to the first byte of speech."""
    tools: tuple[tuple[str, float | None], ...]

    @property
    def wait(self) -> float | None:
        """How long the caller waited until the agent spoke, as far as it was measured."""
        known = [each for each in (self.eou, self.ttft, self.ttfb) if each is not None]
        return sum(known) if known else None


class Span(Struct, frozen=True, array_like=True):
    """One span, as a row for a waterfall."""

    name: str
    operation: int
    """A place in `OPERATIONS`."""
    parent: int
    """A place among the spans; -1 for none."""
    start: float
    took: float
    turn: int
    """0: of the session."""
    fault: str
    """Of a span that failed: what it says; else empty."""


@dataclass(frozen=True, slots=True)
class Story:
    """A call as its log describes it."""

    agent_id: str | None
    number: str | None
    reason: str | None
    recording_url: str | None
    started_at: float | None
    """Seconds since the Unix epoch."""
    ended_at: float | None
    tokens: tuple[int, int] | None
    """In and out."""
    cost: float | None
    turns: tuple[Turn, ...]
    spans: tuple[Span, ...]
    spans_in_all: int

    @property
    def waits(self) -> list[float]:
        """How long the caller waited, by turn, ascending."""
        return sorted(turn.wait for turn in self.turns if turn.wait is not None)

    @property
    def slow_from(self) -> float | None:
        """A turn that took longer is slow: above twice the median of this call."""
        waits = self.waits
        return _SLOW * median(waits) if waits else None

    @property
    def wait_p95(self) -> float | None:
        """95 % of the turns took at most so long."""
        waits = self.waits
        return percentile(waits, 95) if waits else None


class _Top(Struct):
    agent_id: str | None = None
    customer_number: str | None = None
    call_ended_reason: str | None = None
    recording_url: str | None = None
    call_started_at: float | str | None = None
    call_ended_at: float | str | None = None


def story_of(documents: Iterable[Buffer]) -> Story | None:
    """The story that these JSON objects make together, the later ones adding what the earlier lack; None if none is.

    They are the whole call log, or its core and its detail.
    """
    members: dict[str, Raw] = {}
    for document in documents:
        found = read_members(document)
        members |= {name: raw for name, raw in (found or {}).items() if name not in members or bytes(raw) != b"null"}
    if not members:
        return None
    short = {name: raw for name, raw in members.items() if len(memoryview(raw)) < _LONGEST_FIELD}
    top = read_object(
        _Top, msgspec.json.encode({name: short[name] for name in _Top.__struct_fields__ if name in short})
    )
    said = read_list(_Said, members.get("transcript_with_metrics", _NULL)) or []
    captured = read_list(_Captured, read_object(_Telemetry, members.get("telemetry_data", _NULL)).session_traces) or []
    started = _first_moment(top, said, captured)
    turns = _turns(said[:MOST_TURNS], started) or _lines(members.get("transcript_json", _NULL))
    spans = _spans(captured, said, started)
    usage = read_object(_Usage, read_object(_Metadata, members.get("metadata", _NULL)).usage)
    tokens = (usage.llm_prompt_tokens or 0, usage.llm_completion_tokens or 0)
    return Story(
        agent_id=top.agent_id,
        number=top.customer_number,
        reason=top.call_ended_reason,
        recording_url=top.recording_url,
        started_at=unix_of(top.call_started_at),
        ended_at=unix_of(top.call_ended_at),
        tokens=tokens if any(tokens) else None,
        cost=_cost(said),
        turns=tuple(turns),
        spans=tuple(_longest(spans)),
        spans_in_all=len(captured),
    )


def _first_moment(top: _Top, said: Sequence[_Said], captured: Sequence[_Captured]) -> float:
    """When the call began, in seconds; the earliest time that there is where it does not say."""
    known = unix_of(top.call_started_at)
    times = [span.moment for span in captured if span.moment]
    times += [turn.moment for turn in said if turn.moment]
    earliest = min(times, default=0.0)
    # A start that lies far from all that happened is that of something else.
    return known if known is not None and (not times or abs(earliest - known) < 3600) else earliest


def _turns(said: Sequence[_Said], started: float) -> list[Turn]:
    return [
        Turn(
            number,
            None if turn.moment is None else max(0.0, (turn.moment - started) * 1000),
            _text(turn.user_transcript),
            _text(turn.agent_response),
            _ms(read_object(_Eou, turn.eou_metrics).end_of_utterance_delay),
            _ms(read_object(_Llm, turn.llm_metrics).ttft),
            _ms(read_object(_Tts, turn.tts_metrics).ttfb),
            tuple(
                (_text(call.name) or "tool", _measured(call.duration_ms))
                for call in (read_list(_ToolCall, turn.tool_calls) or [])[:20]
            ),
        )
        for number, turn in enumerate(said, 1)
    ]


def _lines(transcript: Raw) -> list[Turn]:
    """Turns of a transcript without figures: what the caller said, and what was answered."""
    turns: list[tuple[str, str]] = []
    for line in (read_list(_Line, transcript) or [])[: 2 * MOST_TURNS]:
        text = _text(line.content)
        if line.role == "user" or not turns:
            turns.append((text, "") if line.role == "user" else ("", text))
        else:
            said, told = turns[-1]
            turns[-1] = (said, f"{told} {text}".strip())
    return [Turn(number, None, said, told, None, None, None, ()) for number, (said, told) in enumerate(turns, 1)]


def _cost(said: Sequence[_Said]) -> float | None:
    costs = [
        read_object(_Priced, raw).calculated_cost
        for turn in said
        for raw in (turn.llm_metrics, turn.tts_metrics, turn.stt_metrics)
    ]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None or not 0 <= seconds < 3600 else seconds * 1000


def _measured(milliseconds: float | None) -> float | None:
    return None if milliseconds is None or not 0 <= milliseconds <= _LONGEST_MS else milliseconds


def _text(text: str | None) -> str:
    return (text or "")[:LONGEST_TEXT]


# Spans: to which turn each belongs.


def _spans(captured: Sequence[_Captured], said: Sequence[_Said], started: float) -> list[Span]:
    identities = [read_object(_Named, span.context).span_id or "" for span in captured]
    places = {identity: place for place, identity in enumerate(identities) if identity}
    parents = [places.get(span.parent_span_id or "", -1) for span in captured]
    parents = [-1 if parent == place else parent for place, parent in enumerate(parents)]
    starts = [(span.moment - started) * 1000 if span.moment else 0.0 for span in captured]
    turns = _turns_of(captured, identities, parents, starts, said, started)
    return [
        Span(
            _name(span),
            OPERATIONS.index(span.operation_type) if span.operation_type in OPERATIONS else len(OPERATIONS) - 1,
            parents[place],
            round(starts[place], 3),
            round(_measured(span.duration_ms) or 0.0, 3),
            turns[place],
            _fault(span),
        )
        for place, span in enumerate(captured)
    ]


def _turns_of(
    captured: Sequence[_Captured],
    identities: Sequence[str],
    parents: Sequence[int],
    starts: Sequence[float],
    said: Sequence[_Said],
    started: float,
) -> list[int]:
    """The turn that a span names, that lists it, or that its parent is of; else the one in whose time it began."""
    numbers = {turn.turn_id: number for number, turn in enumerate(said, 1) if turn.turn_id}
    listed = {
        each.span_id: number
        for number, turn in enumerate(said, 1)
        for each in read_list(_Named, turn.otel_spans) or []
        if each.span_id
    }
    begun = sorted(start for span, start in zip(captured, starts, strict=True) if span.name == "user_turn")
    spoken = sorted((turn.moment - started) * 1000 for turn in said if turn.moment is not None)
    begins = begun if len(begun) == len(said) else spoken
    found: list[int | None] = [
        numbers.get(span.conversation_turn_id or "") or listed.get(identities[place])
        for place, span in enumerate(captured)
    ]
    for place in range(len(captured)):
        _settle(place, found, parents, starts, begins)
    return [turn or 0 for turn in found]


def _settle(
    place: int, found: list[int | None], parents: Sequence[int], starts: Sequence[float], begins: Sequence[float]
) -> None:
    """Find the turn of one span and of those above it that have none yet."""
    path: list[int] = []
    above = place
    while above >= 0 and found[above] is None and above not in path and len(path) < 100:
        path.append(above)
        above = parents[above]
    known = found[above] if above >= 0 else None
    for each in reversed(path):
        if known is None:
            known = bisect_right(begins, starts[each] + 1)
        found[each] = known
        # Of the session are only spans that have no turn above them.
        known = known or None


def _name(span: _Captured) -> str:
    if span.name == "function_tool":
        members = read_members(span.attributes) or {}
        tool = text_of(members.get("lk.function_tool.name") or members.get("gen_ai.tool.name"))
        if tool:
            return tool[:200]
    return _text(span.name)[:200] or "span"


def _fault(span: _Captured) -> str:
    status = read_object(_Status, span.status)
    raised = read_list(_Line, span.exceptions)
    if status.code != _ERROR and not raised:
        return ""
    return _text(status.description)[:300] or "it failed"


def _longest(spans: list[Span]) -> list[Span]:
    """At most `MOST_SPANS`, those that took longest, in their order; parents that are left out are none."""
    if len(spans) <= MOST_SPANS:
        return spans
    chosen = sorted(sorted(range(len(spans)), key=lambda place: -spans[place].took)[:MOST_SPANS])
    places: Mapping[int, int] = {old: new for new, old in enumerate(chosen)}
    return [msgspec.structs.replace(spans[old], parent=places.get(spans[old].parent, -1)) for old in chosen]
