"""Publishes objects, in one request or in parts, and verifies each before it counts as delivered.

An object of another writer is never replaced. Uploads in parts resume where they stopped; others are aborted.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from isal.isal_zlib import crc32

from spool.records import DeliveryKey
from uploaders.base import (
    OF_NOBODY,
    Erased,
    PartProgress,
    Refused,
    RetryLater,
    S3Observer,
    UploaderState,
    UploadProgress,
)
from uploaders.rate_limit import Pace
from uploaders.s3.client import Bucket, ListedPart
from uploaders.s3.errors import NoSuchObject, NoSuchUpload, NotSupported, ObjectExists, S3Failure
from uploaders.s3.object import Attributes, ObjectBody
from uploaders.s3.options import PartPlan
from uploaders.s3.parts import Fingerprint, ObjectState, Part, PartCutter, Verdict, compare, proves

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
    """Delete the objects below a prefix that belong to what is erased, by their keys; or count them. So are uploads
    that were not completed: their parts are no object, and are there all the same.

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
        aborted, unlisted = await _abort_uploads(bucket, prefix, belongs, dry_run=dry_run)
    except S3Failure as failure:
        return Erased(count, str(failure), again=True)
    count += aborted
    problems = ["the bucket keeps versions: the older ones are there still"] if versions else []
    problems += [f"uploads that were not completed cannot be listed: {unlisted}"] if unlisted else []
    problems += [OF_NOBODY.format(f"{unclear} objects")] if unclear else []
    return Erased(count, "; ".join(problems) or None)


async def _abort_uploads(
    bucket: Bucket, prefix: str, belongs: Callable[[str], bool | None], *, dry_run: bool
) -> tuple[int, str | None]:
    """How many uploads belong to what is erased, which are aborted; and why they cannot be listed.

    One that nobody can tell stays: its own delivery completes or aborts it. Raises `S3Failure` for what may pass.
    """
    count = 0
    try:
        async with aclosing(bucket.all_uploads(prefix)) as uploads:
            async for key, upload_id in uploads:
                if belongs(key) is not True:
                    continue
                count += 1
                if not dry_run:
                    with suppress(NoSuchUpload):  # completed, aborted or expired meanwhile
                        await bucket.abort(key, upload_id)
    except NoSuchUpload:
        return count, None  # some servers answer a list of none like this (rclone does)
    except S3Failure as failure:
        if isinstance(failure.outcome, RetryLater):
            raise
        return count, str(failure)
    return count, None


# Multipart uploads.
#
# Before a part is sent, its number, size and MD5 are in the ledger, after it its ETag. An attempt that finds an upload
# there asks the server for its parts, makes all parts anew from the spool (which costs no memory and little time) and
# sends those that the server does not have with the same bytes. An upload that the server does not know any more was
# completed, aborted or expired: whether the object is there decides.


@dataclass(slots=True)
class _Sending:
    """One upload while its parts are sent."""

    progress: UploadProgress
    listed: Mapping[int, ListedPart]
    sent: Fingerprint = field(default_factory=Fingerprint)
    etags: dict[int, str] = field(default_factory=dict)
    resumed: int = 0


