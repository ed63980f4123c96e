"""The codec of payloads: raw pieces become independent zstd frames, and frames are read back verified.

This is the only code that knows how a payload frame is coded: `FrameEncoder` and `encode` make frames, `decode` undoes
one, and `PASSTHROUGH` names the content encoding under which frames may leave as they are.

Each frame holds at most `FRAME_RAW_BYTES` and carries zstd's own checksum of what it holds, so that the concatenation
of a fragment's frames is a valid `.zst`. A CRC-32 beside each stored frame verifies it without decoding it.

Where a key is configured, frames are stored sealed: `SEALED`, then the zstd frame encrypted with AES-256-GCM. The key
is of this one payload (`spool.keys`). The nonce is the frame's position in the payload, so it cannot repeat: a key
encrypts one payload, once, and no position of it twice. Fragment, place in it and number of its frames are
authenticated, so that frames can neither change places nor be left out.
"""

import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

import zstandard
from isal.isal_zlib import crc32
from msgspec import Struct, structs

from spool.errors import CorruptPayload
from spool.keys import WRAPPED_DOCUMENT_KEY_BYTES, KeyRing, MainKey, cipher, decrypted, new_key
from spool.records import Buffer, Fragment, StoredFragment

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


FRAME_RAW_BYTES = 1 << 20
FRAME_RAW_LIMIT = 4 << 20
"""A frame that claims to hold more is broken, and not worth the memory."""
PASSTHROUGH = "zstd"
"""The `Content-Encoding` (RFC 8878) of stored frames, one after the other, as they are."""


def frames_bound(raw_bytes: int) -> int:
    """How many bytes the frames of so many raw ones take at most: ZSTD_COMPRESSBOUND of zstd.h, and a checksum each."""
    return raw_bytes + (FRAME_RAW_BYTES // 256 + 128) * chunk_count(raw_bytes)


SEALED = b"\1"
"""How a sealed frame begins; a zstd frame begins with 0x28."""
SEAL_BYTES = len(SEALED) + 16


class Frame(Struct, frozen=True):
    """A stored frame: `data` is a complete zstd frame that holds `raw_bytes`; small ones keep these as `raw`.

    Of a sealed one, `data` is what is stored, and `plain` the zstd frame, if that is still needed.
    """

    data: bytes
    raw_bytes: int
    crc32: int
    raw: bytes | None = None
    plain: bytes | None = None

    @property
    def zstd_bytes(self) -> int:
        """The length of the zstd frame, sealed or not."""
        return len(self.data) - SEAL_BYTES if is_sealed(self.data) else len(self.data)


class Place(Struct, frozen=True):
    """Where a frame stands: its position in the payload, and its place among so many frames of a fragment."""

    position: int
    fragment: str
    index: int
    count: int

    @property
    def nonce(self) -> bytes:
        """Of the key of its payload."""
        return self.position.to_bytes(12, "big")

    @property
    def authenticated(self) -> bytes:
        """What is authenticated besides the frame."""
        return f"{self.fragment} {self.index} {self.count}".encode()


def places(fragment: str, count: int, position: int = 0) -> Iterator[Place]:
    """The places of a fragment's frames, the first of which has this position in the payload."""
    for index in range(count):
        yield Place(position + index, fragment, index, count)


def places_of(fragments: Mapping[Fragment, StoredFragment]) -> list[Place]:
    """The places of all frames of a payload, in the order of its chunks."""
    found: list[Place] = []
    for fragment, stored in fragments.items():
        found += places(fragment, stored.chunks, len(found))
    return found


def is_sealed(data: bytes) -> bool:
    """Whether a stored frame is encrypted."""
    return data[:1] == SEALED


def record_context(uid: str) -> bytes:
    """What the data key of a record is for."""
    return b"record " + uid.encode("utf-8", "surrogatepass")


def spans_context(trace_id: bytes) -> bytes:
    """What the data key of a row of spans is for."""
    return b"spans " + trace_id


def turn_context(call_id: str) -> bytes:
    """What the data key of a turn is for."""
    return b"turn " + call_id.encode("utf-8", "surrogatepass")


TURN_PLACE = Place(0, "turn", 0, 1)
"""A turn is one frame, with a key of its own."""
SPANS_PLACE = Place(0, "spans", 0, 1)
"""The spans of a post are one frame, with a key of their own."""


class Seal:
    """The key of one payload, for its frames."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._cipher = cipher(key)

    @classmethod
    def new(cls) -> "Seal":
        """With a key that nothing was encrypted with."""
        return cls(new_key())

    def seal(self, frame: Frame, place: Place, *, keep_plain: bool = False) -> Frame:
        """The frame as it is stored. Each place of a payload is sealed once."""
        data = SEALED + self._cipher.encrypt(place.nonce, frame.data, place.authenticated)
        return Frame(data, frame.raw_bytes, crc32(data), frame.raw, frame.data if keep_plain else None)

    def open(self, data: bytes, place: Place) -> bytes:
        """The zstd frame in a stored one. Raises `CorruptPayload` where it is not what was sealed at this place."""
        return decrypted(
            self._cipher, place.nonce, data[len(SEALED) :], place.authenticated, "it is not what was encrypted there"
        )


class FrameEncoder:
    """Compresses pieces into frames. Not for use by two threads at once: it keeps zstd's working memory."""

    def __init__(self, level: int = 1) -> None:
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)

    def frame(self, raw: Buffer) -> Frame:
        """One frame that holds `raw`."""
        # What the compressor returns keeps the memory of the worst case: a MiB for 200 KB. A copy takes what it holds.
        data = bytes(memoryview(self._compressor.compress(raw)))
        return Frame(data, len(raw), crc32(data))

    def encode_batch(self, raws: Sequence[Buffer]) -> list[Frame]:
        """One frame for each of `raws`, none of them empty, in one call of the library."""
        if not raws:
            return []
        if len(raws) == 1:  # 19 us for 2 KB, where the call for many takes 31
            return [structs.replace(self.frame(raws[0]), raw=bytes(raws[0]))]
        made = self._compressor.multi_compress_to_buffer(list(raws))
        datas = [made[at].tobytes() for at in range(len(raws))]
        return [Frame(data, len(raw), crc32(data), bytes(raw)) for data, raw in zip(datas, raws, strict=True)]

    def frames(self, pieces: Iterable[Buffer]) -> Iterator[Frame]:
        """The frames of a fragment, in order. Whoever iterates decides how many are alive at a time."""
        for raw in cut(pieces, FRAME_RAW_BYTES):
            yield self.frame(raw)


