"""Delivers to a bucket: small objects in one request, large ones in parts, each verified before it is delivered.

    put, or parts and their completion ─▶ checksum in the answer, else HEAD: as sent? ─▶ delivered

An attempt that is repeated finds out what the earlier one achieved: the same key, made of the record, is used again,
`If-None-Match` refuses a second object under it, and parts that are there are not sent again. Limits: at most 5 TiB,
no ACLs, no versioning of its own.
"""

from collections.abc import Sequence
from contextlib import aclosing

from spool.records import OBJECT_FORMS, Clock, Delivery, Form, Lane
from uploaders.base import (
    CallToErase,
    Delivered,
    Erased,
    Outcome,
    PayloadReader,
    Refused,
    S3Observer,
    Scope,
    SilentObserver,
    UploaderState,
)
from uploaders.rate_limit import UNLIMITED, Bandwidth
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.error_codes import ABOUT_ONE_OBJECT, ADVICE, ErrorClass
from uploaders.s3.errors import S3Failure, Unacceptable
from uploaders.s3.multipart import MultipartUploader, StaleUploads
from uploaders.s3.object import CONTENT_TYPE, Attributes, ObjectBody, metadata_of, object_body
from uploaders.s3.options import ObjectContent, ObjectTooLarge, PartPlan, S3Options, keys_of_calls, plan_parts
from uploaders.s3.parts import Fingerprint, PartCutter
from uploaders.s3.publish import ObjectTarget, Publisher, erase_objects
from uploaders.safe_names import safe_name

TIDY_MILLISECONDS = 10 * 60 * 1000
"""How often abandoned uploads are looked for."""


class S3Uploader:
    """Delivers to one bucket. `clock` gives milliseconds since the Unix epoch."""

    def __init__(
        self,
        options: S3Options,
        payloads: PayloadReader,
        ledger: UploaderState,
        clock: Clock,
        observer: S3Observer | None = None,
        bandwidth: Bandwidth = UNLIMITED,
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
            self._bucket, ledger, self._publisher, observer, clock, parts_at_once=options.parts_at_once
        )
        self._stale = StaleUploads(self._bucket, ledger, observer)
        self._tidy_at = 0
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
        seconds = (self._clock() - started) / 1000
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
            self._tidy_at = self._clock() + TIDY_MILLISECONDS
            await self._stale.abort_abandoned(destination)
