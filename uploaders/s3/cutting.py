"""Cuts the bytes of an object into parts, each with its checksums, holding one part and one chunk at a time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import md5

from isal import isal_zlib

from uploaders.s3.part_data import PartData
from uploaders.sending import Pace


@dataclass(slots=True)
class Part:
    """One part of an object, in memory, and what its bytes come to."""

    number: int
    """From 1."""
    data: PartData = field(repr=False)
    size: int
    crc32: int
    crc32_so_far: int
    """Of all bytes from the first part to the end of this one."""

    _md5: bytes | None = field(default=None, repr=False)

    @property
    def md5(self) -> bytes:
        """What S3 calls `Content-MD5`: it finds errors of transfer, and is no protection against forgery.

        Computed when first asked for, 2 ms a MiB: half of what an object of one request costs otherwise, for nothing
        where the server knows CRC-32.
        """
        if self._md5 is None:
            with self.data.getbuffer() as view:
                self._md5 = md5(view, usedforsecurity=False).digest()
        return self._md5


class PartCutter:
    """Takes chunks and gives parts of `part_bytes`, the last one shorter. An empty object has one empty part.

    `size_bound`: there are at most so many bytes. `with_md5`: whether each part's MD5 will be asked for, and is better
    computed in a thread. `pace` holds parts back while they are sent.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        part_bytes: int,
        *,
        size_bound: int,
        with_md5: bool,
        pace: Pace | None = None,
    ) -> None:
        self._chunks = chunks
        self._part_bytes = part_bytes
        self._left = size_bound
        self._with_md5 = with_md5
        self._pace = pace
        self._rest = memoryview(b"")
        self._number = 0
        self._crc32 = 0
        self.exhausted = False
        """Whether the part that was given last is the last one."""

    async def next(self) -> Part:
        """The next part. Must not be called once `exhausted`; raises what the chunks raise."""
        data = _room_for(min(self._part_bytes, self._left))
        while (room := self._part_bytes - data.tell()) > 0:
            if not self._rest and not await self._refill():
                break
            data.write(self._rest[:room])
            self._rest = self._rest[room:]
        data.truncate()
        data.pace = self._pace
        self._left -= data.tell()
        if not self._rest:
            await self._refill()
        self._number += 1
        part = await asyncio.to_thread(_sealed, self._number, data, self._crc32, with_md5=self._with_md5)
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


def _room_for(size: int) -> PartData:
    """Memory of that size at once. Grown bit by bit, parts of two large objects took up to 20 MiB more."""
    data = PartData()
    if size > 0:
        data.seek(size - 1)
        data.write(b" ")
        data.seek(0)
    return data


def _sealed(number: int, data: PartData, crc32_before: int, *, with_md5: bool) -> Part:
    """The part, with its checksums."""
    with data.getbuffer() as view:
        crc32 = isal_zlib.crc32(view)
        # The first part is all bytes so far.
        part = Part(number, data, len(view), crc32, crc32 if number == 1 else isal_zlib.crc32(view, crc32_before))
    if with_md5:
        part.md5  # noqa: B018 - it stays computed
    data.seek(0)
    return part
