"""Cuts the bytes of an object into parts, each with its checksums, holding one part and one chunk at a time."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import md5

from isal import isal_zlib


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an object, in memory, and what its bytes come to."""

    number: int
    """From 1."""
    data: io.BytesIO = field(repr=False)
    size: int
    md5: bytes
    """What S3 calls `Content-MD5`: it finds errors of transfer, and is no protection against forgery."""
    crc32: int
    crc32_so_far: int
    """Of all bytes from the first part to the end of this one."""


class PartCutter:
    """Takes chunks and gives parts of `part_bytes`, the last one shorter. An empty object has one empty part."""

    def __init__(self, chunks: AsyncIterator[bytes], part_bytes: int) -> None:
        self._chunks = chunks
        self._part_bytes = part_bytes
        self._rest = memoryview(b"")
        self._number = 0
        self._crc32 = 0
        self.exhausted = False
        """Whether the part that was given last is the last one."""

    async def next(self) -> Part:
        """The next part. Must not be called once `exhausted`; raises what the chunks raise."""
        data = io.BytesIO()
        while (room := self._part_bytes - data.tell()) > 0:
            if not self._rest and not await self._refill():
                break
            data.write(self._rest[:room])
            self._rest = self._rest[room:]
        if not self._rest:
            await self._refill()
        self._number += 1
        part = await asyncio.to_thread(_sealed, self._number, data, self._crc32)
        self._crc32 = part.crc32_so_far
        return part

    async def _refill(self) -> bool:
        """Whether there is more; empty chunks are passed over."""
        async for chunk in self._chunks:
            if chunk:
                self._rest = memoryview(chunk)
                return True
        self.exhausted = True
        return False


def _sealed(number: int, data: io.BytesIO, crc32_before: int) -> Part:
    with data.getbuffer() as view:
        digest = md5(view, usedforsecurity=False).digest()
        part = Part(number, data, len(view), digest, isal_zlib.crc32(view), isal_zlib.crc32(view, crc32_before))
    data.seek(0)
    return part
