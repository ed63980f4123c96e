"""Recordings in a bucket: a stream of unknown length becomes one object, one part of it in memory."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Final

from uploaders.base import CallToErase, Erased, RetryLater, S3Observer, Scope, UploaderState
from uploaders.recordings import NotKept, RecordingOwners
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.errors import NoSuchObject, S3Failure
from uploaders.s3.multipart import StaleUploads
from uploaders.s3.object import Attributes
from uploaders.s3.options import LARGEST_OBJECT_BYTES, S3Options
from uploaders.s3.parts import Fingerprint, Part, PartCutter
from uploaders.s3.publish import ObjectTarget, Publisher, erase_objects
from uploaders.safe_names import safe_name

FOLDER: Final = "recordings/"
"""Below the prefix of the bucket's destination."""


class BucketRecordings:
    """Keeps them in the bucket of a destination, with its encryption and checksums.

    An upload that was cut off is aborted by the next one of the same name; the bucket's lifecycle rule aborts others.
    """

    def __init__(
        self, options: S3Options, ledger: UploaderState, observer: S3Observer, owners: RecordingOwners
    ) -> None:
        self._options = options
        self._owners = owners
        self._connection = S3Connection(options)
        self._bucket = Bucket(options, self._connection)
        self._publisher = Publisher(self._bucket, observer, only_new=False)
        self._stale = StaleUploads(self._bucket, ledger, observer)

    async def find(self, name: str) -> str | None:
        """See `RecordingStore`."""
        key = self._key(name)
        try:
            await self._bucket.head(key)
        except NoSuchObject:
            return None
        except S3Failure as failure:
            raise _not_kept(failure) from failure
        return self._address(key)

    async def put(self, name: str, content_type: str, chunks: AsyncIterator[bytes]) -> str:
        """See `RecordingStore`."""
        key = self._key(name)
        target = ObjectTarget("recordings", key, "", Attributes(content_type, None, {}))
        cutter = PartCutter(chunks, self._options.part_bytes, size_bound=LARGEST_OBJECT_BYTES, with_md5=True)
        try:
            await self._send(target, cutter)
        except S3Failure as failure:
            raise _not_kept(failure) from failure
        return self._address(key)

    async def erase(self, calls: Sequence[CallToErase], *, dry_run: bool = False) -> Erased:
        """See `RecordingStore`: every recording is looked at by its key, a thousand a request."""
        folder, wanted = self._key(""), {safe_name(call.call_id): call for call in calls}
        named = re.compile(f"{re.escape(folder)}[0-9-]+/([^/]+)/([^/]+)/[^/]+")

        def belongs(key: str) -> bool | None:
            found = named.fullmatch(key)
            if found is None or found[2] not in wanted:
                return False
            return wanted[found[2]].is_of(self._owners.get(found[1]))

        return await erase_objects(self._bucket, folder, belongs, dry_run=dry_run)

    async def close(self) -> None:
        """See `RecordingStore`."""
        await self._connection.close()

    async def _send(self, target: ObjectTarget, cutter: PartCutter) -> None:
        part = await cutter.next()
        if cutter.exhausted:

            async def put(replace: bool) -> str | None:
                """Make the object of its only part."""
                return await self._bucket.put(target.key, part, target.attributes, replace=replace)

            await self._publisher.publish(target, Fingerprint.of_one(part), put)
            return
        await self._stale.abort_unknown(target)
        upload_id = await self._bucket.begin(target.key, target.attributes)
        try:
            await self._send_parts(target, upload_id, part, cutter)
        except BaseException:
            with suppress(S3Failure):  # what is left then, the next upload of this name or the bucket's rule aborts
                await self._bucket.abort(target.key, upload_id)
            raise

    async def _send_parts(self, target: ObjectTarget, upload_id: str, part: Part, cutter: PartCutter) -> None:
        sent, etags = Fingerprint(), list[str]()
        while True:
            sent.add(part)
            etags.append(await self._bucket.send_part(target.key, upload_id, part))
            if cutter.exhausted:
                break
            del part  # there is memory for one
            part = await cutter.next()

        async def complete(replace: bool) -> str | None:
            """Make the object of all parts."""
            return await self._bucket.complete(target.key, upload_id, etags, sent, replace=replace)

        await self._publisher.publish(target, sent, complete)

    def _key(self, name: str) -> str:
        return f"{self._options.folder}{FOLDER}{name}"

    def _address(self, key: str) -> str:
        return f"s3://{self._bucket.name}/{key}"


def _not_kept(failure: S3Failure) -> NotKept:
    """A bucket that refuses a recording may be set right: it is tried again, as whatever concerns all of them."""
    outcome = failure.outcome
    return NotKept(outcome if isinstance(outcome, RetryLater) else RetryLater(str(failure), Scope.DESTINATION))
