"""Splits a large call log into the members of its core and those of its detail, without copying large values."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from gateway.calllog.document import Document
from gateway.calllog.summary import (
    Turn,
    duration_between,
    read_spans,
    read_turns,
    summary_metrics,
    telemetry_summary,
    transcript_json,
)
from gateway.calllog.toplevel import Member, Piece, Slice

# Decides which members of a call log do not fit in its core, and names them.

_FIXED: Final = frozenset({"call_id", "update_type"})
"""Never moved: the detail is given members of these names."""
_IDENTIFYING: Final = frozenset(
    {
        "agent_id",
        "wcall_event",
        "environment",
        "customer_number",
        "call_ended_reason",
        "call_started_at",
        "call_ended_at",
        "transcript_type",
        "recording_url",
        "billing_duration_seconds",
        "duration_seconds",
    }
)
"""Not moved while they are as small as they should be."""
_IDENTIFYING_SHARE: Final = 128
"""An identifying member of more than this fraction of a core is moved like any other."""
_NAMES_SHARE: Final = 16
"""The names of deferred members take at most this fraction of a core."""
_FIELDS = '"deferred_fields":[{}]'
_UNNAMED = ',"deferred_fields_unnamed":{}'


def choose_deferred(members: Sequence[Member], *, room: int, core_max_bytes: int) -> list[Member]:
    """The members to move so that the others take at most `room` bytes, the largest first; none if all fit.

    Leaves room for their names. When even what must stay does not fit, all the rest is moved.
    """
    needed = sum(member.size + MAX_SEPARATOR for member in members)
    if needed <= room:
        return []
    room -= core_max_bytes // _NAMES_SHARE
    movable = sorted((member for member in members if _movable(member, core_max_bytes)), key=_size, reverse=True)
    deferred: list[Member] = []
    for member in movable:
        if needed <= room:
            break
        needed -= member.size + MAX_SEPARATOR
        deferred.append(member)
    return deferred


def name_deferred(deferred: Iterable[Member], *, core_max_bytes: int) -> bytes:
    """The members that name what was moved: `deferred_fields`, the names as they came, the largest member first.

    Of a million tiny members not all can be named: `deferred_fields_unnamed` then counts the others.
    """
    room = core_max_bytes // _NAMES_SHARE - len(_FIELDS) - len(_UNNAMED) - len(str(core_max_bytes)) * 2
    names: list[str] = []
    unnamed = 0
    for member in deferred:
        if (length := len(member.key) + 1) > room:
            unnamed += 1
            continue
        room -= length
        names.append(bytes(member.key).decode())
    return (_FIELDS.format(",".join(names)) + (_UNNAMED.format(unnamed) if unnamed else "")).encode()


def _movable(member: Member, core_max_bytes: int) -> bool:
    if member.name in _IDENTIFYING:
        return member.size > core_max_bytes // _IDENTIFYING_SHARE
    return member.name not in _FIXED


def _size(member: Member) -> int:
    return member.size


# Joins members of a document into a run of JSON members: slices of the document as long as that pays.

MAX_SEPARATOR: Final = 2
"""Bytes between members at most: a comma and a space, as `json.dumps` writes them."""
_MANY_PIECES: Final = 256
"""Up to here, pieces are not looked at again."""
_SMALL: Final = 4096
"""Of many pieces the smaller ones are copied together: a million tiny members cost more as slices than as a copy."""


def join_members(members: Iterable[Member]) -> tuple[Piece, ...]:
    """The members in the order given, comma separated, with none at either end. Neighbours become one slice.

    All are members of one document; what is copied of it is at most `_SMALL` bytes of each.
    """
    pieces: list[Piece] = []
    text = memoryview(b"")
    for run in _runs(members):
        if pieces:
            pieces.append(b",")
        text = run[0].text
        pieces.extend(_pieces(run[0], run[-1]))
    return tuple(pieces if len(pieces) <= _MANY_PIECES else _copied_together(pieces, text))


def _copied_together(pieces: Sequence[Piece], text: memoryview) -> Iterator[Piece]:
    """The same bytes, with each run of small pieces as one."""
    small = bytearray()
    for piece in pieces:
        if isinstance(piece, bytes):
            small += piece
        elif piece.size <= _SMALL:
            small += text[piece.start : piece.end]
        else:
            if small:
                yield bytes(small)
                small.clear()
            yield piece
    if small:
        yield bytes(small)


def _pieces(first: Member, last: Member) -> tuple[Piece, ...]:
    """The members of one run."""
    return first.pieces if first is last else (Slice(first.start, last.end),)


def _runs(members: Iterable[Member]) -> Iterator[list[Member]]:
    """The members in lists of those that one slice may hold."""
    run: list[Member] = []
    for member in members:
        if run and not _adjacent(run[-1], member):
            yield run
            run = []
        run.append(member)
    if run:
        yield run


def _adjacent(member: Member, following: Member) -> bool:
    """Whether one slice may hold both, because what stands between them is a comma and at most a space."""
    return (
        following.index == member.index + 1
        and following.start - member.end <= MAX_SEPARATOR
        and member.compact
        and following.compact
    )


# What is added to a core: the members that are made from the parts of a call log that move to its detail.

TURNS: Final = "transcript_with_metrics"
TELEMETRY: Final = "telemetry_data"

Listed = TypeVar("Listed")
_SHARES: Final = {"summary_metrics": 8, "telemetry_summary": 8, "transcript_json": 2}
"""What is derived takes at most one such part of a core; a transcript within that makes other members move."""
_MOST_OBJECTS: Final = 400_000
"""What a giant's list may hold to be summarised: 60 MB of objects. 1 GB of real spans, of 4 KB and more, has fewer."""
_MOST_OBJECTS_HERE: Final = 100_000
"""The same for what is parsed in the gateway."""
_HERE_BYTES: Final = 16 << 20
_COUNT_ABOVE: Final = 256 << 10
"""A shorter value cannot hold so many objects. In bytes."""
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
        made["transcript_json"] = transcript_json(turns, max_bytes=core_max_bytes // _SHARES["transcript_json"])
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
    except MemoryError:  # the parse worker has a memory limit: better no summary than no call log
        return None


def _too_many_objects(value: memoryview) -> bool:
    """Whether it may hold more objects than can be summarised.

    Looked for one by one: where objects are as rare as here, that is eight times as fast as comparing every byte.
    """
    if len(value) <= _COUNT_ABOVE:
        return False
    count, most = 0, _MOST_OBJECTS_HERE if len(value) <= _HERE_BYTES else _MOST_OBJECTS
    for start in range(0, len(value), _COUNT_STEP):
        step = bytes(value[start : start + _COUNT_STEP])
        position = step.find(b"{")
        while position >= 0:
            count += 1
            position = step.find(b"{", position + 1)
        if count > most:
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


CORE_MAX_BYTES: Final = 500_000
"""The largest core that an endpoint is sent."""

_AROUND: Final = len("{},")
"""The braces of a core, and the comma between its base and what is derived."""
_MOVED: Final = frozenset({TELEMETRY, TURNS})


@dataclass(frozen=True, slots=True)
class SplitCallLog:
    """Three runs of JSON members, each without braces around it or a comma at either end; any may be empty.

    Core = {base, derived}, detail = {call_id, update_type, rest}, whole = {base, rest}.
    """

    text: bytes | memoryview
    """The document that the slices are slices of."""
    base: tuple[Piece, ...]
    """The members that stay in the core, as they came."""
    derived: bytes
    """What is added to the core: summaries, a made transcript, the names of deferred fields."""
    rest: tuple[Piece, ...]
    """The members that move to the detail, as they came."""


def split(call_log: Document, *, core_max_bytes: int = CORE_MAX_BYTES) -> SplitCallLog:
    """Split a call log so that its core, braces included, is at most `core_max_bytes` long.

    `telemetry_data` and `transcript_with_metrics` always move; then, while the core is too long, the largest other
    member does, and `deferred_fields` names those. `call_id`, `update_type` and small identifying members stay:
    from 16 KiB on a limit has room for them. Members keep their order and their bytes; none appears twice.
    """
    members = call_log.members
    derived = derive(members, core_max_bytes=core_max_bytes)
    staying = [member for name, member in members.items() if name not in _MOVED]
    room = core_max_bytes - _AROUND - len(derived)
    deferred = choose_deferred(staying, room=room, core_max_bytes=core_max_bytes)
    if deferred and "deferred_fields" not in members:
        names = name_deferred(deferred, core_max_bytes=core_max_bytes)
        derived = derived + b"," + names if derived else names
    moved = _MOVED.union(member.name for member in deferred)
    return SplitCallLog(
        call_log.top.text,
        join_members(member for member in staying if member.name not in moved),
        derived,
        join_members(member for name, member in members.items() if name in moved),
    )
