"""A gateway that is told of an outbox: what lies there arrives at the endpoint, also when both stop at once."""

from pathlib import Path

import pytest

from bench.endpoint import Endpoint
from tests.outbox.sdk import KEY, rows, write
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

pytestmark = pytest.mark.slow

FULL = {"call_id": "call-1", "wcall_event": "call_ended", "telemetry_data": {}}


async def test_rows_arrive_at_the_endpoint_with_their_key(tmp_path: Path) -> None:
    """Rows that lie there at the start are delivered, those of the last moment are taken at the stop."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL)
    async with Endpoint(token=KEY) as endpoint:
        settings = {
            "CALLSPOOL_ENDPOINT_URL": endpoint.url,
            "CALLSPOOL_WHISPEY_OUTBOX": f"{outbox}:{tmp_path / 'none.db'}",
            "CALLSPOOL_WHISPEY_OUTBOX_INTERVAL": "1h",
            "CALLSPOOL_SHUTDOWN_QUIET": "0",
        }
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            await endpoint.wait_for(1)
            await until(lambda: outboxes_are(gateway, ("watched", 1), ("missing", 0)), "the row is told of as rescued")
            write(outbox, payload={**FULL, "call_id": "call-2"})
            gateway.terminate()
            assert await gateway.ended() == 0
            assert rows(outbox) == []
            await gateway.start()
            await until(lambda: arrived(endpoint, "call-2"), "the last row has arrived")
    assert {arrival.token for arrival in endpoint.accepted} == {KEY}


async def arrived(endpoint: Endpoint, call_id: str) -> bool:
    return call_id in {arrival.call_id for arrival in endpoint.accepted}


async def outboxes_are(gateway: GatewayProcess, *expected: tuple[str, int]) -> bool:
    return [(one["state"], one["rescued"]) for one in (await gateway.status())["outboxes"]] == list(expected)
