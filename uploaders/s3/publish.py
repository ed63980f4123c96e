"""Creates objects so that none but callspool's own is ever replaced, and proves each before it counts as delivered."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from isal.isal_zlib import crc32

from uploaders.base import Refused, RetryLater, S3Observer
from uploaders.rate_limit import Pace
from uploaders.s3.client import Bucket
from uploaders.s3.errors import NoSuchObject, NotSupported, ObjectExists, S3Failure
from uploaders.s3.object import Attributes
from uploaders.s3.parts import Fingerprint, ObjectState, Verdict, compare, proves

Create = Callable[[bool], Awaitable[str | None]]
"""Makes the object; its argument says whether it may replace one. Returns the CRC-32 that the answer tells, if any."""


@dataclass(frozen=True, slots=True)
class ObjectTarget:
    """Where an object belongs, and whose it is."""

    destination: str
    key: str
    record_uid: str
    attributes: Attributes
    pace: Pace | None = None
    """What holds its bytes back on their way."""


class Publisher:
    """Works on one bucket. Learns whether its server knows `If-None-Match`."""

    def __init__(self, bucket: Bucket, observer: S3Observer, *, only_new: bool) -> None:
        self._bucket = bucket
        self._observer = observer
        self._only_new = only_new

    async def publish(self, target: ObjectTarget, sent: Fingerprint, create: Create) -> bool:
        """Create the object and prove it; False when it was there already, by an attempt that did not see its end.

        Raises `S3Failure`: also when a stranger's object is in the way, or when the object is not what was sent.
        """
        try:
            told_crc32 = await self._create(create)
        except ObjectExists:
            if await self.is_there(target, sent, await self._bucket.head(target.key)):
                return False
            told_crc32 = await create(True)
        await self._prove(target, sent, told_crc32)
        return True

    async def find(self, target: ObjectTarget) -> ObjectState | None:
        """What lies under the key; None: nothing."""
        try:
            return await self._bucket.head(target.key)
        except NoSuchObject:
            return None

    async def is_there(self, target: ObjectTarget, sent: Fingerprint, found: ObjectState) -> bool:
        """Whether what was found is what was to be sent; False: it may be replaced. Raises `S3Failure` otherwise.

        An object of the same record with other bytes was made by another version, or before an encoding changed.
        """
        if await self._verdict(target, sent, found) is Verdict.MATCHES:
            return True
        if found.record_uid != target.record_uid:
            reason = f"an object that is not callspool's lies at s3://{self._bucket.name}/{target.key}: move it away"
            raise S3Failure(Refused(reason), operation="HeadObject")
        return False

    async def _create(self, create: Create) -> str | None:
        """Make it where none is, as far as the server knows how."""
        if not self._only_new:
            return await create(True)
        try:
            return await create(False)
        except NotSupported:
            told_crc32 = await create(True)
            self._only_new = False
            return told_crc32

    async def _prove(self, target: ObjectTarget, sent: Fingerprint, told_crc32: str | None) -> None:
        """By the answer itself, or else by asking for the object. Raises `S3Failure`."""
        if proves(told_crc32, sent):
            return
        if await self._verdict(target, sent, await self._bucket.head(target.key)) is not Verdict.MATCHES:
            reason = f"the object at s3://{self._bucket.name}/{target.key} is not what was sent"
            raise S3Failure(RetryLater(reason), operation="HeadObject")

    async def _verdict(self, target: ObjectTarget, sent: Fingerprint, found: ObjectState) -> Verdict:
        """What the server's figures say, or the bytes where these say nothing."""
        verdict = await asyncio.to_thread(compare, found, sent)
        if verdict is not Verdict.UNPROVEN:
            return verdict
        self._observer.read_back(target.destination, found.size)
        return await self._read_back(target, sent)

    async def _read_back(self, target: ObjectTarget, sent: Fingerprint) -> Verdict:
        """What the bytes themselves say."""
        checksum = size = 0
        async for chunk in self._bucket.read(target.key):
            checksum, size = crc32(chunk, checksum), size + len(chunk)
        return Verdict.MATCHES if (checksum, size) == (sent.crc32, sent.size) else Verdict.DIFFERS
