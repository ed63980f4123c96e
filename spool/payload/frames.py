"""Payloads: the raw pieces of a fragment become independent zstd frames, and frames are read back verified.

Each frame holds at most `FRAME_RAW_BYTES` and carries zstd's own checksum of what it holds, so that the
concatenation of a fragment's frames is a valid `.zst`. A CRC-32 beside each stored frame verifies it without
decompressing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import zstandard
from isal.isal_zlib import crc32
from msgspec import Struct

from spool.records import Buffer, Fragment, StoredFragment

FRAME_RAW_BYTES = 1 << 20


class Frame(Struct, frozen=True):
    """A stored frame: `data` is a complete zstd frame that holds `raw_bytes`; small ones keep these as `raw`."""

    data: bytes
    raw_bytes: int
    crc32: int
    raw: bytes | None = None


class FrameWriter:
    """Compresses pieces into frames. Not for use by two threads at once: it keeps zstd's working memory."""

    def __init__(self, level: int = 1) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)

    def frame(self, raw: Buffer) -> Frame:
        """One frame that holds `raw`."""
        # What the compressor returns keeps the memory of the worst case: a MiB for 200 KB. A copy takes what it holds.
        data = bytes(memoryview(self._compressor.compress(raw)))
        return Frame(data, len(raw), crc32(data))

    def together(self, raws: Sequence[Buffer]) -> list[Frame]:
        """One frame for each of `raws`, none of them empty, in one call of the library."""
        if not raws:
            return []
        made = self._compressor.multi_compress_to_buffer(list(raws))
        datas = [made[at].tobytes() for at in range(len(raws))]
        return [Frame(data, len(raw), crc32(data), bytes(raw)) for data, raw in zip(datas, raws, strict=True)]

    def frames(self, pieces: Iterable[Buffer]) -> Iterator[Frame]:
        """The frames of a fragment, in order. Whoever iterates decides how many are alive at a time."""
        for raw in cut(pieces, FRAME_RAW_BYTES):
            yield self.frame(raw)


def cut(pieces: Iterable[Buffer], size: int) -> Iterator[Buffer]:
    """The concatenation of `pieces` in slices of `size` bytes, the last one shorter; copies as little as it can."""
    parts: list[Buffer] = []
    missing = size
    for piece in pieces:
        view = memoryview(piece)
        while len(view) >= missing:
            parts.append(view[:missing])
            yield parts[0] if len(parts) == 1 else b"".join(parts)
            view = view[missing:]
            parts, missing = [], size
        if len(view):
            parts.append(view)
            missing -= len(view)
    if parts:
        yield parts[0] if len(parts) == 1 else b"".join(parts)


def chunk_count(raw_bytes: int) -> int:
    """How many frames hold `raw_bytes`."""
    return -(-raw_bytes // FRAME_RAW_BYTES)


def described(frames: Sequence[Frame]) -> StoredFragment:
    """How these frames lie in the spool."""
    return StoredFragment(
        len(frames), sum([frame.raw_bytes for frame in frames]), sum([len(frame.data) for frame in frames])
    )


def chunk_range(first_chunk: int, fragments: Mapping[Fragment, StoredFragment], wanted: Fragment) -> range:
    """The chunk ids of one fragment: fragments lie one after the other, from `first_chunk` on."""
    start = first_chunk
    for fragment, stored in fragments.items():
        if fragment == wanted:
            return range(start, start + stored.chunks)
        start += stored.chunks
    return range(start, start)


# Payloads that are ready to be written, and small ones that are made so in the writer's thread, a group at once.


class Stored(Struct, frozen=True):
    """A payload that is ready to be accepted.

    `frames` are those still to be written, from `next_chunk` on; with `loose` the earlier ones of the range that
    begins at `first_chunk` are in the spool already.
    """

    first_chunk: int
    next_chunk: int
    frames: Sequence[Frame]
    fragments: Mapping[Fragment, StoredFragment]
    loose: bool

    @property
    def stored_bytes(self) -> int:
        """Bytes of all frames."""
        return sum([fragment.stored_bytes for fragment in self.fragments.values()])


class Small(Struct):
    """A payload of which no fragment is larger than a frame, still to be compressed.

    On the event loop that would cost a tenth of a 2 KB post, and give up Python's lock in the middle of it.
    """

    first_chunk: int
    fragments: Mapping[Fragment, Sequence[Buffer]]
    stored: Stored | None = None
    """What the press made of it."""


class Press:
    """Compresses small payloads. For one thread: it keeps zstd's working memory."""

    def __init__(self, level: int) -> None:
        self._writer = FrameWriter(level)

    def compress(self, payloads: Iterable[Small]) -> None:
        """Make all of them ready that are not; one call for many, since each call gives Python's lock up."""
        new = [payload for payload in payloads if payload.stored is None]
        raws = [{fragment: _joined(pieces) for fragment, pieces in one.fragments.items()} for one in new]
        made = iter(self._writer.together([raw for own in raws for raw in own.values() if len(raw)]))
        for payload, own in zip(new, raws, strict=True):
            frames = {fragment: [next(made)] if len(raw) else [] for fragment, raw in own.items()}
            payload.stored = Stored(
                payload.first_chunk,
                payload.first_chunk,
                [frame for of_one in frames.values() for frame in of_one],
                {fragment: described(of_one) for fragment, of_one in frames.items()},
                loose=False,
            )


def _joined(pieces: Sequence[Buffer]) -> Buffer:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
