"""The Compose files: by Compose's own schema, and their services' settings in gateways, a database and a bucket that
run without it."""

import asyncio
import json
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.postgres_server import PostgresServer
from bench.s3_server import Server
from tests.project.repository import ROOT, text
from tests.stores.engines import PostgresEngine
from tests.system.gateway_process import GatewayProcess
from tests.system.receivers import Receiver
from tests.system.waiting import until

FILES = ("sidecar.yml", "everything.yml")
FOLDER = ROOT / "deploy" / "compose"


def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text(f"deploy/compose/{name}"))["services"]
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_one_of_compose(name: str) -> None:
    """Each key is known."""
    pytest.importorskip("check_jsonschema", reason="make check-deploy installs check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / name]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("name", FILES)
def test_what_a_service_names_is_there(name: str) -> None:
    """Files that are mounted, services that are waited for, networks and volumes."""
    document = yaml.safe_load(text(f"deploy/compose/{name}"))
    for service in document["services"].values():
        assert set(service.get("depends_on", ())) <= document["services"].keys()
        assert set(service["networks"]) <= document["networks"].keys()
        for mount in service.get("volumes", ()):
            source = mount.partition(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in document["volumes"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing is reachable from other machines"


def test_callspool_can_do_little_there() -> None:
    """A read-only image, no capability, limited memory; not root, by the image."""
    for name in FILES:
        for service in services(name).values():
            if service.get("image") == "callspool:dev" and "entrypoint" not in service:
                assert service["read_only"]
                assert service["cap_drop"] == ["ALL"]
                assert service["security_opt"] == ["no-new-privileges:true"]
                assert service["mem_limit"]


@pytest.mark.slow
async def test_calls_of_the_stand_in_reach_the_database(
    tmp_path: Path,
    weed: Server,
    bucket: str,
    credentials: None,
    postgres_servers: Callable[[str], PostgresServer],
) -> None:
    """The settings of everything.yml in real processes: a small call and a large one are whole in PostgreSQL, the
    detail of the large one by way of the bucket."""
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


def test_the_bucket_knows_the_keys_of_its_users() -> None:
    """SeaweedFS lets in whom the gateways say they are."""
    (identity,) = json.loads(text("deploy/compose/s3.json"))["identities"]
    found = services("everything.yml")["sidecar"]["environment"]
    assert identity["credentials"] == [
        {"accessKey": found["AWS_ACCESS_KEY_ID"], "secretKey": found["AWS_SECRET_ACCESS_KEY"]}
    ]
