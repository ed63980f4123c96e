"""Objects that a server encrypts by a key of ours (SSE-C): every request about one names the key, or fails."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bench.s3_server import Server
from gateway.diagnostics.s3 import check
from gateway.worker.claims import ClaimReader
from gateway.worker.messages import ClaimFailed
from tests.s3.recording_proxy import Answer, Fate, proxy_before
from tests.s3.stored_objects import MEBIBYTE, Heard, MakeUploader, Store, client_of, options, rest_of
from uploaders.base import CallToErase, Delivered, Erased, Refused, RetryLater, Scope, SilentObserver
from uploaders.s3.client import Bucket, S3Connection
from uploaders.s3.options import ServerSideEncryption
from uploaders.s3.uploader import BucketRecordings

KEY, OTHER = b"k" * 32, b"o" * 32


def by(key: bytes) -> dict[str, Any]:
    """The settings of a destination that encrypts by a key."""
    return {"encryption": ServerSideEncryption.CUSTOMER, "customer_key": key, "part_bytes": 5 * MEBIBYTE}


async def only_key(server: Server, bucket: str) -> str:
    """The key of the only object of a bucket."""
    async with client_of(server) as client:
        (found,) = (await client.list_objects_v2(Bucket=bucket))["Contents"]
    return str(found["Key"])


async def is_closed(server: Server, bucket: str, key: str) -> bool:
    """Whether nobody reads an object without its key."""
    async with client_of(server) as client:
        try:
            await client.get_object(Bucket=bucket, Key=key)
        except ClientError:
            return True
    return False


@pytest.mark.parametrize("size", [100_000, 12 * MEBIBYTE], ids=["put", "parts"])
async def test_an_object_is_read_with_the_key_and_by_nobody_else(
    store: Store, made: MakeUploader, heard: Heard, weed: Server, bucket: str, size: int
) -> None:
    """In one request or in parts: it is proven, found again by a second attempt, read for a notice, and erased."""
    delivery = await store.large(size)
    uploader = made(options(weed, bucket, **by(KEY)))
    assert isinstance(await uploader.deliver(delivery), Delivered)
    key = await only_key(weed, bucket)
    assert await is_closed(weed, bucket, key)
    # As after a crash between the upload and its settlement: the object is looked at, and not sent again.
    assert isinstance(await uploader.deliver(delivery), Delivered)
    notice = b'{"s3_bucket": "%b", "s3_key": "%b"}' % (bucket.encode(), key.encode())
    chosen = options(weed, bucket, **by(KEY))
    reader = ClaimReader(connection := S3Connection(chosen), Bucket(chosen, connection), [bucket], 1, lambda *_: None)
    claimed = await reader.read(notice, "", delivery.record.call_id)
    assert bytes(claimed.view()).endswith(rest_of(size) + b"}")
    claimed.close()
    await reader.close()
    assert await uploader.erase([CallToErase(delivery.record.call_id)]) == Erased(1)


async def test_an_upload_in_parts_resumes_under_its_key(
    store: Store, made: MakeUploader, heard: Heard, weed: Server, bucket: str
) -> None:
    """A part that the server has is not sent again, whatever its ETag is made of."""
    delivery = await store.large(12 * MEBIBYTE)
    async with proxy_before(weed.port) as proxy:
        uploader = made(options(weed, bucket, endpoint_url=proxy.endpoint, parts_at_once=1, **by(KEY)))
        proxy.decide = lambda request: Answer(500, "InternalError") if request.part == 2 else Fate.PASS
        assert isinstance(await uploader.deliver(delivery), RetryLater)
        proxy.decide = lambda _: Fate.PASS
        assert isinstance(await uploader.deliver(delivery), Delivered)
    assert heard.resumed == 1
    assert await is_closed(weed, bucket, await only_key(weed, bucket))


async def test_another_key_neither_replaces_nor_confirms_an_object(
    store: Store, made: MakeUploader, weed: Server, bucket: str
) -> None:
    """Nobody can tell what is in it, so the delivery stays owed."""
    delivery = await store.large(1000)
    assert isinstance(await made(options(weed, bucket, **by(KEY))).deliver(delivery), Delivered)
    outcome = await made(options(weed, bucket, **by(OTHER))).deliver(delivery)
    assert isinstance(outcome, RetryLater | Refused)
    async with client_of(weed) as client:
        key = await only_key(weed, bucket)
        named = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": KEY}
        assert (await client.get_object(Bucket=bucket, Key=key, **named))["ContentLength"] > 0


@pytest.mark.parametrize("size", [1000, 12 * MEBIBYTE], ids=["put", "parts"])
async def test_a_server_that_ignores_the_key_gets_nothing_delivered(
    store: Store, made: MakeUploader, clone: Server, cloned_bucket: str, size: int
) -> None:
    """Its object is in clear: the destination is at fault, and the reason says what it left there."""
    outcome = await made(options(clone, cloned_bucket, **by(KEY))).deliver(await store.large(size))
    assert isinstance(outcome, Refused)
    assert outcome.scope is Scope.DESTINATION
    assert "ignored the key" in outcome.reason


async def test_recordings_have_the_key_too(weed: Server, bucket: str, store: Store) -> None:
    """In one part and in several."""

    async def audio(size: int) -> AsyncIterator[bytes]:
        yield b"a" * size

    recordings = BucketRecordings(options(weed, bucket, **by(KEY)), store.spool.uploader_state, SilentObserver(), {})
    for name, size in (("2026-01-31/s/c/short.mp3", 1000), ("2026-01-31/s/c/long.mp3", 6 * MEBIBYTE)):
        address = await recordings.put(name, "audio/mpeg", audio(size))
        assert await recordings.find(name) == address
        assert await is_closed(weed, bucket, address.removeprefix(f"s3://{bucket}/"))
    assert await recordings.erase([CallToErase("c", frozenset({"acme"}))]) == Erased(
        0, "2 objects of the same id may be another tenant's, and no receipt says whose: an order without a tenant "
        "takes them",
    )  # fmt: skip
    assert await recordings.erase([CallToErase("c")]) == Erased(2)
    await recordings.close()


async def test_a_reader_without_the_key_is_told(weed: Server, bucket: str, store: Store, made: MakeUploader) -> None:
    """`references.customer_key` is missing: the claim fails for good, with the server's own words."""
    delivery = await store.large(1000)
    await made(options(weed, bucket, **by(KEY))).deliver(delivery)
    notice = b'{"s3_bucket": "%b", "s3_key": "%b"}' % (bucket.encode(), (await only_key(weed, bucket)).encode())
    chosen = options(weed, bucket)
    reader = ClaimReader(connection := S3Connection(chosen), Bucket(chosen, connection), [bucket], 1, lambda *_: None)
    with pytest.raises(ClaimFailed, match="customer"):
        await reader.read(notice, "", delivery.record.call_id)
    await reader.close()


@pytest.mark.parametrize(
    ("dialect", "changes", "works", "said"),
    [
        ("weed", by(KEY), True, ""),
        ("weed", {"encryption": ServerSideEncryption.AES256}, True, ""),
        ("weed", {"encryption": ServerSideEncryption.KMS, "kms_key_id": "alias/calls"}, False, "it works"),
        ("clone", by(KEY), False, "ignored the key"),
    ],
)
async def test_a_check_says_which_encryption_a_server_refuses(
    request: pytest.FixtureRequest, a_bucket: Callable[[Server], str], dialect: str, changes: dict[str, Any],
    works: bool, said: str,
) -> None:  # fmt: skip
    """What the probe of a configuration and the doctor show."""
    server = request.getfixturevalue(dialect)
    steps = {step.name: step for step in await check(options(server, a_bucket(server), **changes))}
    put = steps["put and verify"]
    assert (put.ok, steps["send in parts and verify"].ok) == (works, works)
    assert said in put.detail
