"""A bandwidth limit on the way to a real bucket: small objects and parts alike, byte for byte."""

import asyncio
import time

import pytest
from msgspec.structs import replace

from bench.s3_server import Server
from spool.records import Lane
from tests.s3.stored_objects import MEBIBYTE, Store, options
from uploaders.base import Delivered, SilentObserver
from uploaders.rate_limit import Bandwidth, RateLimit
from uploaders.s3.uploader import S3Uploader


@pytest.mark.parametrize(
    ("rest_bytes", "lane", "rate", "shortest", "longest"),
    [
        (5 * MEBIBYTE, Lane.DETAIL, 6 * MEBIBYTE, 0.5, 60),
        (14 * MEBIBYTE, Lane.DETAIL, 6 * MEBIBYTE, 1.6, 60),
        (5 * MEBIBYTE, Lane.CORE, MEBIBYTE // 64, 0, 60),
    ],
    ids=["one request", "parts", "a core"],
)
async def test_an_object_leaves_at_the_rate_that_is_set(
    store: Store, weed: Server, bucket: str, rest_bytes: int, lane: Lane, rate: int, shortest: float, longest: int
) -> None:
    """What is sent a second stays within the limit, and cores are not held back, which would take minutes."""
    detail = await store.large(rest_bytes)
    slow = Bandwidth([RateLimit(lambda: rate)], time.monotonic)
    uploader = S3Uploader(options(weed, bucket), store.spool, store.spool.uploader_state, SilentObserver(), slow)
    began = time.monotonic()
    async with asyncio.timeout(longest):
        outcome = await uploader.deliver(replace(detail, lane=lane))
    taken = time.monotonic() - began
    await uploader.close()
    assert isinstance(outcome, Delivered)
    assert taken > shortest
