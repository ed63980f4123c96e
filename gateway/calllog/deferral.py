"""Decides which members of a call log do not fit in its core, and names them."""

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.calllog.fragments import MAX_SEPARATOR
from gateway.calllog.toplevel import Member

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
    """The members that tell what was moved: `deferred_fields`, the names as they came, the largest member first.

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
