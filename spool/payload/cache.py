"""Payloads that were accepted a moment ago, kept for the deliveries that are made at once: nothing is read back.

To read one back took a trip to another thread: 45 us of CPU for 2 KB, and about as much again in waiting for it. Of
small ones the raw bytes are kept as well: decompressing one gives Python's lock up in the middle of the event loop.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence

from msgspec import Struct

from spool.payload.frames import CachedFrame, Frame, StoredPayload
from spool.records import Fragment

LIMIT_BYTES = 8 << 20
"""What is kept in all; when it is used, the oldest go, and are read from the disk when their turn comes."""
SHARE = 8
"""One record may take one part in so many."""


class _Kept(Struct):
    frames: dict[Fragment, Sequence[bytes]]
    byte_count: int
    readers: int
    """Deliveries that have not read all of it."""


class PayloadCache:
    """Bodies and cores by record, for the event loop. Details are not kept: they wait for their cores."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self.byte_count = 0
        """What is kept now."""

    def keep(self, record_id: int, stored: StoredPayload, readers: int) -> None:
        """Keep what so many deliveries are about to read, unless it is too large or was written in parts."""
        if stored.orphaned:
            return
        frames = _small_fragments(stored)
        byte_count = sum([_size(frame) for of_one in frames.values() for frame in of_one])
        if not frames or byte_count > self._limit // SHARE:
            return
        self._kept[record_id] = _Kept(frames, byte_count, readers)
        self.byte_count += byte_count
        while self.byte_count > self._limit:
            self._forget(next(iter(self._kept)))

    def take(self, record_id: int, fragment: Fragment) -> AsyncIterator[bytes] | None:
        """The frames of a fragment, if they are here; with the last of them, the last delivery lets them go."""
        kept = self._kept.get(record_id)
        if kept is None or fragment not in kept.frames:
            return None
        if fragment is next(reversed(kept.frames)):
            kept.readers -= 1
            if not kept.readers:
                self._forget(record_id)
        return _CachedFrames(iter(kept.frames[fragment]))

    def _forget(self, record_id: int) -> None:
        self.byte_count -= self._kept.pop(record_id).byte_count


class _CachedFrames:
    """Frames that are here, as frames that have to be waited for."""

    def __init__(self, frames: Iterator[bytes]) -> None:
        self._frames = frames

    def __aiter__(self) -> "_CachedFrames":
        return self

    async def __anext__(self) -> bytes:
        frame = next(self._frames, None)
        if frame is None:
            raise StopAsyncIteration
        return frame


def _small_fragments(stored: StoredPayload) -> dict[Fragment, Sequence[bytes]]:
    """What bodies and cores are made of; frames lie in the order of their fragments."""
    frames: dict[Fragment, Sequence[bytes]] = {}
    start = 0
    for fragment, described in stored.fragments.items():
        if described.chunks and fragment is not Fragment.REST:
            frames[fragment] = [_cached(frame) for frame in stored.frames[start : start + described.chunks]]
        start += described.chunks
    return frames


def _cached(frame: Frame) -> bytes:
    data = frame.plain or frame.data
    if frame.raw is None:
        return data
    cached = CachedFrame(data)
    cached.raw = frame.raw
    return cached


def _size(frame: bytes) -> int:
    return len(frame) + (len(frame.raw) if isinstance(frame, CachedFrame) else 0)
