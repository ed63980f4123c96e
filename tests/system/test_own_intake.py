"""A gateway whose endpoint is its own intake: it must not take its own acknowledgement for a delivery."""

from pathlib import Path

import pytest

from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

SMALL = {"call_id": "small", "wcall_event": "call_ended", "agent_id": "a"}
LARGE = {"call_id": "large", "wcall_event": "call_ended", "agent_id": "a", "telemetry_data": {"noise": "x" * 400_000}}
DESTINATIONS = {
    "two phases": 'type = "http"',
    "upload addresses for large ones": 'type = "http"\nlarge = "presigned"',
    "upload addresses": 'type = "presigned"',
    "in one request": 'type = "http"\nlarge = "whole"',
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DESTINATIONS)
async def test_what_comes_back_stays_in_the_spool(tmp_path: Path, kind: str) -> None:
    """Whatever form it is sent in, nothing counts as delivered, nothing is dead, and the destination says why."""
    file = tmp_path / "callspool.toml"
    gateway = GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(file)})
    file.write_text(f"""
        [split]
        two_phase_raw_threshold = "100KB"
        [[destinations]]
        name = "endpoint"
        url = "{gateway.intake_url}/dev/send-call-log"
        {DESTINATIONS[kind]}
    """)
    async with gateway:
        for call_log in (SMALL, LARGE):
            assert (await gateway.post(call_log)).status == 202

        async def told() -> bool:
            (destination,) = (await gateway.status())["destinations"]
            return not destination["up"] and "508" in destination["reason"]

        await until(told, "the destination is paused")
        (destination,) = (await gateway.status())["destinations"]
        lanes = destination["lanes"].values() if isinstance(destination["lanes"], dict) else destination["lanes"]
        assert sum(lane["queued"] for lane in lanes) >= 2
        assert not any(lane["dead"] or lane["delivered"] for lane in lanes)
        assert "database_corrupt" not in gateway.log