class CachedFrame(bytes):
    """A stored frame of which `raw`, what it holds, is still in memory: nobody need decode it."""

    raw: bytes


class _PerThread(threading.local):
    """Making a decompressor costs half as much as decompressing 2 KB with it."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_own = _PerThread()


def encode(raw: Buffer) -> bytes:
    """A frame that holds `raw`, fit to stand between stored frames."""
    return zstandard.ZstdCompressor(level=1, write_checksum=True).compress(raw)


def decode(frame: bytes) -> bytes:
    """The raw bytes of one stored frame. Raises `CorruptPayload` when it is not a complete, sane frame."""
    if isinstance(frame, CachedFrame):
        return frame.raw
    try:
        if zstandard.frame_content_size(frame) > FRAME_RAW_LIMIT:
            raise CorruptPayload(f"a stored frame claims to hold more than {FRAME_RAW_LIMIT} bytes")
        return _own.decompressor.decompress(frame, max_output_size=FRAME_RAW_LIMIT)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"a stored frame cannot be decompressed: {error}") from error


_WINDOW_MAX = 8 << 20
"""No frame of callspool needs more; the window is memory that a frame makes its reader set aside."""


def decode_stream(frames: Buffer) -> Iterator[bytes]:
    """What frames hold that others made, of whatever size; at most 1 MiB at a time. Raises `CorruptPayload`."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
    try:
        with decompressor.stream_reader(frames, read_across_frames=True) as reader:
            while block := reader.read(FRAME_RAW_BYTES):
                yield block
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"no zstd: {error}") from error


# Documents in files of their own, such as exports: sealed block by block, with a key that stands, wrapped, before them.

DOCUMENT_MARK = b"callspool sealed 1\n"
_DOCUMENT_KEY = b"document"
_MORE, _LAST = b"more", b"last"
_LONGEST_BLOCK = 4 << 20


def seal_document(blocks: Iterable[bytes], main: MainKey) -> Iterator[bytes]:
    """The bytes of a file that only this main key, or whoever has it, opens again. Blocks have up to 4 MiB."""
    key = new_key()
    sealing = cipher(key)
    yield DOCUMENT_MARK + main.wrap(key, _DOCUMENT_KEY)
    held, number = b"", 0
    for block in blocks:
        if held:
            yield _sealed_block(sealing, held, number, _MORE)
            number += 1
        held = block
    yield _sealed_block(sealing, held, number, _LAST)


def _sealed_block(sealing: "AESGCM", block: bytes, number: int, kind: bytes) -> bytes:
    data = sealing.encrypt(number.to_bytes(12, "big"), block, kind)
    return kind + len(data).to_bytes(4, "big") + data


