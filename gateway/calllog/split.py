"""Splits a large call log into the members of its core and those of its detail, without copying large values."""

from dataclasses import dataclass
from typing import Final

from gateway.calllog.deferral import choose_deferred, name_deferred
from gateway.calllog.derived import TELEMETRY, TURNS, derive
from gateway.calllog.document import CallLog
from gateway.calllog.fragments import join_members
from gateway.calllog.pieces import Piece

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


def split(call_log: CallLog, *, core_max_bytes: int = CORE_MAX_BYTES) -> SplitCallLog:
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
