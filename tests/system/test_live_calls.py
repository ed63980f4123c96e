"""A gateway beside a live call: details make room, cores do not wait, and a restart knows the call."""

import base64
import random
import time
from pathlib import Path

import pytest

from bench.endpoint import Endpoint
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

RATE = 100_000
DETAIL_BYTES = 1_500_000
SLOWLY = 20.0
"""Seconds that its envelope, a third longer, takes at that rate."""


def a_gateway(folder: Path, endpoint: Endpoint) -> GatewayProcess:
    settings = f"""
        [split]
        two_phase_raw_threshold = "500KB"
        [drain]
        when_idle = true
        live_bytes_per_second = {RATE}
        [[destinations]]
        name = "endpoint"
        type = "http"
        url = "{endpoint.url}"
        token = "k"
    """
    return GatewayProcess(folder / "gateway", settings=settings)


def a_large_call_log(call_id: str) -> dict[str, object]:
    """Whose detail cannot be made much smaller."""
    noise = base64.b64encode(random.Random(1).randbytes(DETAIL_BYTES)).decode()
    return {"call_id": call_id, "wcall_event": "call_ended", "agent_id": "a", "telemetry_data": {"noise": noise}}


@pytest.mark.slow
async def test_details_wait_for_the_end_of_a_live_call_and_cores_do_not(tmp_path: Path) -> None:
    """While a call is live, also after a kill, a core arrives at once and a detail slowly."""
    async with Endpoint(token="k") as endpoint, a_gateway(tmp_path, endpoint) as gateway:
        await gateway.post({"call_id": "live", "wcall_event": "call_started", "agent_id": "a"})
        await gateway.kill()
        await gateway.start()
        throttle = (await gateway.status())["drain_throttle"]
        assert throttle == {"live_calls": 1, "throttled": True, "bytes_per_second": RATE}
        await gateway.post(a_large_call_log("large"))
        began = time.monotonic()
        await endpoint.wait_until(lambda: any(one.key.endswith("-core") for one in endpoint.accepted))
        assert time.monotonic() - began < SLOWLY / 2
        await until(lambda: is_sending(gateway), "the detail is on its way")
        assert not any(one.key.endswith("-detail") for one in endpoint.arrivals)
        await gateway.post({"call_id": "live", "wcall_event": "call_ended", "agent_id": "a"})
        await endpoint.wait_until(lambda: any(one.key.endswith("-detail") for one in endpoint.accepted))
        assert time.monotonic() - began < SLOWLY
        assert not (await gateway.status())["drain_throttle"]["throttled"]


async def is_sending(gateway: GatewayProcess) -> bool:
    """Whether a detail is under way."""
    lanes = (await gateway.destination())["lanes"]
    return any(lane["lane"] == "detail" and lane["in_flight"] for lane in lanes)