def open_document(file: BinaryIO, ring: KeyRing) -> Iterator[bytes]:
    """The blocks of such a document. Raises `KeyUnavailable` without its key, `CorruptPayload` for any change to it."""
    head = file.read(len(DOCUMENT_MARK) + WRAPPED_DOCUMENT_KEY_BYTES)
    opening, number, kind = cipher(ring.unwrap(head[len(DOCUMENT_MARK) :], _DOCUMENT_KEY)), 0, _MORE
    while kind == _MORE:
        kind = file.read(4)
        size = int.from_bytes(file.read(4), "big")
        if kind not in (_MORE, _LAST) or size > _LONGEST_BLOCK + 16:
            raise CorruptPayload("it is cut off, or was changed")
        yield decrypted(opening, number.to_bytes(12, "big"), file.read(size), kind, "it was changed")
        number += 1


def is_whole(frame: bytes, checksum: int | None) -> bool:
    """Whether a frame matches the checksum that was stored beside it."""
    return crc32(frame) == checksum


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
        len(frames), sum([frame.raw_bytes for frame in frames]), sum([frame.zstd_bytes for frame in frames])
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


class StoredPayload(Struct, frozen=True):
    """A payload that is ready to be accepted.

    `frames` are those still to be written, from `next_chunk` on; with `orphaned` the earlier ones of the range that
    begins at `first_chunk` are in the spool already, as orphan chunks.
    """

    first_chunk: int
    next_chunk: int
    frames: Sequence[Frame]
    fragments: Mapping[Fragment, StoredFragment]
    orphaned: bool
    key: bytes | None = None
    """The data key of its frames, where they are sealed."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of all frames."""
        return sum([fragment.stored_bytes for fragment in self.fragments.values()])


class SmallPayload(Struct):
    """A payload of which no fragment is larger than a frame, still to be compressed.

    On the event loop that would cost a tenth of a 2 KB post, and give up Python's lock in the middle of it.
    """

    first_chunk: int
    fragments: Mapping[Fragment, Sequence[Buffer]]
    stored: StoredPayload | None = None
    """What the compressor made of it."""


class BatchCompressor:
    """Compresses small payloads, and seals them with `sealing`. For one thread: it keeps zstd's working memory."""

    def __init__(self, level: int, *, sealing: bool = False) -> None:
        self._writer = FrameEncoder(level)
        self._sealing = sealing

    def compress(self, payloads: Iterable[SmallPayload]) -> None:
        """Make all of them ready that are not; one call for many, since each call gives Python's lock up."""
        new = [payload for payload in payloads if payload.stored is None]
        raws = [{fragment: _joined(pieces) for fragment, pieces in one.fragments.items()} for one in new]
        made = iter(self._writer.encode_batch([raw for own in raws for raw in own.values() if len(raw)]))
        for payload, own in zip(new, raws, strict=True):
            frames = {fragment: [next(made)] if len(raw) else [] for fragment, raw in own.items()}
            seal = Seal.new() if self._sealing else None
            if seal is not None:
                frames = _sealed(frames, seal)
            payload.stored = StoredPayload(
                payload.first_chunk,
                payload.first_chunk,
                [frame for of_one in frames.values() for frame in of_one],
                {fragment: described(of_one) for fragment, of_one in frames.items()},
                orphaned=False,
                key=None if seal is None else seal.key,
            )


def _sealed(frames: Mapping[Fragment, list[Frame]], seal: Seal) -> dict[Fragment, list[Frame]]:
    """The same, each fragment being one frame at most; the zstd frames stay for the cache."""
    position = 0
    sealed = {}
    for fragment, of_one in frames.items():
        sealed[fragment] = [
            seal.seal(frame, place, keep_plain=True)
            for frame, place in zip(of_one, places(fragment, len(of_one), position), strict=True)
        ]
        position += len(of_one)
    return sealed


def _joined(pieces: Sequence[Buffer]) -> Buffer:
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


# The cache: payloads that were accepted a moment ago, for the deliveries that are made at once. Nothing is read back.
#
# To read one back took a trip to another thread: 45 us of CPU for 2 KB, and about as much again in waiting for it. Of
# small ones the raw bytes are kept as well: decompressing one gives Python's lock up in the middle of the event loop.

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

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self.byte_count = 0
        """What is kept now."""

    def keep(self, record_id: int, stored: StoredPayload, readers: int) -> None:
        """Keep what so many deliveries are about to read, unless it is too large or was written in parts."""
        if stored.orphaned:
            return
        frames = _small_fragments(stored)
        byte_count = sum([_size(frame) for of_one in frames.values() for frame in of_one])
        if not frames or byte_count > LIMIT_BYTES // SHARE:
            return
        self._kept[record_id] = _Kept(frames, byte_count, readers)
        self.byte_count += byte_count
        while self.byte_count > LIMIT_BYTES:
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