class MultipartUploader:
    """Works on one bucket, with at most `parts_at_once` parts in memory, whatever the number of objects.

    Each part takes its place before it is made and gives it back when it is sent, so objects never wait for each
    other's ends.
    """

    def __init__(
        self,
        bucket: Bucket,
        ledger: UploaderState,
        publisher: Publisher,
        observer: S3Observer,
        *,
        parts_at_once: int,
    ) -> None:
        self._bucket = bucket
        self._ledger = ledger
        self._publisher = publisher
        self._observer = observer
        self._slots = asyncio.Semaphore(parts_at_once)
        self._stale = StaleUploads(bucket, ledger, observer)

    async def upload(self, key: DeliveryKey, target: ObjectTarget, body: ObjectBody, plan: PartPlan) -> Fingerprint:
        """Send what is missing, make the object, prove it. Raises `S3Failure`, and what the body raises."""
        progress = await self._progress(key, target, plan)
        try:
            return await self._go_on(target, body, progress)
        except NoSuchUpload:
            completed = await self._completed(target, body, progress)
            if completed is not None:
                return completed
            await self._ledger.forget_upload(key)
        return await self._go_on(target, body, await self._progress(key, target, plan))

    async def _progress(self, key: DeliveryKey, target: ObjectTarget, plan: PartPlan) -> UploadProgress:
        """The upload that the ledger knows, if it is for this object; else a new one."""
        found = await self._ledger.upload_progress(key)
        if found is not None and (found.bucket, found.object_key) == (self._bucket.name, target.key):
            return found
        if found is not None:
            await self._stale.abort(found)
        await self._stale.abort_unknown(target)
        upload_id = await self._bucket.begin(target.key, target.attributes)
        begun = UploadProgress(key, self._bucket.name, target.key, upload_id, plan.part_bytes)
        await self._ledger.begin_upload(begun)
        return begun

    async def _go_on(self, target: ObjectTarget, body: ObjectBody, progress: UploadProgress) -> Fingerprint:
        upload_id = progress.upload_id
        listed = await self._bucket.parts(target.key, upload_id) if progress.parts else {}
        sending = _Sending(progress, listed)
        await self._send_all(target, body, sending)
        if sending.resumed:
            self._observer.parts_resumed(target.destination, sending.resumed)
        etags = [etag for _, etag in sorted(sending.etags.items())]

        async def complete(replace: bool) -> str | None:
            """Make the object of all parts."""
            return await self._bucket.complete(target.key, upload_id, etags, sending.sent, replace=replace)

        if not await self._publisher.publish(target, sending.sent, complete):
            await self._stale.abort(progress)
        return sending.sent

    async def _send_all(self, target: ObjectTarget, body: ObjectBody, sending: _Sending) -> None:
        try:
            async with aclosing(body.chunks()) as chunks, asyncio.TaskGroup() as tasks:
                part_bytes = sending.progress.part_bytes
                cutter = PartCutter(chunks, part_bytes, size_bound=body.size_bound, with_md5=True, pace=target.pace)
                while not cutter.exhausted:
                    await self._take(target, cutter, sending, tasks)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _take(
        self, target: ObjectTarget, cutter: PartCutter, sending: _Sending, tasks: asyncio.TaskGroup
    ) -> None:
        """Make the next part and have it sent, in one of the places that all objects share."""
        await self._slots.acquire()
        task = None
        try:
            part = await cutter.next()
            sending.sent.add(part)
            if not self._is_there(part, sending):
                task = tasks.create_task(self._send(target, part, sending))
                task.add_done_callback(lambda _: self._slots.release())
        finally:
            if task is None:
                self._slots.release()

    def _is_there(self, part: Part, sending: _Sending) -> bool:
        remembered = sending.progress.parts.get(part.number)
        etag = finished_etag(part, remembered, sending.listed.get(part.number))
        if etag is None:
            return False
        sending.etags[part.number] = etag
        sending.resumed += 1
        return True

    async def _send(self, target: ObjectTarget, part: Part, sending: _Sending) -> None:
        key, number = sending.progress.delivery, part.number
        await self._ledger.write_parts(key, {number: PartProgress(part.size, part.md5)})
        etag = await self._bucket.send_part(target.key, sending.progress.upload_id, part)
        await self._ledger.write_parts(key, {number: PartProgress(part.size, part.md5, etag)})
        sending.etags[number] = etag
        self._observer.part_sent(target.destination, part.size, repeated=number in sending.progress.parts)

    async def _completed(self, target: ObjectTarget, body: ObjectBody, progress: UploadProgress) -> Fingerprint | None:
        """The object's fingerprint, if it is there and right; reads the payload only if there is an object."""
        found = await self._publisher.find(target)
        if found is None:
            return None
        expected = await fingerprint(body, progress.part_bytes)
        return expected if await self._publisher.is_there(target, expected, found) else None


