"""The document of a reduced detail: made anew in each attempt from the stored detail, of which the spool keeps all.

How a detail is reduced is told from outside (`Reduction.reduce`). It has to see the whole detail, which may have
hundreds of MB: so that goes into a file without a name, and is mapped; only the pages being looked at are in memory.
"""

import asyncio
import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from spool.records import Buffer, Delivery
from uploaders.bodies import decompress
from uploaders.encoding import Frames
from uploaders.forms import pieces_of

BLOCK_BYTES = 1 << 20
"""Pieces, many of them single commas, are put together to this size, and larger ones cut."""


class NotReducible(Exception):
    """No reduced detail can be made, in this attempt or in any other."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """How to reduce, and where there is room for it."""

    reduce: Callable[[Buffer], Sequence[Buffer]]
    """From a detail to the pieces of a smaller one. Raises `NotReducible`."""
    directory: Path
    """Holds the file, which has no name, while it is needed."""


@dataclass(frozen=True, slots=True)
class ReducedDocument:
    """A document in pieces of a mapped file, which is there for as long as these are."""

    pieces: Sequence[Buffer]

    @property
    def raw_bytes(self) -> int:
        """Its length."""
        return sum(len(piece) for piece in self.pieces)

    def blocks(self) -> Iterator[bytes]:
        """The document in blocks of at most `BLOCK_BYTES`."""
        block = bytearray()
        for piece in self.pieces:
            view = memoryview(piece)
            for start in range(0, len(view), BLOCK_BYTES):
                cut = view[start : start + BLOCK_BYTES]
                if len(block) + len(cut) > BLOCK_BYTES:
                    yield bytes(block)
                    block.clear()
                block += cut
        yield bytes(block)


async def reduced_document(delivery: Delivery, frames: Frames, reduction: Reduction) -> ReducedDocument:
    """The detail of a delivery's record, reduced.

    Raises `NotReducible`, `CorruptPayload` as `frames` does, and `OSError` when the file cannot be written.
    """
    with tempfile.TemporaryFile(dir=reduction.directory) as file:
        for piece in pieces_of(delivery):
            if isinstance(piece, bytes):
                file.write(piece)
                continue
            async for frame in frames(delivery.record, piece):
                await asyncio.to_thread(_append, file, frame)
        return await asyncio.to_thread(_reduced, file, reduction)


def _append(file: BinaryIO, frame: bytes) -> None:
    file.write(decompress(frame))


def _reduced(file: BinaryIO, reduction: Reduction) -> ReducedDocument:
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return ReducedDocument(reduction.reduce(memoryview(mapped)))
