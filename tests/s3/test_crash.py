"""A gateway that is killed in the middle of an upload in parts goes on with the next part."""

import asyncio
from pathlib import Path

import pytest

from bench.s3_server import Server
from spool.records import Lane
from tests.s3.drain_process import DEADLINE_SECONDS, draining
from tests.s3.recording_proxy import Fate, proxy_before
from tests.s3.stored_objects import MEBIBYTE, client_of, objects, opened_store, rest_of, uploads
from uploaders.s3.options import SMALLEST_PART_BYTES

pytestmark = pytest.mark.slow

SIZE = 52 * MEBIBYTE
"""Of noise: 39 MiB of frames and some, in parts of 5 MiB."""
SMALL_PARTS = ("zstd", str(SMALLEST_PART_BYTES))
PARTS = 8
"""Four of them are under way at once."""


@pytest.mark.parametrize("fate", [Fate.HOLD_BODY, Fate.HOLD_ANSWER])
async def test_after_a_kill_no_finished_part_is_sent_again(
    tmp_path: Path, weed: Server, bucket: str, fate: Fate
) -> None:
    """Killed while a part is under way, or before its answer came, the next run sends what the server lacks alone."""
    async with opened_store(tmp_path / "spool") as store:
        await store.large(SIZE)
    async with proxy_before(weed.port) as proxy:
        proxy.decide = lambda request: fate if (request.part or 0) >= 3 else Fate.PASS
        async with draining(tmp_path / "spool", proxy.endpoint, bucket, *SMALL_PARTS) as drain:
            for _ in range(4):
                await asyncio.wait_for(proxy.held.get(), DEADLINE_SECONDS)
            drain.process.kill()
            await drain.process.wait()
        (upload_id,) = await uploads(weed, bucket)
        there = await _parts_there(weed, bucket, upload_id)
        assert there == ({1, 2, 3, 4, 5, 6} if fate is Fate.HOLD_ANSWER else {1, 2})
        proxy.requests.clear()
        proxy.decide = lambda _: Fate.PASS
        async with draining(tmp_path / "spool", proxy.endpoint, bucket, *SMALL_PARTS) as drain:
            lines = await drain.finished()
        assert lines[0].startswith("Delivered")
        assert sorted(proxy.parts) == [number for number in range(1, PARTS + 1) if number not in there]
    await _assert_whole(tmp_path / "spool", weed, bucket, SIZE)


async def test_after_a_kill_behind_the_last_answer_nothing_is_sent_again(
    tmp_path: Path, weed: Server, bucket: str
) -> None:
    """Killed when the object was complete but its delivery not settled, the next run finds the object and is done."""
    async with opened_store(tmp_path / "spool") as store:
        await store.large(12 * MEBIBYTE)
    async with proxy_before(weed.port) as proxy:
        proxy.decide = lambda request: Fate.HOLD_ANSWER if request.completes else Fate.PASS
        async with draining(tmp_path / "spool", proxy.endpoint, bucket, *SMALL_PARTS) as drain:
            await asyncio.wait_for(proxy.held.get(), DEADLINE_SECONDS)
            drain.process.kill()
            await drain.process.wait()
        proxy.requests.clear()
        proxy.decide = lambda _: Fate.PASS
        async with draining(tmp_path / "spool", proxy.endpoint, bucket, *SMALL_PARTS) as drain:
            lines = await drain.finished()
        assert lines[0].startswith("Delivered")
        assert proxy.parts == []
    await _assert_whole(tmp_path / "spool", weed, bucket, 12 * MEBIBYTE)


async def _parts_there(weed: Server, bucket: str, upload_id: str) -> set[int]:
    async with client_of(weed) as client:
        (upload,) = (await client.list_multipart_uploads(Bucket=bucket))["Uploads"]
        listed = await client.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload_id)
    return {part["PartNumber"] for part in listed.get("Parts", ())}


async def _assert_whole(spool: Path, weed: Server, bucket: str, size: int) -> None:
    (stored,) = await objects(weed, bucket)
    assert stored.document.endswith(rest_of(size) + b"}")
    assert await uploads(weed, bucket) == []
    async with opened_store(spool) as store:
        assert await store.due(Lane.DETAIL) == ()
