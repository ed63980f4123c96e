"""Claim checks: a notice says that a detail lies in a bucket; the object is read, and stored as the detail it is.

Notices that sidecars write to Kafka come after their object was confirmed, so that it is there. It is streamed into a
buffer that spills to a file without a name: a detail of 300 MB costs 8 MB of memory. What cannot be read is tried for a
minute, and its notice then goes to the dead: an outage of the bucket holds up nothing else for longer.
"""

import asyncio
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import aclosing
from typing import Final

import msgspec
import zstandard

from gateway.tenants import may_refer_to
from gateway.worker.messages import ClaimFailed
from spool.payload.frames import encode
from uploaders.base import RetryLater
from uploaders.document.body import GZIP_WINDOW_BITS, SpillingBuffer
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.errors import NoSuchObject, S3Failure
from uploaders.stores.parts import key_text

FRAME_BYTES: Final = 1 << 20
LARGEST_BYTES: Final = 4 << 30
"""Of a detail once it is decoded: a small object may decode to any size."""
SLICE_BYTES: Final = 4 << 10
"""What is decoded at once: it may become thousands of times as much."""
TRIES: Final = 7
FIRST_WAIT_SECONDS: Final = 1.0
"""It doubles: seven attempts within about a minute."""


class _Note(msgspec.Struct):
    s3_bucket: str
    s3_key: str


class _Identity(msgspec.Struct):
    call_id: str | int | None = None


Decode = Callable[[bytes], bytes]


class Claimed:
    """A detail as it was read; `close` gives back its file."""

    def __init__(self) -> None:
        self._buffer = SpillingBuffer(None)

    def add(self, data: bytes) -> None:
        """Some more of it. Raises `ClaimFailed` where it becomes too large."""
        if self._buffer.size + len(data) > LARGEST_BYTES:
            raise ClaimFailed(f"the object decodes to more than {LARGEST_BYTES} bytes")
        self._buffer.write(data)

    @property
    def size(self) -> int:
        """In bytes, decoded."""
        return self._buffer.size

    def view(self) -> memoryview:
        """The document."""
        return self._buffer.view()

    def frames(self) -> Iterator[bytes]:
        """The document as a store keeps it."""
        view = self.view()
        for start in range(0, len(view), FRAME_BYTES):
            yield encode(view[start : start + FRAME_BYTES])

    def close(self) -> None:
        """Give it up; views stay valid."""
        self._buffer.close()


class ClaimReader:
    """Reads what notices refer to, from the `buckets` that are allowed and no others; several at once."""

    def __init__(
        self, connection: S3Connection, bucket: Bucket, buckets: Collection[str], at_once: int,
        downloaded: Callable[[float, int], None],
    ) -> None:  # fmt: skip
        self._connection = connection
        self._bucket = bucket
        self._buckets = frozenset(buckets)
        self._slots = asyncio.Semaphore(at_once)
        self._downloaded = downloaded

    async def read(self, notice: bytes, project: str, call_id: str) -> Claimed:
        """The detail of the call `call_id` (as a store calls it) of this project. Raises `ClaimFailed`."""
        try:
            note = msgspec.json.decode(notice, type=_Note)
        except msgspec.DecodeError as error:
            raise ClaimFailed(f"the notice cannot be read: {error}") from None
        if note.s3_bucket not in self._buckets:
            raise ClaimFailed(
                f"the bucket {note.s3_bucket[:80]!r} may not be read: references.buckets does not name it"
            )
        wait = FIRST_WAIT_SECONDS
        for attempt in range(1, TRIES + 1):
            try:
                async with self._slots:  # not while it waits: many that are not there fail within a minute, too
                    return await self._read(note, project, call_id)
            except S3Failure as error:
                final = attempt == TRIES or not _may_pass(error)
                if final:
                    raise ClaimFailed(f"object s3://{note.s3_bucket}/{note.s3_key[:200]}: {error}") from error
            await asyncio.sleep(wait)
            wait *= 2
        raise AssertionError

    async def close(self) -> None:
        """Close the connections to the bucket."""
        await self._connection.close()

    async def _read(self, note: _Note, project: str, call_id: str) -> Claimed:
        loop = asyncio.get_running_loop()
        started, claimed = loop.time(), Claimed()
        tenants = may_refer_to(project or None)
        try:
            decode: Decode | None = None
            async with aclosing(self._bucket.called(note.s3_bucket).read(note.s3_key, tenants)) as pieces:
                async for piece in pieces:
                    decode = decode or _decoder_of(piece)
                    await asyncio.to_thread(_take, claimed, decode, piece)
            named = await asyncio.to_thread(_call_of, claimed.view())
            if named is None or key_text(named) != call_id:
                raise ClaimFailed(
                    f"object s3://{note.s3_bucket}/{note.s3_key[:200]} is not about the call of its notice"
                )
        except BaseException:
            claimed.close()
            raise
        self._downloaded(loop.time() - started, claimed.size)
        return claimed


def _may_pass(error: S3Failure) -> bool:
    """Whether another attempt may succeed: an object that was just written may not be seen everywhere yet."""
    return isinstance(error, NoSuchObject) or isinstance(error.outcome, RetryLater)


def _decoder_of(beginning: bytes) -> Decode:
    """By its first bytes: sidecars store frames of zstd, gzip or plain JSON."""
    if beginning.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress
    if beginning.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(GZIP_WINDOW_BITS).decompress
    return bytes


def _take(claimed: Claimed, decode: Decode, piece: bytes) -> None:
    try:
        for start in range(0, len(piece), SLICE_BYTES):
            claimed.add(decode(piece[start : start + SLICE_BYTES]))
    except (zstandard.ZstdError, zlib.error) as error:
        raise ClaimFailed(f"the object cannot be decoded: {error}") from error


def _call_of(document: memoryview) -> str | None:
    try:
        named = msgspec.json.decode(document, type=_Identity).call_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if named is None else str(named)
