"""What a check came to: what was acknowledged against what arrived. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.chaos.posts import Post


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
    """What came of a check. The lists hold call ids."""

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
