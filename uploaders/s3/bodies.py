"""The bytes of an object, made from what the spool keeps as often as they are wanted, and the same every time.

Stored frames pass as they are, with the glue between them as small frames of their own; or they are decompressed;
or compressed again as one gzip member. At most one frame is held, and whatever takes long runs in a thread.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from msgspec.structs import replace

from spool.records import Delivery, Form
from uploaders.bodies import compress, decompress
from uploaders.deflate import Compressor, fast_gzip
from uploaders.encoding import Frames
from uploaders.forms import Piece, pieces_of, raw_bytes_of
from uploaders.last_member import encoded_member, with_last_member
from uploaders.s3.options import Content, ObjectEncoding

CONTENT_TYPE = "application/json"
_CONTENT_ENCODINGS = {ObjectEncoding.ZSTD: "zstd", ObjectEncoding.GZIP: "gzip", ObjectEncoding.PLAIN: None}
_GZIP_OVERHEAD = 1024
"""More than header and trailer; incompressible input grows by 5 bytes for every 16 KB or more."""
_FRAME_OVERHEAD = 128
"""More than a frame of zstd has around its blocks; incompressible input grows by less than 1 in 256."""


@dataclass(frozen=True, slots=True)
class ObjectBody:
    """What one object holds. `delivery` carries the form that is stored, which may differ from the one owed."""

    delivery: Delivery
    pieces: tuple[Piece, ...]
    """What its content is joined from; where stored frames pass as they are, the glue is frames, too."""
    encoding: ObjectEncoding
    frames: Frames
    raw_bytes: int
    """The length of the JSON document."""
    last_member: bytes = b""
    """What is put in before the last brace of a call log that is stored in one piece, with its comma."""

    @property
    def form(self) -> Form:
        """The form of the record that the object holds."""
        return self.delivery.form

    @property
    def content_encoding(self) -> str | None:
        """The `Content-Encoding` that the object is stored with."""
        return _CONTENT_ENCODINGS[self.encoding]

    @property
    def size_bound(self) -> int:
        """The object is at most so long. Exact, but for what is compressed anew: gzip, and what has a `last_member`."""
        if self.encoding is ObjectEncoding.ZSTD:
            fragments = self.delivery.record.fragments
            if self.last_member:
                frames = 1 + sum(fragment.chunks for fragment in fragments.values())
                return self.raw_bytes + self.raw_bytes // 256 + frames * _FRAME_OVERHEAD
            return sum(
                len(piece) if isinstance(piece, bytes) else fragments[piece].stored_bytes for piece in self.pieces
            )
        if self.encoding is ObjectEncoding.GZIP:
            return self.raw_bytes + self.raw_bytes // 1024 + _GZIP_OVERHEAD
        return self.raw_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes, in chunks of about a frame. Raises what `frames` raises, and `CorruptPayload`."""
        if self.encoding is ObjectEncoding.ZSTD and self.last_member:
            async for data in self._plain():
                yield await asyncio.to_thread(compress, data)
        elif self.encoding is ObjectEncoding.ZSTD:
            async for _, data in self._stored():
                yield data
        elif self.encoding is ObjectEncoding.GZIP:
            async for data in self._gzip(fast_gzip()):
                yield data
        else:
            async for data in self._plain():
                yield data

    async def _stored(self) -> AsyncIterator[tuple[Piece, bytes]]:
        """Each piece with its bytes: the glue itself, or one stored frame after the other."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece, piece
                continue
            async for frame in self.frames(self.delivery.record, piece):
                yield piece, frame

    def _plain(self) -> AsyncIterator[bytes]:
        """The JSON document."""
        decoded = self._decoded()
        return with_last_member(decoded, self.last_member) if self.last_member else decoded

    async def _decoded(self) -> AsyncIterator[bytes]:
        """The document as the spool has it."""
        async for piece, data in self._stored():
            yield data if isinstance(piece, bytes) else await asyncio.to_thread(decompress, data)

    async def _gzip(self, compressor: Compressor) -> AsyncIterator[bytes]:
        """The document as one gzip member."""
        async for data in self._plain():
            compressed = await asyncio.to_thread(compressor.compress, data)
            if compressed:
                yield compressed
        yield await asyncio.to_thread(compressor.flush)


def object_body(
    delivery: Delivery, encoding: ObjectEncoding, content: Content, frames: Frames, *, token: str | None = None
) -> ObjectBody:
    """What the object of a delivery holds; a `token` becomes the last member of its document.

    Raises `CorruptPayload` and `BadLocation` as `pieces_of` does.
    """
    stored = delivery
    if delivery.form is Form.DETAIL and content is Content.WHOLE:
        stored = replace(delivery, form=Form.WHOLE)
    pieces = pieces_of(stored)
    member = b"" if token is None else encoded_member("token", token)
    raw_bytes = raw_bytes_of(stored.record, pieces) + len(member)
    if pieces[-1] == b"}" and member:
        # Made of fragments: there is glue at the end that can hold it.
        pieces, member = (*pieces[:-1], member + b"}"), b""
    if encoding is ObjectEncoding.ZSTD:
        pieces = tuple(compress(piece) if isinstance(piece, bytes) else piece for piece in pieces)
    return ObjectBody(stored, pieces, encoding, frames, raw_bytes, member)
