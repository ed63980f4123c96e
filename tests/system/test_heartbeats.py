"""Real agents, with the helper of the documents, beside a real gateway: killed in the middle of their calls."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.endpoint import Endpoint
from tests.project.repository import text
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

(HELPER,) = re.findall(r"^```python\n(.*?)^```$", text("docs/live-calls.md"), re.DOTALL | re.MULTILINE)
AGENT = """
import sys

async def main() -> None:
    said = []
    watching = asyncio.create_task(watch(sys.argv[1], lambda: list(said), every=0.02, agent_id="agent"))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        said.append({"role": "user", "content": line.decode().strip()})
    watching.cancel()

asyncio.run(main())
"""
LOST_AFTER = 5


class Agent:
    """A process that has a call; it says what it is told, and ends its call when it is told nothing more."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def say(self, *words: str) -> None:
        assert self.process.stdin is not None, "started with a pipe"
        self.process.stdin.write("".join(f"{word}\n" for word in words).encode())
        await self.process.stdin.drain()

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def agent(gateway: GatewayProcess, call_id: str) -> AsyncIterator[Agent]:
    program = (HELPER + AGENT).replace("http://127.0.0.1:7717", gateway.intake_url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, call_id, stdin=asyncio.subprocess.PIPE
    )
    try:
        yield Agent(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def call_logs(endpoint: Endpoint, call_id: str) -> list[dict[str, Any]]:
    found = endpoint.call_logs
    return [each for each in found if each["call_id"] == call_id]


@pytest.mark.slow
async def test_an_agent_that_is_killed_leaves_the_conversation_up_to_there(tmp_path: Path) -> None:
    """One of two is killed with SIGKILL, the gateway too in between; the other one ends its call as agents do."""
    settings = {"CALLSPOOL_LIVE_LOST_AFTER": f"{LOST_AFTER}s"}
    async with Endpoint() as endpoint:
        settings["CALLSPOOL_ENDPOINT_URL"] = endpoint.url
        async with (
            GatewayProcess(tmp_path / "gateway", settings) as gateway,
            agent(gateway, "a/killed") as killed,
            agent(gateway, "ended") as ended,
        ):

            async def turns() -> dict[str, int]:
                found = json.loads(await gateway.command("calls", "--live", "--json", *gateway.admin))
                return {call["call_id"]: call["turns"] for call in found}

            async def has(**wanted: int) -> None:
                async def they_are() -> bool:
                    found = await turns()
                    return found.get("a/killed") == wanted["killed"] and found.get("ended") == wanted["ended"]

                await until(they_are, "what was said is on disk")

            await killed.say("one", "two")
            await ended.say("hello")
            await has(killed=2, ended=1)
            await gateway.kill()
            await killed.say("three")
            await gateway.start()
            await has(killed=3, ended=1)
            await killed.kill()
            end = {"call_id": "ended", "wcall_event": "call_ended", "call_ended_reason": "completed"}
            assert (await gateway.post(end, "/v1/calls")).status == 202

            async def lost() -> bool:
                return bool(call_logs(endpoint, "a/killed"))

            await until(lost, "the endpoint has the call of the killed agent")
            (log,) = call_logs(endpoint, "a/killed")
            assert (log["call_ended_reason"], log["agent_id"]) == ("agent_lost", "agent")
            assert [turn["content"] for turn in log["transcript_json"]] == ["one", "two", "three"]
            await gateway.post({**end, "call_id": "a/killed"}, "/v1/calls")
            await gateway.delivered()
            assert [log["call_ended_reason"] for log in call_logs(endpoint, "a/killed")] == ["agent_lost", "completed"]
            assert [log["call_ended_reason"] for log in call_logs(endpoint, "ended")] == ["completed"]
            assert await turns() == {}
            assert await gateway.metric("callspool_agents_lost_total") == 1
            assert await gateway.metric("callspool_unaccounted_records") == 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.prove)])
async def test_no_kill_loses_a_turn_that_was_acknowledged(tmp_path: Path, kills: int) -> None:
    """Posts one after the other, a kill in the middle of one now and then: what was answered 200 is in the call log."""
    async with Endpoint() as endpoint:
        settings = {"CALLSPOOL_LIVE_LOST_AFTER": f"{LOST_AFTER}s", "CALLSPOOL_ENDPOINT_URL": endpoint.url}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            acknowledged: set[int] = set()

            async def talk() -> None:
                for index in range(len(acknowledged) * 1000, len(acknowledged) * 1000 + 1000):
                    reply = await gateway.post({"turns": [{"index": index, "content": "x"}]}, "/v1/calls/c/turns")
                    if reply.status != 200:
                        return
                    acknowledged.add(index)

            for number in range(kills):
                talking = asyncio.create_task(talk())
                wanted = 20 * (number + 1)

                async def said(wanted: int = wanted) -> bool:
                    return len(acknowledged) >= wanted

                await until(said, "some turns were acknowledged")
                await gateway.kill()
                await asyncio.gather(talking, return_exceptions=True)
                await gateway.start()

            async def lost() -> bool:
                return bool(call_logs(endpoint, "c"))

            await until(lost, "nobody talks any more")
            (log,) = call_logs(endpoint, "c")
            kept = {turn["index"] for turn in log["transcript_json"]}
            assert acknowledged <= kept
            assert len(kept) == len(log["transcript_json"]) <= len(acknowledged) + kills
