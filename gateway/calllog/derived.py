"""What is added to a core: the members that are made from the parts of a call log that move to its detail."""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import msgspec

from gateway.calllog.summary import duration_between, summary_metrics, telemetry_summary, transcript_json
from gateway.calllog.telemetry import Turn, read_spans, read_turns
from gateway.calllog.toplevel import Member

TURNS: Final = "transcript_with_metrics"
TELEMETRY: Final = "telemetry_data"

Listed = TypeVar("Listed")
_SHARES: Final = {"summary_metrics": 8, "telemetry_summary": 8, "transcript_json": 2}
"""What is derived takes at most one such part of a core; a transcript within that makes other members move."""
_MOST_OBJECTS: Final = 400_000
"""What a list may hold to be summarised: some 60 MB of objects. 1 GB of real spans, of 4 KB and more, has fewer."""
_COUNT_ABOVE: Final = 4 << 20
"""Bytes; so many objects need more."""
_COUNT_STEP: Final = 1 << 20
_MAX_MOMENT: Final = 64
"""Bytes of a start or end time; no date is longer."""


def derive(members: Mapping[str, Member], *, core_max_bytes: int) -> bytes:
    """The members to add to a core, comma separated, for which the call log has none of its own.

    `summary_metrics` where there are turns or both times of the call; `telemetry_summary` where there are spans;
    `transcript_json` from the turns. What would take too large a share of the core is left out: the detail has it.
    Whatever the members hold, this never fails: where memory does not suffice for a list, its summary is left out.
    """
    made: dict[str, object] = {}
    turns = _read(read_turns, members.get(TURNS))
    if "summary_metrics" not in members:
        made["summary_metrics"] = _metrics(members, turns)
    if "telemetry_summary" not in members and TELEMETRY in members:
        spans = _read(read_spans, members[TELEMETRY])
        made["telemetry_summary"] = None if spans is None else telemetry_summary(spans)
    if "transcript_json" not in members and turns:
        made["transcript_json"] = transcript_json(turns)
    encoded = {name: msgspec.json.encode(value) for name, value in made.items() if value}
    return b",".join(
        b'"%b":%b' % (name.encode(), value)
        for name, value in encoded.items()
        if len(value) <= core_max_bytes // _SHARES[name]
    )


def _read(read: Callable[[memoryview], Listed | None], member: Member | None) -> Listed | None:
    """What is listed there; None where there is none, or more than there is memory for."""
    if member is None or _too_many_objects(member.value):
        return None
    try:
        return read(member.value)
    except MemoryError:  # giants are examined within a limit: better without a summary than not at all
        return None


def _too_many_objects(value: memoryview) -> bool:
    """Whether there may be more objects in it than can be summarised. What is short cannot hold so many.

    Looked for one by one: where objects are as rare as here, that is eight times as fast as comparing every byte.
    """
    if len(value) <= _COUNT_ABOVE:
        return False
    count = 0
    for start in range(0, len(value), _COUNT_STEP):
        step = bytes(value[start : start + _COUNT_STEP])
        position = step.find(b"{")
        while position >= 0:
            count += 1
            position = step.find(b"{", position + 1)
        if count > _MOST_OBJECTS:
            return True
    return False


def _metrics(members: Mapping[str, Member], turns: list[Turn] | None) -> object:
    duration = duration_between(_moment(members.get("call_started_at")), _moment(members.get("call_ended_at")))
    if turns is None:
        return None if duration is None else {"duration_seconds": duration}
    return summary_metrics(turns, duration_seconds=duration)


def _moment(member: Member | None) -> object:
    if member is None or member.end - member.value_start > _MAX_MOMENT:
        return None
    try:
        return msgspec.json.decode(member.value, type=str | int | float | None)
    except msgspec.DecodeError:
        return None
