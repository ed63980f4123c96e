"""Servers that reject a header they do not know: that is the bucket's matter, and the advised setting works."""

from collections.abc import Callable

import pytest

from bench.s3_server import Server
from tests.s3.recording_proxy import Answer, Fate, Request, proxy_before
from tests.s3.stored_objects import MEBIBYTE, Store, options
from uploaders.base import Delivered, Refused, Scope
from uploaders.s3.options import S3Options, ServerSideEncryption
from uploaders.s3.uploader import S3Uploader

HEADERS = {
    "checksums = false": ("x-amz-checksum-", "x-amz-sdk-checksum-"),
    "if_none_match = false": ("if-none-match",),
    'encryption = "none"': ("x-amz-server-side-encryption",),
}
"""By the setting that avoids them: the headers that a server of an older dialect rejects."""
WAYS_OUT: dict[str, dict[str, object]] = {
    "checksums = false": {"checksums": False},
    "if_none_match = false": {"if_none_match": False},
    'encryption = "none"': {"encryption": ServerSideEncryption.NONE},
}
ANSWERS = [
    Answer(400, "InvalidArgument"),
    Answer(400, "InvalidRequest"),
    Answer(400, ""),
    Answer(501, "NotImplemented"),
]
SIZES = pytest.mark.parametrize("size", [1000, 12 * MEBIBYTE], ids=["put", "parts"])


def rejecting(setting: str, answer: Answer) -> Callable[[Request], Fate | Answer]:
    """Answers every request that has one of these headers, whatever its method."""

    def decide(request: Request) -> Fate | Answer:
        names = [name.lower() for name in request.headers]
        return answer if any(name.startswith(HEADERS[setting]) for name in names) else Fate.PASS

    return decide


@SIZES
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.status} {answer.code}")
@pytest.mark.parametrize("setting", HEADERS)
async def test_a_header_that_a_server_rejects_is_the_buckets_matter(
    store: Store,
    made: Callable[[S3Options], S3Uploader],
    weed: Server,
    bucket: str,
    setting: str,
    answer: Answer,
    size: int,
) -> None:
    """No object becomes a dead letter; the reason names the setting, and with it uploads, HEAD and parts all work."""
    async with proxy_before(weed.port) as proxy:
        proxy.decide = rejecting(setting, answer)
        usual = {"encryption": ServerSideEncryption.AES256, "endpoint_url": proxy.endpoint}
        delivery = await store.large(size)
        rejected = await made(options(weed, bucket, **usual)).deliver(delivery)
        if not (setting.startswith("if_none") and answer.status == 501):  # that is found out without a setting
            assert isinstance(rejected, Refused)
            assert rejected.scope is Scope.DESTINATION
            assert setting in rejected.reason
        uploader = made(options(weed, bucket, **{**usual, **WAYS_OUT[setting]}))
        for _ in range(2):  # the second attempt finds the object, by HEAD
            assert isinstance(await uploader.deliver(delivery), Delivered)


async def test_once_an_object_was_accepted_a_rejection_is_the_objects_own(
    store: Store, made: Callable[[S3Options], S3Uploader], weed: Server, bucket: str
) -> None:
    """A bucket that works and rejects one object makes it a dead letter."""
    async with proxy_before(weed.port) as proxy:
        uploader = made(options(weed, bucket, endpoint_url=proxy.endpoint))
        assert isinstance(await uploader.deliver(await store.large(1000)), Delivered)
        proxy.decide = lambda _: Answer(400, "InvalidArgument")
        outcome = await uploader.deliver(await store.large(1000))
    assert isinstance(outcome, Refused)
    assert outcome.scope is Scope.RECORD


@pytest.mark.parametrize("code", ["KeyTooLongError", "MetadataTooLarge"])
async def test_what_no_setting_changes_is_the_objects_own_from_the_start(
    store: Store, made: Callable[[S3Options], S3Uploader], weed: Server, bucket: str, code: str
) -> None:
    """A key or metadata that is too long is rejected by every bucket: the first object, too, is a dead letter."""
    async with proxy_before(weed.port) as proxy:
        proxy.decide = lambda _: Answer(400, code)
        outcome = await made(options(weed, bucket, endpoint_url=proxy.endpoint)).deliver(await store.large(1000))
    assert isinstance(outcome, Refused)
    assert outcome.scope is Scope.RECORD
