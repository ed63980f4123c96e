"""Objects are proven, and what a server says of them decides."""

import base64
import hashlib
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bench.s3_server import Server
from tests.s3.stored_objects import Heard, client_of, objects, options
from uploaders.base import RetryLater
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.errors import S3Failure
from uploaders.s3.object import Attributes, stored_parameters
from uploaders.s3.options import S3Options, ServerSideEncryption
from uploaders.s3.parts import Fingerprint, ObjectState, Part, PartCutter, Verdict, compare
from uploaders.s3.publish import ObjectTarget, Publisher

BYTES = b"0123456789"
MD5 = "781e5e245d69b566979b86e28d23f2c7"


async def cut(data: bytes, size: int) -> list[Part]:
    async def chunks() -> AsyncIterator[bytes]:
        yield b""
        yield data

    cutter = PartCutter(chunks(), size, size_bound=len(data), with_md5=True)
    parts: list[Part] = []
    while not cutter.exhausted:
        parts.append(await cutter.next())
    return parts


async def fingerprint_of(*, parts: int) -> Fingerprint:
    found = await cut(BYTES, 5 if parts == 2 else 10)
    if parts == 1:
        return Fingerprint.of_one(found[0])
    result = Fingerprint()
    for part in found:
        result.add(part)
    return result


@pytest.mark.parametrize(
    ("parts", "size", "etag", "crc32", "verdict"),
    [
        (1, 9, MD5, "poTHxg==", Verdict.DIFFERS),
        (1, 10, "any", "poTHxg==", Verdict.MATCHES),
        (1, 10, MD5, "AAAAAA==", Verdict.DIFFERS),
        (1, 10, MD5, None, Verdict.MATCHES),
        (1, 10, "no-md5-under-a-kms-key", None, Verdict.UNPROVEN),
        (2, 10, "any", "poTHxg==", Verdict.MATCHES),
        (2, 10, MD5, None, Verdict.UNPROVEN),
        (2, 10, "wrong-2", None, Verdict.UNPROVEN),
    ],
)
async def test_a_checksum_decides_and_an_etag_only_proves(
    parts: int, size: int, etag: str, crc32: str | None, verdict: Verdict
) -> None:
    """The size must be right; a CRC-32 settles it either way; an ETag that is no MD5 of ours says nothing."""
    assert compare(ObjectState(size, etag, crc32), await fingerprint_of(parts=parts)) is verdict


async def test_checksums_and_etags_made_of_parts_are_known() -> None:
    """An object in parts may be told by the MD5 of its parts' MD5s, or by a CRC-32 of their CRC-32s."""
    sent = await fingerprint_of(parts=2)
    halves = [BYTES[:5], BYTES[5:]]
    etag = hashlib.md5(b"".join(hashlib.md5(half).digest() for half in halves)).hexdigest() + "-2"
    joined = b"".join(zlib.crc32(half).to_bytes(4, "big") for half in halves)
    composite = base64.b64encode(zlib.crc32(joined).to_bytes(4, "big")).decode() + "-2"
    assert compare(ObjectState(10, etag), sent) is Verdict.MATCHES
    assert compare(ObjectState(10, "any", composite), sent) is Verdict.MATCHES
    assert compare(ObjectState(10, "any", composite.replace("-2", "-3")), sent) is Verdict.DIFFERS


async def test_an_empty_object_has_one_empty_part() -> None:
    """There is always something to send."""
    (part,) = await cut(b"", 5)
    assert (part.number, part.size, part.crc32) == (1, 0, 0)


@pytest.mark.parametrize("told", [None, "", "AAAAAA=="])
async def test_an_object_that_is_not_what_was_sent_is_not_delivered(
    weed: Server, bucket: str, told: str | None
) -> None:
    """Where the answer proves nothing the object is looked at: a server that stored something else is found out."""
    connection = S3Connection(options(weed, bucket))
    publisher = Publisher(Bucket(options(weed, bucket), connection), Heard(), only_new=True)
    (part,) = await cut(BYTES, 10)

    async def create(replace: bool) -> str | None:
        async with client_of(weed) as client:
            await client.put_object(Bucket=bucket, Key="key", Body=b"something else")
        return told

    target = ObjectTarget("objects", "key", "uid", Attributes("application/json", None, {}))
    with pytest.raises(S3Failure, match="does not match what was sent") as failure:
        await publisher.publish(target, Fingerprint.of_one(part), create)
    assert isinstance(failure.value.outcome, RetryLater)
    await connection.close()
    assert len(await objects(weed, bucket)) == 1


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({}, {"ServerSideEncryption": "AES256"}),
        ({"encryption": ServerSideEncryption.NONE}, {}),
        ({"encryption": ServerSideEncryption.KMS}, {"ServerSideEncryption": "aws:kms"}),
        (
            {"encryption": ServerSideEncryption.KMS, "kms_key_id": "key-1"},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "key-1"},
        ),
        ({"storage_class": "STANDARD_IA"}, {"ServerSideEncryption": "AES256", "StorageClass": "STANDARD_IA"}),
    ],
)
def test_an_object_is_stored_as_configured(chosen: dict[str, Any], told: dict[str, Any]) -> None:
    """Encryption, key and class go along as chosen, and there is never an ACL."""
    attributes = Attributes("application/json", "zstd", {"a": "b"})
    assert stored_parameters(S3Options("b", **chosen), attributes) == told | {
        "ContentType": "application/json",
        "ContentEncoding": "zstd",
        "Metadata": {"a": "b"},
    }
