"""Gateways whose endpoint is an intake of their own, directly or by others: none takes its own word for a delivery."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

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


def ring(folder: Path, kind: str, gateways: int) -> list[GatewayProcess]:
    """So many gateways, each of which delivers to the next one, and the last one to the first."""
    made = [
        GatewayProcess(folder / f"gateway-{number}", {"CALLSPOOL_CONFIG": str(folder / f"{number}.toml")})
        for number in range(gateways)
    ]
    for number, following in enumerate([*made[1:], made[0]]):
        (folder / f"{number}.toml").write_text(f"""
            [split]
            two_phase_raw_threshold = "100KB"
            [[destinations]]
            name = "endpoint"
            url = "{following.intake_url}/dev/send-call-log"
            {DESTINATIONS[kind]}
        """)
    return made


def counted(destination: Any, what: str) -> int:
    """A count of both lanes together."""
    return sum(lane[what] for lane in destination["lanes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "gateways"),
    [
        *((kind, 1) for kind in DESTINATIONS),
        ("two phases", 2),
        ("upload addresses", 2),
        pytest.param("upload addresses for large ones", 3, marks=pytest.mark.prove),
    ],
)
async def test_what_comes_back_stays_in_the_spool(tmp_path: Path, kind: str, gateways: int) -> None:
    """The gateway that would close the ring keeps everything: nothing is delivered or dead, and it says why.

    Those before it delivered each form once, to one that has it; nothing circulates.
    """
    async with AsyncExitStack() as stack:
        row = ring(tmp_path, kind, gateways)
        for gateway in row:
            await stack.enter_async_context(gateway)
        for call_log in (SMALL, LARGE):
            assert (await row[0].post(call_log)).status == 202

        async def told() -> bool:
            last, before = await row[-1].destination(), [await gateway.destination() for gateway in row[:-1]]
            kept = not last["up"] and "508" in last["reason"] and counted(last, "queued") >= 2
            return kept and not any(counted(destination, "queued") for destination in before)

        await until(told, "all of it is kept where the ring closes")
        last, before = await row[-1].destination(), [await gateway.destination() for gateway in row[:-1]]
        assert not counted(last, "dead") + counted(last, "delivered")
        assert {destination["up"] for destination in before} <= {True}
        assert not any(counted(destination, "dead") for destination in before)
        owed = counted(last, "queued")
        assert [counted(destination, "delivered") for destination in before] == [owed] * (gateways - 1)
        assert {call_id: len(await row[0].trace(call_id)) for call_id in ("small", "large")} == {"small": 1, "large": 1}
        assert all("database_corrupt" not in gateway.log for gateway in row)
