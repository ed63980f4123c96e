"""Joins members of a document into a run of JSON members, by views as long as that pays."""

from collections.abc import Iterable, Iterator
from typing import Final

from gateway.calllog.toplevel import Member
from spool.records import Buffer

MAX_SEPARATOR: Final = 2
"""Bytes between members at most: a comma and a space, as `json.dumps` writes them."""
_MAX_PIECES: Final = 256
"""More pieces than this are joined: a million tiny members cost more as views than as a copy."""


def join_members(members: Iterable[Member]) -> tuple[Buffer, ...]:
    """The members in the order given, comma separated, with none at either end. Neighbours become one view."""
    pieces: list[Buffer] = []
    for run in _runs(members):
        if pieces:
            pieces.append(b",")
        pieces.extend(_slices(run[0], run[-1]))
    return tuple(pieces) if len(pieces) <= _MAX_PIECES else (b"".join(pieces),)


def _slices(first: Member, last: Member) -> tuple[Buffer, ...]:
    return first.pieces if first is last else (first.text[first.start : last.end],)


def _runs(members: Iterable[Member]) -> Iterator[list[Member]]:
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
