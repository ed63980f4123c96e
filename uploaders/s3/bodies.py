"""The bytes of an object, made from what the spool keeps as often as they are wanted, and the same every time.

Stored frames pass as they are, with the glue between them as small frames of their own; or they are decompressed;
or compressed again as one gzip member. At most one frame is held, and whatever takes long runs in a thread.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace

from spool.records import Delivery, Form
from uploaders.bodies import compress, decompress
from uploaders.deflate import Compressor, fast_gzip
from uploaders.encoding import Frames
from uploaders.forms import Piece, pieces_of, raw_bytes_of
from uploaders.s3.options import Content, ObjectEncoding

CONTENT_TYPE = "application/json"
_CONTENT_ENCODINGS = {ObjectEncoding.ZSTD: "zstd", ObjectEncoding.GZIP: "gzip", ObjectEncoding.PLAIN: None}
_GZIP_OVERHEAD = 1024
"""More than header and trailer; incompressible input grows by 5 bytes for every 16 KB or more."""


@dataclass(frozen=True, slots=True)
class ObjectBody:
    """What one object holds. `delivery` carries the form that is stored, which may differ from the one owed."""

    delivery: Delivery
    pieces: tuple[Piece, ...]
    encoding: ObjectEncoding
    frames: Frames
    raw_bytes: int
    """The length of the JSON document."""

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
        """The object is at most so long. Exact, but for gzip, whose length is known only when it is made."""
        if self.encoding is ObjectEncoding.ZSTD:
            fragments = self.delivery.record.fragments
            return sum(
                len(compress(piece)) if isinstance(piece, bytes) else fragments[piece].stored_bytes
                for piece in self.pieces
            )
        if self.encoding is ObjectEncoding.GZIP:
            return self.raw_bytes + self.raw_bytes // 1024 + _GZIP_OVERHEAD
        return self.raw_bytes

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The bytes, in chunks of about a frame. Raises what `frames` raises, and `CorruptPayload`."""
        if self.encoding is ObjectEncoding.ZSTD:
            async for piece, data in self._stored():
                yield compress(data) if isinstance(piece, bytes) else data
        elif self.encoding is ObjectEncoding.GZIP:
            async for data in self._gzip(fast_gzip()):
                yield data
        else:
            async for data in self._plain():
                yield data

    async def _stored(self) -> AsyncIterator[tuple[Piece, bytes]]:
        """Each piece with its bytes: literal JSON, or one stored frame after the other."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece, piece
                continue
            async for frame in self.frames(self.delivery.record, piece):
                yield piece, frame

    async def _plain(self) -> AsyncIterator[bytes]:
        async for piece, data in self._stored():
            yield data if isinstance(piece, bytes) else await asyncio.to_thread(decompress, data)

    async def _gzip(self, compressor: Compressor) -> AsyncIterator[bytes]:
        async for data in self._plain():
            compressed = await asyncio.to_thread(compressor.compress, data)
            if compressed:
                yield compressed
        yield await asyncio.to_thread(compressor.flush)


def object_body(
    delivery: Delivery, encoding: ObjectEncoding, content: Content, frames: Frames, *, token: str | None = None
) -> ObjectBody:
    """What the object of a delivery holds; a `token` becomes the last member of a whole that is made of fragments.

    Raises `CorruptPayload` and `BadLocation` as `pieces_of` does.
    """
    stored = delivery
    if delivery.form is Form.DETAIL and content is Content.WHOLE:
        stored = replace(delivery, form=Form.WHOLE)
    pieces = pieces_of(stored)
    raw_bytes = raw_bytes_of(stored)
    if token is not None and pieces[-1] == b"}":
        member = f',"token":{json.dumps(token)}}}'.encode()
        pieces = (*pieces[:-1], member)
        raw_bytes += len(member) - 1
    return ObjectBody(stored, pieces, encoding, frames, raw_bytes)
