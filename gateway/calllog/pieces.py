"""Pieces of a document: where its values lie, as offsets, so that a process that has only mapped it can tell another.

What is stored of a call log is a sequence of pieces. Almost all are slices of the posted text, which is never copied;
the few others are bytes that were made (commas, summaries).
"""

from collections.abc import Iterable

import msgspec

from spool.records import Buffer


class Slice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The bytes of a document from `start` up to, but not including, `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many these are."""
        return self.end - self.start


Piece = Slice | bytes


def buffers(text: bytes | memoryview, pieces: Iterable[Piece]) -> tuple[Buffer, ...]:
    """The pieces of `text` as views of it; one that is all of it is the text itself."""
    view = memoryview(text)
    return tuple([_buffer(text, view, piece) for piece in pieces])


def _buffer(text: bytes | memoryview, view: memoryview, piece: Piece) -> Buffer:
    if isinstance(piece, bytes):
        return piece
    return text if piece.end - piece.start == len(text) else view[piece.start : piece.end]
