"""Joins members of a document into a run of JSON members: slices of the document as long as that pays."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateway.calllog.pieces import Piece, Slice
from gateway.calllog.toplevel import Member

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
