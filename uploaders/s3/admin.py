"""What a bucket is set up with, once: expiry, encryption, no public access.

Each change raises `S3Failure`: `NotSupported` where the server does not know such a thing.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from uploaders.s3.client import S3Connection
from uploaders.s3.errors import NotSupported, S3Failure, translated
from uploaders.s3.options import S3Options, ServerSideEncryption

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import (
        LifecycleRuleOutputTypeDef,
        LifecycleRuleTypeDef,
        LifecycleRuleUnionTypeDef,
        PublicAccessBlockConfigurationTypeDef,
        ServerSideEncryptionByDefaultTypeDef,
        ServerSideEncryptionConfigurationOutputTypeDef,
        ServerSideEncryptionConfigurationTypeDef,
    )


_NO_RULES = "NoSuchLifecycleConfiguration"
_NO_ENCRYPTION = "ServerSideEncryptionConfigurationNotFoundError"


def lifecycle_rule(options: S3Options, *, expire_days: int, abort_days: int) -> "LifecycleRuleTypeDef":
    """Objects of the folder expire, and so do uploads that were begun there and never ended."""
    return {
        "ID": f"callspool:{options.folder}"[:255],
        "Status": "Enabled",
        "Filter": {"Prefix": options.folder},
        "Expiration": {"Days": expire_days},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": abort_days},
    }


def public_access_block() -> "PublicAccessBlockConfigurationTypeDef":
    """No object of the bucket is ever public."""
    return {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }


@dataclass(frozen=True, slots=True)
class Administration:
    """Changes one bucket."""

    bucket: str
    connection: S3Connection

    async def add_lifecycle_rule(self, rule: "LifecycleRuleTypeDef") -> None:
        """Add the rule, in place of an earlier one with its id; all other rules of the bucket stay."""
        others: list[LifecycleRuleUnionTypeDef] = [one for one in await self._rules() if one.get("ID") != rule["ID"]]
        client = await self.connection.client()
        with translated("PutBucketLifecycleConfiguration"):
            await client.put_bucket_lifecycle_configuration(
                Bucket=self.bucket, LifecycleConfiguration={"Rules": [*others, rule]}
            )

    async def set_encryption(self, configuration: "ServerSideEncryptionConfigurationTypeDef") -> str | None:
        """Set the bucket's default encryption, unless that would weaken what the bucket has.

        Returns what was kept, None where the configuration was set.
        """
        found = await self._encryption()
        kept = None if found is None else stronger_than(configuration, found)
        if kept is not None:
            return kept
        client = await self.connection.client()
        with translated("PutBucketEncryption"):
            await client.put_bucket_encryption(Bucket=self.bucket, ServerSideEncryptionConfiguration=configuration)
        return None

    async def block_public_access(self, configuration: "PublicAccessBlockConfigurationTypeDef") -> None:
        """Refuse whatever would make objects public."""
        client = await self.connection.client()
        with translated("PutPublicAccessBlock"):
            await client.put_public_access_block(Bucket=self.bucket, PublicAccessBlockConfiguration=configuration)

    async def _encryption(self) -> "ServerSideEncryptionConfigurationOutputTypeDef | None":
        """What the bucket encrypts by now; None: nothing, or the server cannot say."""
        client = await self.connection.client()
        try:
            with translated("GetBucketEncryption"):
                response = await client.get_bucket_encryption(Bucket=self.bucket)
        except NotSupported:
            return None
        except S3Failure as failure:
            if failure.code == _NO_ENCRYPTION:
                return None
            raise
        return response["ServerSideEncryptionConfiguration"]

    async def _rules(self) -> "list[LifecycleRuleOutputTypeDef]":
        """The lifecycle rules that the bucket has."""
        client = await self.connection.client()
        try:
            with translated("GetBucketLifecycleConfiguration"):
                return (await client.get_bucket_lifecycle_configuration(Bucket=self.bucket)).get("Rules", [])
        except S3Failure as failure:
            if failure.code == _NO_RULES:
                return []
            raise


# Default encryption of a bucket: what callspool sets, and what it leaves as it is. Pure.

_STRENGTH = MappingProxyType({"AES256": 1, "aws:kms": 2, "aws:kms:dsse": 3})
"""With the server's keys; with a key of the key management service; with two layers of that."""


def default_encryption(options: S3Options) -> "ServerSideEncryptionConfigurationTypeDef":
    """With the configured key, else with the server's own (AES256)."""
    if options.encryption is not ServerSideEncryption.KMS:
        return {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    by_default: ServerSideEncryptionByDefaultTypeDef = {"SSEAlgorithm": "aws:kms"}
    if options.kms_key_id is not None:
        by_default["KMSMasterKeyID"] = options.kms_key_id
    return {"Rules": [{"ApplyServerSideEncryptionByDefault": by_default, "BucketKeyEnabled": True}]}


def stronger_than(
    wanted: "ServerSideEncryptionConfigurationTypeDef", found: "ServerSideEncryptionConfigurationOutputTypeDef"
) -> str | None:
    """What a bucket has, as people write it, where setting what is wanted would weaken it; None where it would not.

    A key that somebody chose is stronger than the account's default one; between two chosen keys the wanted one counts.
    """
    has, wants = _by_default(found), _by_default(wanted)
    algorithm, key = has.get("SSEAlgorithm", ""), has.get("KMSMasterKeyID")
    difference = _STRENGTH.get(algorithm, 0) - _STRENGTH.get(wants.get("SSEAlgorithm", ""), 0)
    own_key = difference == 0 and key is not None and wants.get("KMSMasterKeyID") is None
    if difference <= 0 and not own_key:
        return None
    return f"{algorithm} with the key {key}" if key is not None else algorithm


def _by_default(
    configuration: "ServerSideEncryptionConfigurationTypeDef | ServerSideEncryptionConfigurationOutputTypeDef",
) -> "ServerSideEncryptionByDefaultTypeDef":
    """The one rule that a bucket has."""
    for rule in configuration["Rules"]:
        if "ApplyServerSideEncryptionByDefault" in rule:
            return rule["ApplyServerSideEncryptionByDefault"]
    return {"SSEAlgorithm": "AES256"}
