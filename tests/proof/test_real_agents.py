"""Real agents of LiveKit and Pipecat, each a process of its own, export their calls to a gateway that is killed.

They need 750 MB, so they are in a Python of their own, which AGENTS_PYTHON names:

    python -m venv agents && agents/bin/pip install livekit-agents pipecat-ai opentelemetry-exporter-otlp-proto-http
    AGENTS_PYTHON=agents/bin/python make prove
"""

import asyncio
import os
from pathlib import Path

import pytest

from bench.endpoint import Endpoint
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

AGENTS = Path(__file__).parents[1] / "otlp" / "agents"
PYTHON = os.environ.get("AGENTS_PYTHON", "")
TURNS = {"livekit-1": 6, "livekit-2": 3, "pipecat-1": 4}


async def run(url: str, call_id: str) -> None:
    """One call of an agent, to its end."""
    program = AGENTS / f"{call_id.partition('-')[0]}_agent.py"
    process = await asyncio.create_subprocess_exec(
        PYTHON, program, url, str(TURNS[call_id]), call_id,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-2000:]


@pytest.mark.prove
@pytest.mark.skipif(not PYTHON, reason="AGENTS_PYTHON names no Python with livekit-agents and pipecat-ai")
async def test_calls_of_real_agents_survive_kills(tmp_path: Path) -> None:
    """Three agents at once, the gateway killed when the first spans are in its spool: a call log for each call, with
    each of its spans once, all that was said in its order, and the call's end."""
    async with Endpoint() as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url, "CALLSPOOL_OTLP_CLOSE_AFTER": "2s"}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            url = f"{gateway.intake_url}/v1/traces"
            calls = [asyncio.create_task(run(url, call_id)) for call_id in TURNS]

            async def spans_are_in_the_spool() -> bool:
                return await gateway.metric("callspool_otlp_open_calls") > 0

            await until(spans_are_in_the_spool, "the first spans came", deadline=60)
            await gateway.kill()
            await gateway.start()
            await asyncio.gather(*calls)

            async def arrived() -> bool:
                return {log["call_id"] for log in endpoint.call_logs} == set(TURNS)

            await until(arrived, "a call log of each call is at the endpoint", deadline=60)
            await gateway.delivered()
            assert await gateway.metric("callspool_unaccounted_records") == 0
    for call_id, turns in TURNS.items():
        (log,) = [log for log in endpoint.call_logs if log["call_id"] == call_id]
        spans = [span["context"]["span_id"] for span in log["telemetry_data"]["session_traces"]]
        assert len(spans) == len(set(spans)) == log["otel"]["spans"]
        assert log["wcall_event"] == "call_ended"
        if call_id.startswith("livekit"):
            assert [turn["content"] for turn in log["transcript_json"]] == [
                said for turn in range(turns) for said in (f"{call_id} says {turn}", f"you said: {call_id} says {turn}")
            ]
