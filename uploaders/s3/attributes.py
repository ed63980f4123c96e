"""How an object is stored: what goes beside its bytes, as the parameters of the requests that create one. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict, cast

from uploaders.s3.options import S3Options, ServerSideEncryption

if TYPE_CHECKING:
    from types_aiobotocore_s3.literals import ServerSideEncryptionType, StorageClassType


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is told of an object to those who read it."""

    content_type: str
    content_encoding: str | None
    metadata: Mapping[str, str]


class StoredParameters(TypedDict, total=False):
    """The names are those of the S3 API. There is no ACL among them: the bucket's policy decides who reads."""

    ContentType: str
    ContentEncoding: str
    Metadata: Mapping[str, str]
    ServerSideEncryption: "ServerSideEncryptionType"
    SSEKMSKeyId: str
    StorageClass: "StorageClassType"


class OnlyNew(TypedDict, total=False):
    """The condition under which an object is created."""

    IfNoneMatch: str


class Checksum(TypedDict, total=False):
    """What a server checks the content of a request by: one of the two."""

    ChecksumCRC32: str
    ContentMD5: str


class ChecksumKind(TypedDict, total=False):
    """What an upload in parts announces: one checksum of all bytes, not one made of those of the parts."""

    ChecksumAlgorithm: Literal["CRC32"]
    ChecksumType: Literal["FULL_OBJECT"]


class WholeChecksum(TypedDict, total=False):
    """What the end of an upload in parts is checked by."""

    ChecksumCRC32: str
    ChecksumType: Literal["FULL_OBJECT"]
    MpuObjectSize: int


def stored_parameters(options: S3Options, attributes: Attributes) -> StoredParameters:
    """The parameters for an object of this destination."""
    parameters = StoredParameters(ContentType=attributes.content_type, Metadata=attributes.metadata)
    if attributes.content_encoding is not None:
        parameters["ContentEncoding"] = attributes.content_encoding
    if options.encryption is not ServerSideEncryption.NONE:
        parameters["ServerSideEncryption"] = cast("ServerSideEncryptionType", options.encryption.value)
    if options.kms_key_id is not None:
        parameters["SSEKMSKeyId"] = options.kms_key_id
    if options.storage_class is not None:
        # Other servers than Amazon's have classes of their own.
        parameters["StorageClass"] = cast("StorageClassType", options.storage_class)
    return parameters


def only_new(condition: bool) -> OnlyNew:
    """With the condition, no object is replaced."""
    return OnlyNew(IfNoneMatch="*") if condition else OnlyNew()
