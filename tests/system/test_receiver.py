"""Two real processes: a sidecar that agents post to, and the receiver that it delivers to, on a real database."""

import asyncio
import gzip
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path
from random import Random

import aiohttp
import psycopg
import pytest

from bench.calllogs import make_call_log
from tests.budget import budgeted
from tests.stores.engines import Engine
from tests.stores.postgres_server import started
from tests.system.gateway_process import GatewayProcess
from tests.system.receivers import PATIENCE, Receiver, counted, insist, post
from tests.system.waiting import until

LARGE = 15_000_000


@asynccontextmanager
async def receiving(tmp_path: Path, database: tuple[str, Engine]) -> AsyncIterator[tuple[GatewayProcess, Receiver]]:
    """A sidecar and its receiver."""
    async with Receiver(tmp_path / "receiver", database[0]) as receiver:
        endpoint = {"CALLSPOOL_ENDPOINT_URL": f"{receiver.intake_url}/dev/send-call-log"}
        async with GatewayProcess(tmp_path / "sidecar", endpoint) as sidecar:
            yield sidecar, receiver


@pytest.mark.slow
async def test_calls_go_from_the_agent_to_the_database(tmp_path: Path, database: tuple[str, Engine]) -> None:
    """Start, end of 2 KB, and an end of 15 MB in two phases become complete calls, every value as it was posted."""
    large = make_call_log(LARGE, seed=3, call_id="large")
    async with receiving(tmp_path, database) as (sidecar, receiver):
        for call_id, end in (("small", make_call_log(2_000, seed=2, call_id="small")), ("large", large)):
            await post(sidecar, make_call_log(2_000, seed=1, call_id=call_id, event="call_started"))
            await post(sidecar, end, "/dev/send-call-log")
        await receiver.has("small")
        await receiver.has("large", detail=True)
        call = await receiver.call("small")
        assert call["end"] == json.loads(make_call_log(2_000, seed=2, call_id="small"))
        _, detail = await receiver.ask("/api/calls/large/detail")
        posted, core = json.loads(large), (await receiver.call("large"))["end"]
        assert posted == {name: value for name, value in {**core, **json.loads(detail)}.items() if name in posted}
        assert counted(database[1], "spans") == len(posted["telemetry_data"]["session_traces"])
        listed = json.loads(await receiver.command("calls", "list", "--json", "--limit", "10", *receiver.admin))
        assert {(call["call_id"], call["state"]) for call in listed} == {("small", "complete"), ("large", "complete")}
        assert all(call["summary"] for call in listed)
        shown = json.loads(await receiver.command("calls", "show", "large", "--json", *receiver.admin))
        assert shown["end"] == core
        assert (await receiver.command("calls", "detail", "large", *receiver.admin)).rstrip(b"\n") == detail
        assert b"large" in await receiver.command("calls", "list", *receiver.admin)
        assert b"large" in await receiver.command("calls", "show", "large", *receiver.admin)
        assert await receiver.metric("callspool_unaccounted_records") == 0
        assert b"complete" in await receiver.command("store", "status")
        assert b"Every call" in await receiver.command("store", "check")
        assert b"version " in await receiver.command("store", "migrate")


@pytest.mark.slow
async def test_a_receiver_takes_everything_that_senders_send(tmp_path: Path, database: tuple[str, Engine]) -> None:
    """Phase 2 before Phase 1, an envelope, an upload address, a reference, an update: all find their call."""
    async with Receiver(tmp_path / "receiver", database[0]) as receiver:
        detail = {"call_id": "c", "update_type": "detailed_telemetry", "telemetry_data": {"session_traces": [{}, {}]}}
        await post(receiver, detail)
        await receiver.has("c", "pending", detail=True)
        await post(receiver, {"call_id": "c", "wcall_event": "call_ended", "summary_metrics": {"total_turns": 7}})
        await receiver.has("c", "ended", detail=True)
        log = b64encode(gzip.compress(b'{"call_id": "c", "wcall_event": "call_started", "agent_id": "a"}')).decode()
        await post(receiver, {"compressed": True, "data": log}, "/dev/send-call-log")
        await receiver.has("c", "complete", detail=True)
        await post(receiver, {"s3_reference": True, "s3_bucket": "b", "s3_key": "k", "call_id": "c"})
        await post(receiver, {"call_id": "c", "update_type": "recording_ready", "recording_url": "https://r"})

        async def all_there() -> bool:
            call = await receiver.call("c")
            return bool(call["references"] and call["updates"])

        await until(all_there, "reference and update are there", deadline=PATIENCE)
        call = await receiver.call("c")
        assert (call["agent_id"], call["summary"]["turns"], call["late"]) == ("a", 7, False)
        assert call["updates"][0]["recording_url"] == "https://r"
        given = (await receiver.post({"call_id": "up", "content_type": "application/json"}, "/dev/get-upload-url")).json
        async with aiohttp.ClientSession() as session:
            body = BytesIO(make_call_log(6_000_000, seed=4, call_id="up"))
            async with session.put(given["upload_url"], data=body) as response:
                assert response.status == 200
        await receiver.has("up", "ended", detail=True)
        assert counted(database[1], "call_parts") == 7


