"""The document that a delivery carries, read from the spool a piece at a time: for people, and for files.

What is read is what would be sent, before any encoding, with one exception: a reduced detail is read in full, since
it is reduced only when it is sent.
"""

import asyncio
from collections.abc import AsyncIterator

from gateway.logs import redact_text
from spool.records import Delivery
from uploaders.bodies import compress, decompress
from uploaders.forms import pieces_of
from uploaders.uploader import PayloadReader

PREVIEW_BYTES = 2000


async def compressed(delivery: Delivery, payloads: PayloadReader) -> AsyncIterator[bytes]:
    """The document as zstd frames, the stored ones as they are; one after the other they are a valid `.zst`.

    Raises `CorruptPayload`, and `BadLocation` for a notice that has no object to tell of.
    """
    for piece in pieces_of(delivery):
        if isinstance(piece, bytes):
            yield compress(piece)
        else:
            async for frame in payloads.frames(delivery.record, piece):
                yield frame


async def plain(delivery: Delivery, payloads: PayloadReader) -> AsyncIterator[bytes]:
    """The document as JSON text, at most 1 MiB at a time. Raises the same errors."""
    async for frame in compressed(delivery, payloads):
        yield await asyncio.to_thread(decompress, frame)


async def preview(delivery: Delivery, payloads: PayloadReader) -> tuple[str, bool]:
    """How the document begins, with what looks like a secret masked, and whether that is all of it."""
    begun = bytearray()
    async for block in plain(delivery, payloads):
        begun += block
        if len(begun) > PREVIEW_BYTES:
            break
    text = begun[:PREVIEW_BYTES].decode(errors="ignore")
    return redact_text(text), len(begun) <= PREVIEW_BYTES
