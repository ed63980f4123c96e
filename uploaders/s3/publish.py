"""Publishes objects: never replaces one of another writer, and verifies each before it counts as delivered."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from isal.isal_zlib import crc32

from uploaders.base import OF_NOBODY, Erased, Refused, RetryLater, S3Observer
from uploaders.rate_limit import Pace
from uploaders.s3.client import Bucket
from uploaders.s3.errors import NoSuchObject, NotSupported, ObjectExists, S3Failure
from uploaders.s3.object import Attributes
from uploaders.s3.parts import Fingerprint, ObjectState, Verdict, compare, proves

Create = Callable[[bool], Awaitable[str | None]]
"""Makes the object; its argument says whether it may replace one. Returns the CRC-32 in the response, if any."""


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
    """Works on one bucket. Learns whether its server supports `If-None-Match`."""

    def __init__(self, bucket: Bucket, observer: S3Observer, *, only_new: bool) -> None:
        self._bucket = bucket
        self._observer = observer
        self._only_new = only_new

    async def publish(self, target: ObjectTarget, sent: Fingerprint, create: Create) -> bool:
        """Create and verify the object; False when an earlier attempt, whose end was not seen, had created it.

        Raises `S3Failure`: also when a stranger's object is in the way, or when the object is not what was sent.
        """
        try:
            response_crc32 = await self._create(create)
        except ObjectExists:
            if await self.is_there(target, sent, await self._bucket.head(target.key)):
                return False
            response_crc32 = await create(True)
        await self._prove(target, sent, response_crc32)
        return True

    async def find(self, target: ObjectTarget) -> ObjectState | None:
        """The object under the key; None: there is none."""
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
            place = f"s3://{self._bucket.name}/{target.key}"
            reason = f"there is an object at {place} that callspool did not write: move it away"
            raise S3Failure(Refused(reason), operation="HeadObject")
        return False

    async def _create(self, create: Create) -> str | None:
        """Create it where none exists, as far as the server supports that condition."""
        if not self._only_new:
            return await create(True)
        try:
            return await create(False)
        except NotSupported:
            response_crc32 = await create(True)
            self._only_new = False
            return response_crc32

    async def _prove(self, target: ObjectTarget, sent: Fingerprint, response_crc32: str | None) -> None:
        """Verify it by the response itself, or else by a HEAD. Raises `S3Failure`."""
        if proves(response_crc32, sent):
            return
        if await self._verdict(target, sent, await self._bucket.head(target.key)) is not Verdict.MATCHES:
            reason = f"the object at s3://{self._bucket.name}/{target.key} does not match what was sent"
            raise S3Failure(RetryLater(reason), operation="HeadObject")

    async def _verdict(self, target: ObjectTarget, sent: Fingerprint, found: ObjectState) -> Verdict:
        """Compare the server's checksums, or the bytes where it has none."""
        verdict = await asyncio.to_thread(compare, found, sent)
        if verdict is not Verdict.UNPROVEN:
            return verdict
        self._observer.read_back(target.destination, found.size)
        return await self._read_back(target, sent)

    async def _read_back(self, target: ObjectTarget, sent: Fingerprint) -> Verdict:
        """Download the object and compare its checksum."""
        checksum = size = 0
        async for chunk in self._bucket.read(target.key):
            checksum, size = crc32(chunk, checksum), size + len(chunk)
        return Verdict.MATCHES if (checksum, size) == (sent.crc32, sent.size) else Verdict.DIFFERS


async def erase_objects(bucket: Bucket, prefix: str, belongs: Callable[[str], bool | None], *, dry_run: bool) -> Erased:
    """Delete the objects below a prefix that belong to what is erased, by their keys; or count them.

    A thousand keys a request. `belongs` returns None where it cannot tell.
    """
    count = unclear = 0
    try:
        async with aclosing(bucket.keys(prefix)) as keys:
            async for key in keys:
                found = belongs(key)
                unclear += found is None
                count += found is True
                if found and not dry_run:
                    await bucket.delete(key)
        versions = not dry_run and count > 0 and await bucket.keeps_versions()
    except S3Failure as failure:
        return Erased(count, str(failure), again=True)
    problems = ["the bucket keeps versions: the older ones are there still"] if versions else []
    problems += [OF_NOBODY.format(f"{unclear} objects")] if unclear else []
    return Erased(count, "; ".join(problems) or None)