@pytest.mark.slow
async def test_a_receiver_that_is_down_is_waited_for(tmp_path: Path, database: tuple[str, Engine]) -> None:
    """While it is down the sidecar keeps what agents post, and delivers all of it, once, when it is back."""
    async with receiving(tmp_path, database) as (sidecar, receiver):
        await post(sidecar, make_call_log(2_000, seed=1, call_id="c0", event="call_started"))
        await receiver.has("c0", "open")
        await receiver.kill()
        for number in range(20):
            for event in ("call_started", "call_ended"):
                await post(sidecar, make_call_log(2_000, seed=number, call_id=f"c{number}", event=event))
        await post(sidecar, make_call_log(LARGE, seed=9, call_id="large"))
        await receiver.start()
        for number in range(20):
            await receiver.has(f"c{number}")
        await receiver.has("large", "ended", detail=True)
        await sidecar.delivered(deadline=PATIENCE)
        parts = database[1].rows("select call_id, count(*) from call_parts group by call_id")
        assert all(count <= 3 for _, count in parts)
        assert not (await sidecar.destination())["dead"]


@pytest.mark.slow
async def test_a_database_that_is_killed_is_waited_for(tmp_path: Path) -> None:
    """PostgreSQL is killed under a receiver: posts are answered 202, the gateway stays ready, the spool keeps what
    comes, and the status says why; once the server is back every call is complete, and each part there once."""
    server = started("18")
    try:
        async with Receiver(tmp_path / "receiver", server.url()) as receiver:
            for number in range(10):
                await post(receiver, make_call_log(2_000, seed=number, call_id=f"c{number}", event="call_started"))
            await receiver.delivered(deadline=PATIENCE)
            await asyncio.to_thread(server.kill)
            for number in range(10):
                await post(receiver, make_call_log(2_000, seed=number, call_id=f"c{number}"))

            async def known() -> bool:
                return not (await receiver.destination())["up"]

            await until(known, "the outage is known", deadline=PATIENCE)
            assert "PostgreSQL" in (await receiver.destination())["reason"]
            assert await receiver.ready() == 200
            await asyncio.to_thread(server.start)
            await receiver.delivered(deadline=PATIENCE)
            for number in range(10):
                await receiver.has(f"c{number}")
            assert (await receiver.destination())["dead"] == 0
            with psycopg.connect(server.url()) as connection:
                assert connection.execute("select count(*) from call_parts").fetchone() == (20,)
    finally:
        server.stop()


@pytest.mark.slow
async def test_a_newer_schema_ends_the_start_and_a_database_that_is_down_does_not(
    tmp_path: Path, database: tuple[str, Engine]
) -> None:
    """What a newer callspool migrated is left alone; what does not answer is waited for, and posts are accepted."""
    async with Receiver(tmp_path / "first", database[0]) as receiver:
        await post(receiver, make_call_log(2_000, seed=1, call_id="c", event="call_started"))
        await receiver.has("c", "open")
    database[1].set_schema_version(99)
    refused = Receiver(tmp_path / "refused", database[0])
    async with AsyncExitStack() as cleanup:
        cleanup.push_async_exit(refused)
        await refused.spawn()
        assert await refused.ended() == 1
    assert "version 99" in refused.events("cannot_run")[0]["reason"]
    async with Receiver(tmp_path / "down", "postgresql://nobody@127.0.0.1:1/calls") as down:
        await post(down, make_call_log(2_000, seed=1, call_id="c", event="call_started"))
        assert down.events("store_unavailable")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(budgeted(small=12, full=200), marks=pytest.mark.prove)])
async def test_killed_at_any_moment_nothing_is_lost_or_doubled(
    tmp_path: Path, database: tuple[str, Engine], kills: int
) -> None:
    """Sidecar and receiver are killed in turns under load: each acknowledged call is complete, each part there once."""
    rng = Random(13)
    acknowledged: list[str] = []
    stopping = asyncio.Event()
    async with receiving(tmp_path, database) as (sidecar, receiver):

        async def talk(agent: int) -> None:
            call = 0
            while not stopping.is_set():
                call_id = f"{agent}-{call}"
                for event, size in (("call_started", 2_000), ("call_ended", 2_000 if agent else 6_000_000)):
                    await insist(sidecar, make_call_log(size, seed=call, call_id=call_id, event=event))
                acknowledged.append(call_id)
                call += 1

        async with asyncio.TaskGroup() as agents:
            for agent in range(3):
                agents.create_task(talk(agent))
            for number in range(kills):
                victim = (sidecar, receiver)[number % 2]
                reached = len(acknowledged) + rng.randrange(1, 8)

                async def talked(reached: int = reached) -> bool:
                    return len(acknowledged) >= reached

                await until(talked, "agents have talked", deadline=PATIENCE)
                await victim.kill()
                await victim.start()
            stopping.set()
        # What a kill cut off again and again waits for up to five minutes before its next attempt.
        await sidecar.delivered(deadline=900)
        await receiver.delivered(deadline=PATIENCE)
        assert await sidecar.metric("callspool_unaccounted_records") == 0
        assert await receiver.metric("callspool_unaccounted_records") == 0
        rows = dict(database[1].rows("select call_id, state from calls_complete"))
        assert {call_id for call_id, state in rows.items() if state == 3} >= set(acknowledged)
        parts = database[1].rows("select call_id, kind, count(*) from call_parts group by call_id, kind")
        assert all(count == 1 for _, _, count in parts)
        assert b"Every call" in await receiver.command("store", "check")
