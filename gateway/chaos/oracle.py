"""The result of a check: what was acknowledged against what arrived. Pure."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

# Call logs that a check posts, and what is to be recognised of them when they arrive. Pure.

LARGE_SPANS = 120
_NUMBERS = (1_758_000_000_123_456_789, 0.1234567890123456, 1.7976931348623157e308, -0.0)
"""What careless senders round or cut."""


@dataclass(frozen=True, slots=True)
class Post:
    """One call log of the check. `number` is its own among all, and rises within a call."""

    number: int
    call_id: str
    event: str
    body: bytes
    head: str
    """A hash of what the core, or the whole, must hold."""
    telemetry: str | None
    """A hash of what the detail must hold; None for a small call log, which has none."""


def make_post(number: int, call_id: str, event: str, large_bytes: int | None) -> Post:
    """A call log; with `large_bytes` one of about that size, to be sent in two phases."""
    head = {
        "call_id": call_id,
        "agent_id": "callspool-chaos",
        "wcall_event": event,
        "metadata": {"number": number, "numbers": _NUMBERS, "text": 'é "quoted" \\ \u2028'},
    }
    telemetry = _telemetry(number, large_bytes) if large_bytes is not None else None
    document = head if telemetry is None else head | {"telemetry_data": telemetry}
    return Post(
        number,
        call_id,
        event,
        msgspec.json.encode(document),
        hash_of(head["metadata"]),
        None if telemetry is None else hash_of(telemetry),
    )


def _telemetry(number: int, size: int) -> dict[str, Any]:
    """Spans with texts that compress about as those of real calls do, 6 to 1."""
    digits = size // LARGE_SPANS // 6
    spans = [
        {
            "name": "llm_request",
            "start_time_ns": _NUMBERS[0] + span,
            "attributes": hashlib.shake_256(b"%d %d" % (number, span)).hexdigest(digits) * 3,
        }
        for span in range(LARGE_SPANS)
    ]
    return {"session_traces": spans, "performance_metrics": {"total_spans": LARGE_SPANS}}


def hash_of(value: object) -> str:
    """The same for equal JSON values, however they are written."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


class Part(StrEnum):
    """What of a call log arrived."""

    WHOLE = "whole"
    CORE = "core"
    DETAIL = "detail"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that the endpoint took, in the order of arrival."""

    key: str
    """Its idempotency key."""
    part: Part
    call_id: str
    number: int | None
    """Of the call log; a detail does not say it, it follows from its key."""
    content: str
    """The hash of what was to be recognised."""


@dataclass(slots=True)
class Notes:
    """What is written down during a check."""

    posted: dict[int, Post] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    """Answers other than an acknowledgement, by their code; each post was tried again after one."""
    arrivals: list[Arrival] = field(default_factory=list)
    turned_away: int = 0
    """Requests that the endpoint refused or cut off, as the check had it do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check. The lists hold call ids."""

    posted: int
    acknowledged: int
    delivered: int
    """Acknowledged call logs of which all parts arrived."""
    lost: tuple[str, ...]
    altered: tuple[str, ...]
    """Those that did not arrive as they were posted."""
    out_of_order: tuple[str, ...]
    """Calls of which a later call log arrived before an earlier one, or a detail before its core."""
    duplicated: int
    """Requests that came once more, with the same key."""
    unacknowledged: int
    """Call logs that arrived though their acknowledgement never reached the agent; that is no fault."""

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.altered or self.out_of_order)


def judge(notes: Notes) -> Verdict:
    """Hold what arrived against what was acknowledged."""
    first: dict[str, Arrival] = {}
    for arrival in notes.arrivals:
        first.setdefault(arrival.key, arrival)
    numbers = {_record_of(one.key): one.number for one in first.values() if one.number is not None}
    parts: dict[int, dict[Part, Arrival]] = {}
    for one in first.values():
        number = numbers.get(_record_of(one.key))
        if number is not None:
            parts.setdefault(number, {})[one.part] = one
    lost = [number for number in notes.acknowledged if not _complete(parts.get(number, {}))]
    altered = [number for number, found in parts.items() if not _as_posted(notes.posted.get(number), found)]
    named = {number: post.call_id for number, post in notes.posted.items()}
    return Verdict(
        posted=len(notes.posted),
        acknowledged=len(notes.acknowledged),
        delivered=len(notes.acknowledged) - len(lost),
        lost=tuple(sorted(named[number] for number in lost)),
        altered=tuple(sorted(named.get(number, "unknown") for number in altered)),
        out_of_order=_out_of_order(list(first.values()), numbers),
        duplicated=len(notes.arrivals) - len(first),
        unacknowledged=len(parts.keys() - notes.acknowledged),
    )


def _record_of(key: str) -> str:
    """The part of an idempotency key that names the record."""
    return key.rpartition("-")[0]


def _complete(found: Mapping[Part, Arrival]) -> bool:
    return Part.WHOLE in found or (Part.CORE in found and Part.DETAIL in found)


def _as_posted(post: Post | None, found: Mapping[Part, Arrival]) -> bool:
    if post is None:
        return False
    expected = {Part.WHOLE: whole_content(post.head, post.telemetry), Part.CORE: post.head, Part.DETAIL: post.telemetry}
    return all(one.content == expected[part] for part, one in found.items())


def whole_content(head: str, telemetry: str | None) -> str:
    """What is to be recognised of a call log in one piece."""
    return head if telemetry is None else f"{head}+{telemetry}"


def _out_of_order(arrivals: Sequence[Arrival], numbers: Mapping[str, int | None]) -> tuple[str, ...]:
    last: dict[str, int] = {}
    cores: set[str] = set()
    found: set[str] = set()
    for one in arrivals:
        if one.part is Part.DETAIL:
            if _record_of(one.key) not in cores:
                found.add(one.call_id)
            continue
        cores.add(_record_of(one.key))
        number = numbers[_record_of(one.key)]
        assert number is not None, "a core or a whole says its number"
        if number < last.get(one.call_id, -1):
            found.add(one.call_id)
        last[one.call_id] = number
    return tuple(sorted(found))
