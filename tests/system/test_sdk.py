"""The Whispey SDK, unmodified, posts through the gateway as if that were its endpoint."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from tests.stores.calls import document_of
from tests.stores.engines import SqliteEngine
from tests.system.gateway_process import GatewayProcess
from uploaders.stores.completion import CallState

SDK = "4.2.11"
KEY = "agents-key-77ab"
AGENT = Path(__file__).with_name("sdk_agent.py")


@dataclass(frozen=True)
class Way:
    """One of the SDK's ways to send a call log, chosen by its size and by what the SDK is told."""

    name: str
    size: int
    kinds: tuple[str, ...]
    """What it becomes at the endpoint."""
    says: str
    """What the SDK's report of a success has, by which the way can be told."""
    environment: Mapping[str, str] = field(default_factory=dict)


TWO_PHASES = ("core", "detail")
WAYS = (
    Way("plain", 5_000, ("whole",), "status"),
    Way("envelope", 200_000, ("whole",), "status"),
    Way("upload", 7_000_000, TWO_PHASES, "auto_triggered"),
    Way("upload-and-reference", 7_000_000, TWO_PHASES, "status", {"WHISPEY_S3_AUTO_TRIGGER": "false"}),
    Way("large-envelope", 7_000_000, TWO_PHASES, "status", {"WHISPEY_USE_S3": "false"}),
)


def installed_sdk() -> str | None:
    try:
        return version("whispey")
    except PackageNotFoundError:
        return None


@pytest.mark.skipif(installed_sdk() != SDK, reason=f"whispey {SDK} is not installed: run `make setup`")
@pytest.mark.slow
async def test_the_sdk_succeeds_and_its_call_logs_arrive(tmp_path: Path) -> None:
    """By each of its ways, the SDK reports success, and the endpoint gets what it sent, with its key in the header."""
    async with Endpoint(token=KEY) as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            reports = await post_by_sdk(tmp_path, gateway)
            await endpoint.wait_for(sum(len(way.kinds) for way in WAYS))
            await gateway.delivered()
            assert KEY not in gateway.log
    assert {arrival.token for arrival in endpoint.arrivals} == {KEY}
    for way, report in zip(WAYS, reports, strict=True):
        assert report["result"]["success"] is True, way.name
        assert way.says in report["result"], way.name
        assert_arrived(endpoint, way, report["sent"])


@pytest.mark.skipif(installed_sdk() != SDK, reason=f"whispey {SDK} is not installed: run `make setup`")
@pytest.mark.slow
async def test_the_sdk_posts_straight_to_a_receiver(tmp_path: Path) -> None:
    """By each of its ways, the SDK reports success, and the store has the call with all that was sent."""
    engine = SqliteEngine(tmp_path)
    settings = {"CALLSPOOL_DATABASE_URL": f"sqlite:///{engine.path}"}
    async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
        reports = await post_by_sdk(tmp_path, gateway)
        await gateway.delivered()
    store = engine.store()
    for way, report in zip(WAYS, reports, strict=True):
        assert report["result"]["success"] is True, way.name
        assert way.says in report["result"], way.name
        call = await store.call("", way.name)
        assert call is not None
        assert call.summary.state is CallState.ENDED
        stored: dict[str, Any] = {}
        for part in call.parts:
            stored |= json.loads(part.document or await document_of(store.detail("", way.name)))
        report["sent"].pop("token", None)
        assert {name: stored.get(name) for name in report["sent"]} == report["sent"]
        assert "token" not in stored
    await store.close()


async def post_by_sdk(folder: Path, gateway: GatewayProcess) -> list[Any]:
    """By each way: what the SDK returned, and what it says it sent."""
    jobs, reports = folder / "jobs.json", [folder / f"{way.name}.report.json" for way in WAYS]
    asked = []
    for way, report in zip(WAYS, reports, strict=True):
        call_log = folder / f"{way.name}.json"
        call_log.write_bytes(make_call_log(way.size, seed=way.size, call_id=way.name))
        asked.append({"call_log": str(call_log), "report": str(report), "environment": dict(way.environment)})
    jobs.write_text(json.dumps(asked))
    where = {"WHISPEY_API_URL": f"{gateway.intake_url}/dev/send-call-log", "WHISPEY_API_KEY": KEY}
    process = await asyncio.create_subprocess_exec(
        sys.executable, AGENT, jobs,
        env={**os.environ, **where}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return [json.loads(report.read_bytes()) for report in reports]


def assert_arrived(endpoint: Endpoint, way: Way, sent: dict[str, Any]) -> None:
    """What the endpoint has of the call is what the SDK sent, but for the key, which came in the header."""
    arrivals = [arrival for arrival in endpoint.accepted if arrival.call_id == way.name]
    assert tuple(arrival.kind for arrival in arrivals) == way.kinds
    arrived: dict[str, Any] = {}
    for arrival in arrivals:
        arrived |= json.loads(endpoint.documents[arrival.key])
    sent.pop("token", None)
    assert {name: arrived.get(name) for name in sent} == sent
    assert "token" not in arrived
