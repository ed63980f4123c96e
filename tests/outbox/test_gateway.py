"""A gateway that is told of an outbox: what lies there arrives at the endpoint, also when both stop at once."""

import asyncio
import time
from pathlib import Path

import psutil
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


async def test_a_reader_that_hangs_does_not_keep_the_gateway_from_ending(tmp_path: Path) -> None:
    """SIGTERM ends the gateway in time, and the process that was stuck with an outbox is gone with it."""
    outbox = tmp_path / "outbox.db"
    write(outbox, payload=FULL, status="in_progress", claimed_at=9e9)
    settings = {
        "CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/",
        "CALLSPOOL_WHISPEY_OUTBOX": str(outbox),
        "CALLSPOOL_WHISPEY_OUTBOX_INTERVAL": "0.2s",
        "CALLSPOOL_SHUTDOWN_QUIET": "0",
        "CALLSPOOL_SHUTDOWN_DEADLINE": "1s",
    }
    async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
        stuck = await suspended_reader(gateway, outbox)
        gateway.terminate()
        assert await gateway.ended(deadline=15.0) == 0
        assert not stuck.is_running()


async def suspended_reader(gateway: GatewayProcess, outbox: Path) -> psutil.Process:
    """A process that reads the outbox, stopped in the middle of its work: each write to the file starts another."""
    found: list[psutil.Process] = []

    async def suspended() -> bool:
        write(outbox, payload=FULL, status="in_progress", claimed_at=9e9)
        deadline = time.monotonic() + 0.5
        while not found and time.monotonic() < deadline:
            found.extend(each for each in psutil.Process(gateway.process.pid).children() if reads_an_outbox(each))
            await asyncio.sleep(0)
        for each in found:
            each.suspend()
        return bool(found)

    await until(suspended, "a reader is stopped")
    return found[0]


def reads_an_outbox(process: psutil.Process) -> bool:
    try:
        return "gateway.sdk_outbox.reader_main" in process.cmdline()
    except psutil.Error:
        return False


async def arrived(endpoint: Endpoint, call_id: str) -> bool:
    return call_id in {arrival.call_id for arrival in endpoint.accepted}


async def outboxes_are(gateway: GatewayProcess, *expected: tuple[str, int]) -> bool:
    return [(one["state"], one["rescued"]) for one in (await gateway.status())["outboxes"]] == list(expected)


async def test_a_spool_that_is_opened_anew_has_one_watch(tmp_path: Path) -> None:
    """Whoever watched for the spool before it would claim rows that it can put nowhere."""
    outbox = tmp_path / "outbox.db"
    settings = {
        "CALLSPOOL_ENDPOINT_URL": "http://127.0.0.1:9/",
        "CALLSPOOL_WHISPEY_OUTBOX": str(outbox),
        "CALLSPOOL_WHISPEY_OUTBOX_INTERVAL": "0.2s",
    }
    async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
        assert (await gateway.post({"call_id": "call-1"})).status == 202
        log = gateway.spool / "spool.db-wal"
        log.unlink()

        async def opened_anew() -> bool:
            return (await gateway.post({"call_id": "call-2"})).status == 202 and log.exists()

        await until(opened_anew, "the spool was opened anew")
        for _ in range(3):
            outbox.symlink_to("elsewhere")
            await until(lambda: outboxes_are(gateway, ("unusable", 0)), "a link is no outbox")
            outbox.unlink()
            await until(lambda: outboxes_are(gateway, ("missing", 0)), "it is gone")
        assert len(gateway.events("outbox_not_taken")) == 3
