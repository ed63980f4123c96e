"""Delivers to a bucket, and keeps recordings there. Each object is verified before it counts as delivered.

Small ones are sent in one request, large ones in parts:

    put, or parts and their completion ─▶ checksum in the answer, else HEAD: as sent? ─▶ delivered

An attempt that is repeated finds out what the earlier one achieved: the same key, made of the record, is used again,
`If-None-Match` refuses a second object under it, and parts that are there are not sent again. Limits: at most 5 TiB,
no ACLs, no versioning of its own.
"""

import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final

from spool.records import OBJECT_FORMS, Delivery, Form, Lane
from uploaders.base import (
    CallToErase,
    Delivered,
    Erased,
    Outcome,
    PayloadReader,
    Refused,
    RetryLater,
    S3Observer,
    Scope,
    SilentObserver,
    UploaderState,
)
from uploaders.durable_file import safe_name
from uploaders.rate_limit import UNLIMITED, Bandwidth
from uploaders.recordings import NotKept, RecordingOwners
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.error_codes import ABOUT_ONE_OBJECT, ADVICE, ErrorClass
from uploaders.s3.errors import NoSuchObject, S3Failure, Unacceptable
from uploaders.s3.object import CONTENT_TYPE, Attributes, ObjectBody, metadata_of, object_body
from uploaders.s3.options import (
    LARGEST_OBJECT_BYTES,
    ObjectContent,
    ObjectTooLarge,
    PartPlan,
    S3Options,
    keys_of_calls,
    plan_parts,
)
from uploaders.s3.parts import Fingerprint, Part, PartCutter
from uploaders.s3.publish import MultipartUploader, ObjectTarget, Publisher, StaleUploads, erase_objects

TIDY_SECONDS = 10 * 60.0
"""How often abandoned uploads are looked for."""


class S3Uploader:
    """Delivers to one bucket. `clock` gives monotonic seconds."""

    def __init__(
        self,
        options: S3Options,
        payloads: PayloadReader,
        ledger: UploaderState,
        observer: S3Observer | None = None,
        bandwidth: Bandwidth = UNLIMITED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        observer = observer or SilentObserver()
        self._options = options
        self._payloads = payloads
        self._clock = clock
        self._bandwidth = bandwidth
        self._observer = observer
        self._template = options.template()
        self._connection = S3Connection(options)
        self._bucket = Bucket(options, self._connection)
        self._publisher = Publisher(self._bucket, observer, only_new=options.if_none_match)
        self._multipart = MultipartUploader(
            self._bucket, ledger, self._publisher, observer, parts_at_once=options.parts_at_once
        )
        self._stale = StaleUploads(self._bucket, ledger, observer)
        self._tidy_at = clock()
        self._works = False
        """Whether the bucket accepted an object since the start."""

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Make one attempt. Errors of the spool pass through: no destination caused them."""
        if delivery.form not in OBJECT_FORMS:
            return Refused(f"a bucket does not accept the form {delivery.form}")
        try:
            body = await self._body(delivery)
            plan = plan_parts(body.size_bound, self._options.part_bytes)
        except ObjectTooLarge as error:
            return Refused(str(error), too_large=True)
        target = self._target(body)
        started = self._clock()
        try:
            await self._tidy(delivery.destination)
            sent = await self._upload(delivery, target, body, plan)
        except Unacceptable as failure:
            return self._rejected(failure)
        except S3Failure as failure:
            return failure.outcome
        self._works = True
        seconds = self._clock() - started
        self._observer.object_delivered(delivery.destination, sent.size, seconds, large=delivery.lane is Lane.DETAIL)
        return Delivered(location=f"s3://{self._bucket.name}/{target.key}")

    async def erase(self, calls: Sequence[CallToErase], *, dry_run: bool = False) -> Erased:
        """See `uploaders.base.Eraser`: every object is looked at by its key, a thousand a request."""
        wanted = {safe_name(call.call_id): call for call in calls}
        keys = keys_of_calls(self._template, [call.call_id for call in calls])
        if keys is None:
            return Erased(0, "the keys of its objects do not name their calls (`key` has no {call_id})")
        prefix, pattern = keys

        def belongs(key: str) -> bool | None:
            found = pattern.fullmatch(key)
            if found is None:
                return False
            call = wanted[found["call_id"]]
            has = call.has(found["record_id"])
            if has is None and "tenant" in pattern.groupindex:
                return found["tenant"] in {safe_name(tenant) for tenant in call.tenants or ()}
            return has

        return await erase_objects(self._bucket, prefix, belongs, dry_run=dry_run)

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    def _rejected(self, failure: Unacceptable) -> Outcome:
        """A bucket that has not accepted anything yet rejects a header rather than an object, whatever it says.

        Some servers answer 400 to a checksum, an encryption or a condition that they do not support: then no object
        becomes a dead letter, and one delivery at a time finds out when the settings are right.
        """
        if self._works or failure.code in ABOUT_ONE_OBJECT:
            return failure.outcome
        reason = f"{failure}: no object was accepted yet ({ADVICE[ErrorClass.NOT_SUPPORTED]})"
        return Refused(reason, Scope.DESTINATION)

    async def _body(self, delivery: Delivery) -> ObjectBody:
        options, token_id = self._options, delivery.record.token_id
        wanted = options.token_in_whole and options.content is ObjectContent.WHOLE and delivery.form is not Form.CORE
        token = await self._payloads.token(token_id) if wanted and token_id is not None else None
        return object_body(delivery, options.encoding, options.content, self._payloads.frames, token=token)

    def _target(self, body: ObjectBody) -> ObjectTarget:
        return ObjectTarget(
            body.delivery.destination,
            self._template.key(body.delivery, body.form, body.content_encoding),
            body.delivery.record.uid,
            Attributes(CONTENT_TYPE, body.content_encoding, metadata_of(body)),
            self._bandwidth.pace(body.delivery.lane),
        )

    async def _upload(self, delivery: Delivery, target: ObjectTarget, body: ObjectBody, plan: PartPlan) -> Fingerprint:
        if plan.multipart:
            return await self._multipart.upload(delivery.key, target, body, plan)
        return await self._put(target, body, plan)

    async def _put(self, target: ObjectTarget, body: ObjectBody, plan: PartPlan) -> Fingerprint:
        async with aclosing(body.chunks()) as chunks:
            with_md5 = not self._options.checksums
            cutter = PartCutter(
                chunks, plan.part_bytes, size_bound=plan.total_bytes, with_md5=with_md5, pace=target.pace
            )
            part = await cutter.next()
        sent = Fingerprint.of_one(part)

        async def put(replace: bool) -> str | None:
            """Make the object."""
            return await self._bucket.put(target.key, part, target.attributes, replace=replace)

        await self._publisher.publish(target, sent, put)
        return sent

    async def _tidy(self, destination: str) -> None:
        """Once after a start, and then now and again."""
        if self._clock() >= self._tidy_at:
            self._tidy_at = self._clock() + TIDY_SECONDS
            await self._stale.abort_abandoned(destination)


# Recordings in a bucket: a stream of unknown length becomes one object, one part of it in memory.

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
