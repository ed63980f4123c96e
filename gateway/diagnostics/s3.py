"""`callspool s3 check`: proves with small objects that everything works that delivering will need.

Where something does not, the result says which permission is missing.
"""

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from uploaders.base import SilentObserver
from uploaders.s3.admin import Administration, default_encryption, lifecycle_rule, public_access_block
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.errors import AccessDenied, NotSupported, S3Failure
from uploaders.s3.object import CONTENT_TYPE, RECORD_UID, Attributes
from uploaders.s3.options import S3Options, ServerSideEncryption
from uploaders.s3.parts import Fingerprint, Part, PartCutter
from uploaders.s3.publish import ObjectTarget, Publisher

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import ServerSideEncryptionConfigurationTypeDef


# What callspool needs to be allowed at a bucket: the least policy, as data.


class Statement(TypedDict):
    """One statement of an IAM policy."""

    Sid: str
    Effect: str
    Action: list[str]
    Resource: str


class Policy(TypedDict):
    """An IAM policy document."""

    Version: str
    Statement: list[Statement]


OBJECT_ACTIONS = (
    "s3:PutObject",
    "s3:GetObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
"""Send objects, whole and in parts; verify what arrived; resume an upload, or abort it."""
BUCKET_ACTIONS = ("s3:ListBucket", "s3:ListBucketMultipartUploads")
"""Tell an object that is not there from one that may not be looked at; find uploads that nobody will complete."""
CHECK_ACTIONS = ("s3:DeleteObject",)
"""Remove the object of `callspool s3 check`; delivering never deletes."""
SETUP_ACTIONS = (
    "s3:GetLifecycleConfiguration",
    "s3:PutLifecycleConfiguration",
    "s3:GetEncryptionConfiguration",
    "s3:PutEncryptionConfiguration",
    "s3:PutBucketPublicAccessBlock",
)
"""`callspool s3 setup --apply`, once, with an operator's own credentials."""


def least_policy(bucket: str, folder: str, *, check: bool = False, setup: bool = False) -> Policy:
    """What delivering to `folder` of the bucket needs, with what `check` and `setup` need besides.

    With a KMS key, its own policy must allow kms:GenerateDataKey and kms:Decrypt in addition.
    """
    on_objects = [*OBJECT_ACTIONS, *(CHECK_ACTIONS if check else ())]
    on_bucket = [*BUCKET_ACTIONS, *(SETUP_ACTIONS if setup else ())]
    return Policy(
        Version="2012-10-17",
        Statement=[
            Statement(
                Sid="CallspoolObjects", Effect="Allow", Action=on_objects, Resource=f"arn:aws:s3:::{bucket}/{folder}*"
            ),
            Statement(Sid="CallspoolBucket", Effect="Allow", Action=on_bucket, Resource=f"arn:aws:s3:::{bucket}"),
        ],
    )


# One step of a command, and its result.


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step."""

    name: str
    ok: bool
    detail: str = ""
    """Why not, and what to do; or what else there is to know."""
    permission: str | None = None
    """What a policy must allow so that this step works, where it is known to be missing."""
    skipped: bool = False
    """Whether the server knows no such thing, so that there is nothing to set."""


async def result_of(name: str, work: Callable[[], Awaitable[str | None]]) -> StepResult:
    """Do it; whatever the server or the way to it says becomes part of the result, and so does what the work says."""
    try:
        remark = await work()
    except AccessDenied as denied:
        return StepResult(name, False, str(denied), denied.permission)
    except NotSupported as failure:
        return StepResult(name, False, f"{failure.operation}: this server does not know it", skipped=True)
    except S3Failure as failure:
        return StepResult(name, False, str(failure))
    return StepResult(name, True, remark or "")


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
        self._options = options
        self._connection = connection
        self._bucket = Bucket(options, connection)
        self._publisher = Publisher(self._bucket, SilentObserver(), only_new=options.if_none_match)
        self._uid = uuid.uuid4().hex
        self._folder = options.folder

    async def results(self) -> AsyncIterator[StepResult]:
        """Each step's, as it ends; objects that were made are deleted last."""
        put = await result_of("put and verify", self._put)
        if not put.ok and self._options.encryption is not ServerSideEncryption.NONE:
            plain = replace(self._options, encryption=ServerSideEncryption.NONE, kms_key_id=None, customer_key=None)
            probe = _Check(plain, self._connection)
            if (await result_of(put.name, probe._put)).ok:
                await result_of(put.name, probe._delete)  # whether deleting works is a step of its own
                put = replace(put, detail=f'{put.detail}; with encryption = "none" it works')
        yield put
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
            # The first failure is reported; one of the clean-up after it would add nothing.
            with suppress(S3Failure):
                await self._bucket.abort(target.key, upload_id)
            raise

    async def _abort(self) -> None:
        """An upload in parts that is given up."""
        target = self._target("aborted")
        upload_id = await self._bucket.begin(target.key, target.attributes)
        try:
            await self._bucket.parts(target.key, upload_id)
        except S3Failure:
            with suppress(S3Failure):
                await self._bucket.abort(target.key, upload_id)
            raise
        await self._bucket.abort(target.key, upload_id)

    async def _find_lost(self) -> None:
        """What is done before each upload in parts."""
        await self._bucket.uploads(self._target("none").key)

    async def _delete(self) -> None:
        """Leave nothing behind."""
        for name in ("put", "parts"):
            await self._bucket.delete(self._target(name).key)

    def _target(self, name: str) -> ObjectTarget:
        """Where an object of this check belongs."""
        key = f"{self._folder}callspool-check/{self._uid}-{name}.json"
        return ObjectTarget("check", key, self._uid, Attributes(CONTENT_TYPE, None, {RECORD_UID: self._uid}))


async def _part() -> Part:
    """The content of every object."""

    async def chunks() -> AsyncIterator[bytes]:
        """All of it at once."""
        yield _CONTENT

    return await PartCutter(chunks(), len(_CONTENT), size_bound=len(_CONTENT), with_md5=True).next()


# `callspool s3 setup`: plans what a bucket needs, and applies it where that is asked for.

EXPIRE_DAYS = 7
"""How long objects are kept, by default."""
ABORT_DAYS = 1


@dataclass(frozen=True, slots=True)
class SetupStep:
    """One change to a bucket: what it is for, and what exactly would be sent."""

    name: str
    purpose: str
    operation: str
    """As the S3 API calls it."""
    configuration: str
    """Its configuration as indented JSON, as it would be sent."""
    apply: Callable[[Administration], Awaitable[str | None]]
    """Makes it; returns what is to be known of it besides, if anything."""


def plan_setup(options: S3Options, *, expire_days: int = EXPIRE_DAYS) -> tuple[SetupStep, ...]:
    """What the bucket of these options needs."""
    rule = lifecycle_rule(options, expire_days=expire_days, abort_days=ABORT_DAYS)
    encryption = default_encryption(options)
    block = public_access_block()
    where = options.folder or "the whole bucket"
    return (
        SetupStep(
            "expiry",
            f"delete objects of {where} after {expire_days} days, and unfinished uploads after {ABORT_DAYS}",
            "PutBucketLifecycleConfiguration",
            _shown(rule),
            lambda bucket: bucket.add_lifecycle_rule(rule),
        ),
        SetupStep(
            "encryption",
            "encrypt whatever comes without a wish of its own",
            "PutBucketEncryption",
            _shown(encryption),
            lambda bucket: _encrypt(bucket, encryption),
        ),
        SetupStep(
            "public access",
            "never let an object become public",
            "PutPublicAccessBlock",
            _shown(block),
            lambda bucket: bucket.block_public_access(block),
        ),
    )


async def apply_setup(options: S3Options, *, expire_days: int = EXPIRE_DAYS) -> tuple[StepResult, ...]:
    """Make the planned changes, each whatever became of the others. Other rules of the bucket stay."""
    connection = S3Connection(options)
    administration = Administration(options.bucket, connection)
    try:
        return tuple(
            [
                _without_unknown(await result_of(step.name, partial(step.apply, administration)))
                for step in plan_setup(options, expire_days=expire_days)
            ]
        )
    finally:
        await connection.close()


def _without_unknown(result: StepResult) -> StepResult:
    """What the server does not know at all is passed over: nothing could be set, so nothing failed."""
    return replace(result, ok=True) if result.skipped else result


async def _encrypt(bucket: Administration, wanted: "ServerSideEncryptionConfigurationTypeDef") -> str | None:
    """Set it, or say what was kept."""
    kept = await bucket.set_encryption(wanted)
    return None if kept is None else f"kept as it is, which is stronger: {kept}"


def _shown(configuration: object) -> str:
    return json.dumps(configuration, indent=2)
