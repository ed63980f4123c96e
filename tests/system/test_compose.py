"""The settings of deploy/compose/everything.yml in gateways, a database and a bucket that run without Compose."""

import asyncio
import re
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.postgres_server import PostgresServer
from bench.s3_server import Server
from tests.deploy.compose_files import FOLDER, services
from tests.stores.engines import PostgresEngine
from tests.system.gateway_process import GatewayProcess
from tests.system.receivers import Receiver
from tests.system.waiting import until


@pytest.mark.slow
async def test_calls_of_the_stand_in_reach_the_database(
    tmp_path: Path,
    weed: Server,
    bucket: str,
    credentials: None,
    postgres_servers: Callable[[str], PostgresServer],
) -> None:
    """Small calls and a large one are whole in PostgreSQL, the detail of the large one by way of the bucket."""
    engine = PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}")
    found = services("everything.yml")
    receiver = Receiver(tmp_path / "receiver", engine.url)
    sidecar = GatewayProcess(tmp_path / "sidecar")
    moved = {
        "http://receiver:7717": receiver.intake_url,
        "http://seaweedfs:8333": weed.endpoint,
        "http://sidecar:7717": sidecar.intake_url,
    }
    for gateway, name in ((receiver, "receiver"), (sidecar, "sidecar")):
        for key, value in found[name]["environment"].items():
            if key.startswith("CALLSPOOL_") and key not in {"CALLSPOOL_INTAKE_LISTEN", "CALLSPOOL_DATABASE_URL"}:
                here = re.sub(r"http://\w+:\d+", lambda match: moved[match[0]], value)
                gateway.environment[key] = bucket if value == "calls" else here
        gateway.environment["AWS_REGION"] = "us-east-1"
    async with receiver, sidecar:
        agent = await asyncio.create_subprocess_exec(
            sys.executable, FOLDER / "agent.py", stdout=asyncio.subprocess.PIPE,
            env={"POST_TO": f"{sidecar.intake_url}/v1/calls", "CALLS": "3", "SECONDS_BETWEEN_CALLS": "0"},
        )  # fmt: skip
        said, _ = await asyncio.wait_for(agent.communicate(), 60)
        ended = re.findall(r"call_ended of (\S+): 202", said.decode())
        assert len(ended) == 3

        async def whole() -> bool:
            calls = [await receiver.call(call_id) for call_id in ended]
            return all(call.get("state") == "complete" for call in calls) and calls[2]["has_detail"]

        await until(whole, "all calls are complete, the large one with its detail", deadline=60)
        assert await sidecar.metric("callspool_unaccounted_records") == 0
        assert await receiver.metric("callspool_unaccounted_records") == 0
