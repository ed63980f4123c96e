"""The Whispey SDK, unmodified, leaves rows behind, and they are rescued; a second one works beside."""

import asyncio
import json
import math
import random
from pathlib import Path

from aiohttp import web

from gateway.sdk_outbox.file import ABANDONED_SECONDS
from gateway.sdk_outbox.model import Outcome
from tests.outbox.outbox_rescue import Rescue, rescuing
from tests.outbox.sdk import DOWN, KEY, agent, needs_sdk, rows

pytestmark = needs_sdk

YEARS = 1000 * 86400 * 365 * 10


def posting_to(rescue: Rescue) -> str:
    return f"http://127.0.0.1:{rescue.world.port}/dev/send-call-log"


async def test_what_the_sdk_could_not_post_is_rescued(tmp_path: Path) -> None:
    """With the endpoint down, ends of calls stay behind as rows, also at the exit of a process; all become records."""
    outbox = tmp_path / "outbox.db"
    failed = await agent(outbox, DOWN, "fail", 2)
    left_at_exit = await agent(outbox, DOWN, "exit", 2)
    assert [status for _, status, _ in rows(outbox)] == ["pending"] * 4
    async with rescuing(tmp_path) as rescue:
        rescue.world.clock.now += YEARS
        await rescue.run()
        assert rows(outbox) == []
        assert rescue.outcomes == {Outcome.RESCUED: 4}
        for call in failed + left_at_exit:
            traced = await rescue.world.only_record(call)
            assert traced.record.event == "call_ended"
            assert await rescue.world.spool.token(traced.record.token_id or 0) == KEY
            stored = json.loads(await rescue.stored(call))
            assert stored["agent_id"] == "agent-1"
            assert "T" in stored["call_started_at"]
            assert ("telemetry_data" in stored) == (call in failed)


async def test_a_row_whose_post_was_accepted_is_a_duplicate(tmp_path: Path) -> None:
    """Whatever the SDK makes of a call log before it posts it, its row is known by its digest."""
    numbers = random.Random(7)
    call_logs = [
        {"call_id": "floats", "call_started_at": 1763000000.1234567, "call_ended_at": 1763000123.5},
        {"call_id": "whole", "call_started_at": 1763000000, "call_ended_at": None, "metadata": {"call_started_at": 5}},
        {"call_id": "texts", "call_started_at": "2025-11-13T02:13:20", "call_ended_reason": "hung up"},
        {"call_id": "odd", "x": math.nan, "y": "\ud800", "ünïcode": "☃", "call_ended_at": 1e12},
        {"call_id": "envelope", "call_ended_at": 1763000000.0, "spans": [numbers.random() for _ in range(2000)]},
        {"call_id": "upload", "call_ended_at": 1763000000.25, "spans": [numbers.random() for _ in range(280_000)]},
    ]  # fmt: skip
    path = tmp_path / "calls.json"
    path.write_text(json.dumps(call_logs))
    async with rescuing(tmp_path) as rescue:
        await agent(rescue.outbox, posting_to(rescue), "keep", 0, path)
        assert len(rows(rescue.outbox)) == len(call_logs)
        rescue.world.clock.now += YEARS
        await rescue.run()
        assert rescue.outcomes == {Outcome.DUPLICATE: len(call_logs)}
        assert rows(rescue.outbox) == []


async def test_a_row_that_the_sdk_is_posting_is_its_own(tmp_path: Path) -> None:
    """While a post is under way its row is left alone; of an agent that was killed in it, it is taken after 300 s."""
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.Response:
        if b'"call_ended"' in await request.read():
            arrived.set()
            await release.wait()
        return web.json_response({})

    server = await asyncio.get_running_loop().create_server(web.Server(hang), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/dev/send-call-log"
    async with rescuing(tmp_path) as rescue:
        posting = asyncio.create_task(agent(rescue.outbox, url, "post"))
        async with asyncio.timeout(30):
            await arrived.wait()
        ((_, _, claimed_at),) = rows(rescue.outbox)
        rescue.world.clock.now = round(claimed_at * 1000)
        await rescue.run()
        assert [status for _, status, _ in rows(rescue.outbox)] == ["in_progress"]
        rescue.world.clock.now += 1000 * ABANDONED_SECONDS + 1
        await rescue.run()
        assert rescue.outcomes == {Outcome.RESCUED: 1}
        release.set()
        await posting
    server.close()


async def test_an_agent_beside_is_not_disturbed(tmp_path: Path) -> None:
    """While an outbox is emptied again and again, the SDK posts from it and leaves rows in it, and none is lost."""
    async with rescuing(tmp_path) as rescue:
        await agent(rescue.outbox, DOWN, "fail", 1)
        rescue.world.clock.now += YEARS
        work = asyncio.gather(
            agent(rescue.outbox, posting_to(rescue), "partly", 12), agent(rescue.outbox, DOWN, "fail", 12)
        )
        while not work.done():
            await rescue.run()
            await asyncio.sleep(0)
        calls = [call for calls in await work for call in calls]
        await rescue.run()
        assert rows(rescue.outbox) == []
        for call in calls:
            events = [each.record.event for each in await rescue.world.spool.trace(call)]
            assert events.count("call_ended") == 1
