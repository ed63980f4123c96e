"""`callspool s3 setup`: plans what a bucket needs, and applies it where that is asked for."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gateway.s3_commands.steps import StepResult, result_of
from uploaders.s3.administration import Administration, lifecycle_rule, public_access_block
from uploaders.s3.client import S3Connection
from uploaders.s3.default_encryption import default_encryption
from uploaders.s3.options import S3Options

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import ServerSideEncryptionConfigurationTypeDef

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
                await result_of(step.name, partial(step.apply, administration))
                for step in plan_setup(options, expire_days=expire_days)
            ]
        )
    finally:
        await connection.close()


async def _encrypt(bucket: Administration, wanted: "ServerSideEncryptionConfigurationTypeDef") -> str | None:
    """Set it, or say what was kept."""
    kept = await bucket.set_encryption(wanted)
    return None if kept is None else f"kept as it is, which is stronger: {kept}"


def _shown(configuration: object) -> str:
    return json.dumps(configuration, indent=2)
