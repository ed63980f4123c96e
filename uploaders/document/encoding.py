"""Request bodies: a form of a record as identity, gzip, zstd or the Whispey envelope, in one bounded buffer.

What is done with the bytes is in `uploaders.document.body`; this file moves frames from the spool into a body, off
the event loop where that takes long, and picks the encoding. The same delivery always gives the same bytes.

Measured on 16 MB of varied call log text, one core: zlib -1 197 ms, 6.9 MB; zlib -6 584 ms, 6.2 MB; ISA-L level 2
55 ms, 6.5 MB. So gzip is made by ISA-L, and only a body that is too large like that is made once more by zlib -9
(a repetitive LiveKit log: 0.9 MB instead of 1.5 MB), because the alternative is a dead letter.
"""

import asyncio
import mmap
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from spool.payload.frames import decode
from spool.records import Buffer, Delivery, Fragment, Record
from uploaders.document.body import (
    Body,
    BodyRoom,
    EnvelopeBody,
    GzipBody,
    IdentityBody,
    TooLarge,
    ZstdBody,
    fast_gzip,
    small_gzip,
)
from uploaders.document.options import Encoding
from uploaders.document.render import Piece, raw_bytes_of, render

AUTO_PLAIN_BYTES = 10 * 1024
"""Up to here the SDK sends plain JSON, and above it the envelope; an endpoint knows both."""

INLINE_BYTES = 64 * 1024
"""A body of this raw size is made in under half a millisecond: less than what a thread costs the event loop."""

_STORED_WHOLE: tuple[Piece, ...] = (Fragment.BODY,)

Frames = Callable[[Record, Fragment], AsyncIterator[bytes]]
"""`PayloadReader.frames`."""


class EncodedBody(Struct, frozen=True, eq=False):
    """A body ready to be sent, and the `Content-Encoding` to send it with (None: none)."""

    data: memoryview
    content_encoding: str | None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    async def release(self) -> None:
        """Release the body. One in a file is unmapped in a thread: 300 MB take 100 ms."""
        mapped = self.data.obj
        if isinstance(mapped, mmap.mmap):
            with suppress(BufferError):  # somebody still holds a part of it, and lets go of all with that
                self.data.release()
                await asyncio.to_thread(mapped.close)


async def encode(delivery: Delivery, frames: Frames, encoding: Encoding, room: BodyRoom) -> EncodedBody:
    """The body of one delivery, at most `room.max_bytes` long.

    Raises `TooLarge` as soon as it would become longer; `CorruptPayload` as `frames` does, or when a frame cannot
    be decompressed; `BadLocation` for a notice without an object; `OSError` when a large one finds no room on the
    disk.
    """
    pieces = render(delivery)
    raw_bytes = raw_bytes_of(delivery.record, pieces)
    encoding = _resolved(encoding, raw_bytes)
    if encoding is Encoding.IDENTITY and raw_bytes <= min(INLINE_BYTES, room.max_bytes) and pieces == _STORED_WHOLE:
        return await _stored_whole(delivery.record, frames)
    return await _first_that_fits(
        _bodies(encoding, raw_bytes, room),
        lambda body: _fill(body, delivery.record, pieces, frames, inline=raw_bytes <= INLINE_BYTES),
    )


async def decoded_document(delivery: Delivery, frames: Frames) -> AsyncIterator[bytes]:
    """The document of a delivery as it was posted, in pieces of at most 1 MiB. Raises as `render` and `frames` do."""
    for piece in render(delivery):
        if isinstance(piece, bytes):
            yield piece
            continue
        async for frame in frames(delivery.record, piece):
            yield decode(frame)


async def _stored_whole(record: Record, frames: Frames) -> EncodedBody:
    """A small call log as it came, the commonest body: what its one frame holds, without a buffer of its own."""
    data = b"".join([decode(frame) async for frame in frames(record, Fragment.BODY)])
    return EncodedBody(memoryview(data), None)


async def encode_text(text: "ReducedDocument", encoding: Encoding, room: BodyRoom) -> EncodedBody:
    """The body of a document that is not stored as it is sent. Raises `TooLarge` like `encode`."""
    return await _first_that_fits(
        _bodies(_resolved(encoding, text.raw_bytes), text.raw_bytes, room),
        lambda body: asyncio.to_thread(_fill_with, body, text),
    )


async def _first_that_fits(
    bodies: Sequence[Body], fill: Callable[[Body], Coroutine[None, None, EncodedBody]]
) -> EncodedBody:
    """The first of these bodies that does not become too large; raises `TooLarge` when all do."""
    for body in bodies[:-1]:
        try:
            return await _filled(body, fill)
        except TooLarge:
            continue
    return await _filled(bodies[-1], fill)


async def _filled(body: Body, fill: Callable[[Body], Coroutine[None, None, EncodedBody]]) -> EncodedBody:
    """What `fill` makes of it; no file stays open, whatever happens."""
    try:
        return await fill(body)
    finally:
        body.buffer.close()


def _resolved(encoding: Encoding, raw_bytes: int) -> Encoding:
    if encoding is Encoding.AUTO:
        return Encoding.IDENTITY if raw_bytes <= AUTO_PLAIN_BYTES else Encoding.ENVELOPE
    return encoding


def _bodies(encoding: Encoding, raw_bytes: int, room: BodyRoom) -> tuple[Body, ...]:
    """The ways to make this encoding, the cheapest first; the next one is tried when a body became too large."""
    if encoding is Encoding.IDENTITY:
        if raw_bytes > room.max_bytes:
            raise TooLarge(room.max_bytes)
        return (IdentityBody(room),)
    if encoding is Encoding.ZSTD:
        return (ZstdBody(room),)
    kind = GzipBody if encoding is Encoding.GZIP else EnvelopeBody
    return (kind(room, fast_gzip()), kind(room, small_gzip()))


async def _fill(body: Body, record: Record, pieces: Sequence[Piece], frames: Frames, *, inline: bool) -> EncodedBody:
    for piece in pieces:
        if isinstance(piece, bytes):
            body.add_literal(piece)
            continue
        async for frame in frames(record, piece):
            if inline or body.is_quick(frame):
                body.add_frame(frame)
            else:
                await asyncio.to_thread(body.add_frame, frame)
    body.finish()
    return EncodedBody(body.buffer.view(), body.content_encoding)


def _fill_with(body: Body, text: "ReducedDocument") -> EncodedBody:
    for block in text.blocks():
        body.add_literal(block)
    body.finish()
    return EncodedBody(body.buffer.view(), body.content_encoding)


# The document of a reduced detail: made anew in each attempt from the stored detail, of which the spool keeps all.
#
# The gateway decides how a detail is reduced (`Reduction.reduce`). It has to see the whole detail, which may have
# hundreds of MB: so that goes into a file without a name, and is mapped; only the pages being looked at are in memory.

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
        for piece in render(delivery):
            if isinstance(piece, bytes):
                file.write(piece)
                continue
            async for frame in frames(delivery.record, piece):
                await asyncio.to_thread(_append, file, frame)
        return await asyncio.to_thread(_reduced, file, reduction)


def _append(file: BinaryIO, frame: bytes) -> None:
    file.write(decode(frame))


def _reduced(file: BinaryIO, reduction: Reduction) -> ReducedDocument:
    file.flush()
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return ReducedDocument(reduction.reduce(memoryview(mapped)))
