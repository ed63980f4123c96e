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