def finished_etag(part: Part, remembered: PartProgress | None, listed: ListedPart | None) -> str | None:
    """The ETag of a part that the server has with these bytes; None: it is to be sent.

    ListParts tells no checksums. An ETag that is the part's MD5 proves it; one that is not, as under a KMS key, is as
    good if it was the answer to these bytes.
    """
    if listed is None or listed.size != part.size:
        return None
    answered = remembered is not None and remembered.md5 == part.md5 and remembered.etag == listed.etag
    return listed.etag if answered or listed.etag == part.md5.hex() else None


async def fingerprint(body: ObjectBody, part_bytes: int) -> Fingerprint:
    """The fingerprint of an object in parts of `part_bytes`, without sending it."""
    result = Fingerprint()
    async with aclosing(body.chunks()) as chunks:
        cutter = PartCutter(chunks, part_bytes, size_bound=body.size_bound, with_md5=True)
        while not cutter.exhausted:
            result.add(await cutter.next())
    return result


# Aborts multipart uploads that nobody will complete: their parts take space at the server that is paid for.
#
# Three kinds: of a delivery that ended without being delivered; of one whose key or bucket has changed; and one that
# the server began and whose id was never written down, because the gateway was killed in between. What is missed here
# is left to the bucket's lifecycle rule.


class StaleUploads:
    """Works on one bucket, and on others where the ledger names them."""

    def __init__(self, bucket: Bucket, ledger: UploaderState, observer: S3Observer) -> None:
        self._bucket = bucket
        self._ledger = ledger
        self._observer = observer
        self._failed_last: DeliveryKey | None = None

    async def abort(self, progress: UploadProgress) -> None:
        """Abort one and forget it; one that the server does not know is as good. Raises `S3Failure`."""
        bucket = self._bucket.called(progress.bucket)
        await self._abort(bucket, progress.object_key, progress.upload_id, progress.delivery.destination)
        await self._ledger.forget_upload(progress.delivery)

    async def abort_unknown(self, target: ObjectTarget) -> None:
        """Abort all uploads for this key, of which the ledger knows none.

        A server that refuses to list them does not keep the new one from being made. Raises `S3Failure` for others.
        """
        try:
            for upload_id in await self._bucket.uploads(target.key):
                await self._abort(self._bucket, target.key, upload_id, target.destination)
        except NoSuchUpload:
            return  # some servers answer a list of none like this (rclone does)
        except S3Failure as failure:
            if isinstance(failure.outcome, RetryLater):
                raise
            self._observer.uploads_aborted(target.destination, 0, failed=1)

    async def abort_abandoned(self, destination: str) -> None:
        """Abort those whose deliveries ended; what fails is counted, and tried again another time.

        So are those behind one that a server in trouble failed: a delivery waits, and each could take a time-out. Those
        come first the next time.
        """
        found = await self._ledger.abandoned_uploads(destination)
        behind = next((place for place, one in enumerate(found, 1) if one.delivery == self._failed_last), 0)
        for progress in (*found[behind:], *found[:behind]):
            try:
                await self.abort(progress)
            except S3Failure as failure:
                self._observer.uploads_aborted(destination, 0, failed=1)
                if isinstance(failure.outcome, RetryLater):
                    self._failed_last = progress.delivery
                    return

    async def _abort(self, bucket: Bucket, key: str, upload_id: str, destination: str) -> None:
        """Abort one at the server."""
        try:
            await bucket.abort(key, upload_id)
        except NoSuchUpload:
            return  # completed, aborted or expired there: nothing is left to abort, and nothing to count
        self._observer.uploads_aborted(destination, 1, failed=0)
