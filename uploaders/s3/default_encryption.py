"""How a bucket encrypts what comes without a wish of its own: what callspool would set, and what it leaves. Pure."""

from types import MappingProxyType
from typing import TYPE_CHECKING

from uploaders.s3.options import S3Options, ServerSideEncryption

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import (
        ServerSideEncryptionByDefaultTypeDef,
        ServerSideEncryptionConfigurationOutputTypeDef,
        ServerSideEncryptionConfigurationTypeDef,
    )

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
