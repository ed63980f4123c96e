"""Bandwidth limits, measured: over real sockets, and into a directory."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from spool.records import Form, Lane
from tests.s3.presigned_endpoint import presigning
from tests.s3.stored_objects import rest_of
from tests.uploaders.deliveries import ACCEPTED_AT, Payloads, a_delivery, a_record, large_fragments
from tests.uploaders.rogue_server import HEAD, Rogue, read_request
from uploaders.base import Delivered, SilentObserver, Uploader
from uploaders.document.options import Encoding
from uploaders.file import FileUploader
from uploaders.http.timeouts import Timeouts
from uploaders.http.uploader import HttpOptions, HttpUploader
from uploaders.presigned import PresignedOptions, PresignedUploader
from uploaders.rate_limit import UNLIMITED, Bandwidth, RateLimit

RATE = 400_000
DETAIL_BYTES = 300_000
SHORTEST, LONGEST = 0.6, 2.5
"""Seconds: of so much at that rate, less the burst; and what a slow machine may make of it."""

Make = Callable[[Payloads, Bandwidth], Uploader]
Way = Callable[[Path], AbstractAsyncContextManager[Make]]


@asynccontextmanager
async def by_http(_directory: Path) -> AsyncIterator[Make]:
    async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
            await writer.drain()

    async with Rogue(takes) as endpoint:
        options = HttpOptions(endpoint.url, encoding=Encoding.IDENTITY, timeouts=Timeouts(send=1.0, total=1.0))
        yield lambda payloads, bandwidth: HttpUploader(options, payloads, lambda: ACCEPTED_AT, bandwidth)


@asynccontextmanager
async def by_upload_address(_directory: Path) -> AsyncIterator[Make]:
    async with presigning() as endpoint:
        options = PresignedOptions(endpoint.url)
        yield lambda payloads, bandwidth: PresignedUploader(
            options, payloads, lambda: ACCEPTED_AT, SilentObserver(), bandwidth
        )


@asynccontextmanager
async def by_file(directory: Path) -> AsyncIterator[Make]:
    yield lambda payloads, bandwidth: FileUploader(directory, payloads, bandwidth)


WAYS = pytest.mark.parametrize("way", [by_http, by_upload_address, by_file])


def bandwidth_of(*rates: int) -> Bandwidth:
    def limit(rate: int) -> RateLimit:
        return RateLimit(lambda: rate)

    return Bandwidth([limit(rate) for rate in rates], time.monotonic)


async def seconds_of(work: Awaitable[object]) -> float:
    began = time.monotonic()
    assert isinstance(await work, Delivered)
    return time.monotonic() - began


async def deliver(way: Way, directory: Path, bandwidth: Bandwidth, lane: Lane) -> float:
    """How long one large delivery of a lane takes."""
    payloads = Payloads()
    record = a_record(payloads, fragments=large_fragments(rest_of(DETAIL_BYTES * 4 // 3)))
    if way is by_http:
        record = a_record(payloads, fragments=large_fragments(rest_of(DETAIL_BYTES)))
    async with way(directory) as make:
        uploader = make(payloads, bandwidth)
        form = Form.WHOLE if way is by_upload_address else Form.DETAIL
        try:
            return await seconds_of(uploader.deliver(replace(a_delivery(record, form), lane=lane)))
        finally:
            await uploader.close()


@WAYS
async def test_a_detail_leaves_at_the_rate_that_is_set(way: Way, tmp_path: Path) -> None:
    """Whatever the way, what is sent a second stays within the limit, and comes near it."""
    assert SHORTEST < await deliver(way, tmp_path, bandwidth_of(RATE), Lane.DETAIL) < LONGEST


async def test_the_lowest_of_several_limits_holds(tmp_path: Path) -> None:
    """The limit of all destinations and a destination's own both hold."""
    assert SHORTEST < await deliver(by_http, tmp_path, bandwidth_of(RATE * 100, RATE), Lane.DETAIL) < LONGEST


async def test_waiting_for_a_limit_counts_for_no_time_out(tmp_path: Path) -> None:
    """An upload that takes longer than its time-outs, because it was held back, is not given up."""
    assert await deliver(by_http, tmp_path, bandwidth_of(RATE // 2), Lane.DETAIL) > 1.3


@WAYS
@pytest.mark.parametrize("bandwidth", [UNLIMITED, bandwidth_of(1000)], ids=["no limit", "a low limit"])
async def test_a_core_never_waits(way: Way, bandwidth: Bandwidth, tmp_path: Path) -> None:
    """What goes by the core lane passes at once, however low the limit: at this one it would take minutes."""
    assert await deliver(way, tmp_path, bandwidth, Lane.CORE) < LONGEST


async def test_cores_pass_at_once_while_a_detail_is_held_back(tmp_path: Path) -> None:
    """A core that comes while a detail waits for its bytes is delivered meanwhile, and counted."""
    payloads, bandwidth = Payloads(), bandwidth_of(RATE)
    detail = a_delivery(a_record(payloads, 1, fragments=large_fragments(rest_of(DETAIL_BYTES))), Form.DETAIL)
    core = a_delivery(a_record(payloads, 2, fragments=large_fragments(rest_of(1000))), Form.CORE)
    async with by_http(tmp_path) as make:
        uploader = make(payloads, bandwidth)
        sending = asyncio.create_task(seconds_of(uploader.deliver(detail)))
        await asyncio.sleep(0)
        assert max([await seconds_of(uploader.deliver(core)) for _ in range(5)]) < SHORTEST / 2
        assert not sending.done()
        assert SHORTEST < await sending < LONGEST
        await uploader.close()


async def test_details_at_once_share_one_limit(tmp_path: Path) -> None:
    """Two details of one destination take as long as both after each other."""
    payloads, bandwidth = Payloads(), bandwidth_of(RATE)
    async with by_http(tmp_path) as make:
        uploader = make(payloads, bandwidth)
        details = [
            a_delivery(a_record(payloads, at, fragments=large_fragments(rest_of(DETAIL_BYTES // 2))), Form.DETAIL)
            for at in (1, 2)
        ]
        began = time.monotonic()
        await asyncio.gather(*(seconds_of(uploader.deliver(detail)) for detail in details))
        assert SHORTEST < time.monotonic() - began < LONGEST
        await uploader.close()


async def test_a_limit_that_is_taken_away_is_felt_at_once(tmp_path: Path) -> None:
    """A detail that began at a crawl finishes at full speed when the limit goes, as when a call ends."""
    rate: list[int | None] = [10_000]
    bandwidth = Bandwidth([RateLimit(lambda: rate[0])], time.monotonic)
    payloads = Payloads()
    detail = a_delivery(a_record(payloads, 1, fragments=large_fragments(rest_of(DETAIL_BYTES))), Form.DETAIL)
    async with by_http(tmp_path) as make:
        uploader = make(payloads, bandwidth)
        sending = asyncio.create_task(seconds_of(uploader.deliver(detail)))
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done
        rate[0] = None
        assert await sending < LONGEST
        await uploader.close()
