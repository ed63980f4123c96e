"""A gateway that is killed in the middle of an upload goes on with it after its start."""

import asyncio
from pathlib import Path

import pytest

from bench.s3_server import Server
from tests.s3.recording_proxy import Fate, proxy_before
from tests.s3.stored_objects import objects, uploads
from tests.system.buckets import configured, members, post

HUGE = 44_000_000
"""Bytes as plain JSON: six parts of 8 MiB."""
PARTS_AT_ONCE = 3
HELD = {3, 4, 5}
"""The two before are finished when these are held, and the last one has not begun."""
DEADLINE_SECONDS = 60


@pytest.mark.slow
async def test_after_a_kill_the_upload_goes_on_with_the_parts_that_are_missing(
    tmp_path: Path, weed: Server, bucket: str
) -> None:
    """No part that was finished is sent again, the object is what was posted, and the metrics tell of it."""
    async with proxy_before(weed.port) as proxy:
        proxy.decide = lambda request: Fate.HOLD_BODY if request.part in HELD else Fate.PASS
        text = f"""
            [[destinations]]
            name = "s3"
            type = "s3"
            bucket = "{bucket}"
            endpoint_url = "{proxy.endpoint}"
            encoding = "plain"
            object = "whole"
            parts_at_once = {PARTS_AT_ONCE}
        """
        async with configured(tmp_path, text) as gateway:
            body, _ = await post(gateway, "call-huge", HUGE)
            for _ in HELD:
                await asyncio.wait_for(proxy.held.get(), DEADLINE_SECONDS)
            await gateway.kill()
            proxy.requests.clear()
            proxy.decide = lambda _: Fate.PASS
            await gateway.start()
            await gateway.delivered(deadline=DEADLINE_SECONDS)
            parts = [await gateway.metric(_parts(result)) for result in ("resumed", "repeated", "sent")]
        assert sorted(proxy.parts) == [3, 4, 5, 6]
    assert parts == [2, 3, 1]
    assert await uploads(weed, bucket) == []
    large = max(await objects(weed, bucket), key=lambda one: len(one.data))
    assert members(large.data) == members(body)


def _parts(result: str) -> str:
    return f'callspool_upload_parts_total{{destination="s3",result="{result}"}}'
