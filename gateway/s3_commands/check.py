"""`callspool s3 check`: proves with small objects that everything works that delivering will need.

Where something does not, the result says which permission is missing.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

from gateway.s3_commands.steps import StepResult, result_of
from uploaders.s3.attributes import Attributes
from uploaders.s3.bodies import CONTENT_TYPE
from uploaders.s3.bucket import Bucket
from uploaders.s3.client import S3Connection
from uploaders.s3.cutting import Part, PartCutter
from uploaders.s3.errors import S3Failure
from uploaders.s3.metadata import RECORD_UID
from uploaders.s3.observer import SilentObserver
from uploaders.s3.options import S3Options
from uploaders.s3.publishing import Publisher, Target
from uploaders.s3.verification import Fingerprint

_CONTENT = b'{"callspool": "check"}'


async def check(options: S3Options) -> tuple[StepResult, ...]:
    """Put, verify, send in parts, list, abort and delete with small objects below the configured folder."""
    connection = S3Connection(options)
    try:
        return tuple([result async for result in _Check(options, connection).results()])
    finally:
        await connection.close()


class _Check:
    """The steps of one check, over objects of its own."""

    def __init__(self, options: S3Options, connection: S3Connection) -> None:
        self._bucket = Bucket(options, connection)
        self._publisher = Publisher(self._bucket, SilentObserver(), only_new=options.if_none_match)
        self._uid = uuid.uuid4().hex
        self._folder = options.folder

    async def results(self) -> AsyncIterator[StepResult]:
        """Each step's, as it ends; objects that were made are deleted last."""
        yield await result_of("put and verify", self._put)
        yield await result_of("send in parts and verify", self._send_in_parts)
        yield await result_of("list parts and abort", self._abort)
        yield await result_of("find lost uploads", self._find_lost)
        yield await result_of("delete", self._delete)

    async def _put(self) -> None:
        """An object in one request."""
        target, part = self._target("put"), await _part()

        async def put(replace: bool) -> str | None:
            """Make the object."""
            return await self._bucket.put(target.key, part, target.attributes, replace=replace)

        await self._publisher.publish(target, Fingerprint.of_one(part), put)
        # Delivering asks for objects where an answer proves nothing or was lost: that must be allowed, too.
        await self._bucket.head(target.key)

    async def _send_in_parts(self) -> None:
        """An object of one part."""
        target, part, sent = self._target("parts"), await _part(), Fingerprint()
        sent.add(part)
        upload_id = await self._bucket.begin(target.key, target.attributes)

        async def complete(replace: bool) -> str | None:
            """Make the object of its part."""
            return await self._bucket.complete(target.key, upload_id, [etag], sent, replace=replace)

        try:
            etag = await self._bucket.send_part(target.key, upload_id, part)
            await self._publisher.publish(target, sent, complete)
            await self._bucket.head(target.key)
        except S3Failure:
            # What failed first is told; a failure to clear up after it would say nothing new.
            with suppress(S3Failure):
                await self._bucket.abort(target.key, upload_id)
            raise

    async def _abort(self) -> None:
        """An upload in parts that is given up."""
        target = self._target("aborted")
        upload_id = await self._bucket.begin(target.key, target.attributes)
        await self._bucket.parts(target.key, upload_id)
        await self._bucket.abort(target.key, upload_id)

    async def _find_lost(self) -> None:
        """What is done before each upload in parts."""
        await self._bucket.uploads(self._target("none").key)

    async def _delete(self) -> None:
        """Leave nothing behind."""
        for name in ("put", "parts"):
            await self._bucket.delete(self._target(name).key)

    def _target(self, name: str) -> Target:
        """Where an object of this check belongs."""
        key = f"{self._folder}callspool-check/{self._uid}-{name}.json"
        return Target("check", key, self._uid, Attributes(CONTENT_TYPE, None, {RECORD_UID: self._uid}))


async def _part() -> Part:
    """The content of every object."""

    async def chunks() -> AsyncIterator[bytes]:
        """All of it at once."""
        yield _CONTENT

    return await PartCutter(chunks(), len(_CONTENT), size_bound=len(_CONTENT), with_md5=True).next()
