"""Cuts the bytes of an object into parts with checksums, one in memory at a time, and verifies uploaded objects."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum, auto
from hashlib import md5
from zlib import crc32

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Order, Payload, payload_type
from isal import isal_zlib

from uploaders.rate_limit import SLICE_BYTES, Pace, paced

# The bytes of one request to a bucket, which a bandwidth limit may hold back on their way out.
#
# The S3 library hands a body to the HTTP client as it is, and that asks by its type how to send it: so the waiting is
# in the sending, slice by slice, and not in front of a part of 8 MiB that would then leave in one burst.


class PartData(io.BytesIO):
    """In memory; `pace` holds it back while it is sent, which counts for no time-out."""

    pace: Pace | None = None
    timer: asyncio.Timeout | None = None
    """The time-out of the request that sends it."""

    async def wait(self, count: int) -> int:
        """Wait as `pace` says; the time-out waits too."""
        if self.pace is None or self.timer is None:
            return count
        end, began = self.timer.when(), asyncio.get_running_loop().time()
        allowed = await self.pace(count)
        if end is not None and not self.timer.expired():
            self.timer.reschedule(end + asyncio.get_running_loop().time() - began)
        return allowed


@payload_type(PartData, order=Order.try_first)
class PartPayload(Payload):
    """How the HTTP client sends it."""

    def __init__(
        self,
        value: PartData,
        *,
        disposition: str | None = None,  # noqa: ARG002  # the client's way of making payloads
    ) -> None:
        super().__init__(value)
        self._data = value
        self._size = value.getbuffer().nbytes - value.tell()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Not asked for: it is sent, and never shown."""
        raise NotImplementedError

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send what is left of it, a slice at a time: what the socket does not take at once is copied."""
        data = self._data
        async for some in paced(data.getbuffer()[data.tell() :], data.wait if data.pace else None):
            for start in range(0, len(some), SLICE_BYTES):
                await writer.write(some[start : start + SLICE_BYTES])


@dataclass(slots=True)
class Part:
    """One part of an object, in memory, with its checksums."""

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


# Verification: whether the server's object is the one that was sent, from what both sides computed. Pure.
#
# What a server returns depends on its dialect: Amazon S3 returns the CRC-32 that it computed, and under a KMS key an
# ETag that is no MD5; others know no checksums but an ETag made of MD5s, and some know neither. So a checksum decides,
# an ETag that is equal proves, one that differs proves nothing, and what cannot be proven is downloaded.


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What HEAD returns for an object. Checksums as the server writes them: base64, `-N` behind those made of parts."""

    size: int
    etag: str
    """Without its quotes."""
    crc32: str | None = None
    record_uid: str | None = None
    """The record that the object's metadata names, if it is one of callspool's."""


class Verdict(Enum):
    """What that says about the object."""

    MATCHES = auto()
    """It holds the bytes that were sent."""
    DIFFERS = auto()
    """It does not."""
    UNPROVEN = auto()
    """The server returned nothing that could decide."""


@dataclass(slots=True)
class Fingerprint:
    """Size and checksums of an object, gathered part by part, in order."""

    size: int = 0
    crc32: int = 0
    """Of the whole object."""
    part_md5s: list[bytes] = field(default_factory=list)
    part_crc32s: list[int] = field(default_factory=list)
    only: Part | None = None
    """The part of an object of one request: its MD5 is computed only if it is needed."""

    @classmethod
    def of_one(cls, part: Part) -> "Fingerprint":
        """The fingerprint of an object of one request."""
        return cls(part.size, part.crc32, [], [part.crc32], part)

    def add(self, part: Part) -> None:
        """Take in the next part."""
        self.size += part.size
        self.crc32 = part.crc32_so_far
        self.part_md5s.append(part.md5)
        self.part_crc32s.append(part.crc32)

    @property
    def parts(self) -> int:
        """How many parts were taken in."""
        return len(self.part_crc32s)

    def etags(self) -> frozenset[str]:
        """The ETags that servers give such an object: of one request, and of an upload in parts.

        May take some milliseconds: an MD5 that was not needed so far is computed.
        """
        md5s = self.part_md5s if self.only is None else [self.only.md5]
        composite = f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{self.parts}"
        return frozenset({composite, md5s[0].hex()} if self.parts == 1 else {composite})

    def crc32s(self) -> frozenset[str]:
        """The CRC-32 checksums that servers give such an object: of all bytes, or made of those of the parts."""
        joined = b"".join(crc.to_bytes(4, "big") for crc in self.part_crc32s)
        return frozenset({encoded_crc32(self.crc32), f"{encoded_crc32(crc32(joined))}-{self.parts}"})


def compare(state: ObjectState, sent: Fingerprint) -> Verdict:
    """What the server's own figures say about the object."""
    if state.size != sent.size:
        return Verdict.DIFFERS
    if state.crc32 is not None:
        return Verdict.MATCHES if state.crc32 in sent.crc32s() else Verdict.DIFFERS
    return Verdict.MATCHES if state.etag in sent.etags() else Verdict.UNPROVEN


def proves(told_crc32: str | None, sent: Fingerprint) -> bool:
    """Whether the answer to the upload alone says that the object is what was sent, so that none need be asked for.

    It tells no size: the server has got as many bytes as were announced, or it would have refused them. An ETag does
    not suffice: that of an upload in parts is made of what the client stated of its parts.
    """
    return told_crc32 is not None and told_crc32 in sent.crc32s()


def encoded_crc32(crc32: int) -> str:
    """As S3 writes it: base64 of the four bytes, the highest first."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


def encoded_md5(digest: bytes) -> str:
    """As `Content-MD5` writes it."""
    return base64.b64encode(digest).decode()
