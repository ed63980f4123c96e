"""`callspool s3 setup`: plans what a bucket needs, and applies it where that is asked for."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from gateway.s3_commands.steps import StepResult, result_of
from uploaders.s3.administration import Administration, default_encryption, lifecycle_rule, public_access_block
from uploaders.s3.client import S3Connection
from uploaders.s3.options import S3Options

EXPIRE_DAYS = 7
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
    apply: Callable[[Administration], Awaitable[None]]


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
            lambda bucket: bucket.set_encryption(encryption),
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
                await result_of(step.name, partial(step.apply, administration))
                for step in plan_setup(options, expire_days=expire_days)
            ]
        )
    finally:
        await connection.close()


def _shown(configuration: object) -> str:
    return json.dumps(configuration, indent=2)
