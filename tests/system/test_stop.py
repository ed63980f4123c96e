"""How a gateway stops: it goes on for the agent that still talks, ends when it may, and leaves the rest for a start."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint, Fault
from tests.system.acknowledged import acknowledged, assert_arrived
from tests.system.gateway_process import GatewayProcess, ReservedPort

QUIET_SECONDS = 0.3
SLACK_SECONDS = 15.0
"""For what a stop does besides waiting, on a busy machine: far below the deadline that it must not wait for."""
STARTED = b'{"call_id": "call-1", "wcall_event": "call_started"}'
ENDED = make_call_log(2_000, seed=1, call_id="call-1")


def a_gateway(folder: Path, endpoint: Endpoint, *, deadline: float = 60) -> GatewayProcess:
    return GatewayProcess(
        folder / "gateway",
        {
            "CALLSPOOL_ENDPOINT_URL": endpoint.url,
            "CALLSPOOL_SHUTDOWN_QUIET": f"{QUIET_SECONDS}s",
            "CALLSPOOL_SHUTDOWN_DEADLINE": f"{deadline}s",
        },
    )


async def stopping(gateway: GatewayProcess) -> None:
    """Send SIGTERM, and wait until it says that it is stopping."""
    gateway.terminate()
    await gateway.until_ready(503)


async def test_a_stop_waits_for_an_open_call(tmp_path: Path) -> None:
    """Not ready at once, it still takes and delivers posts until the open call has ended, and stops early then."""
    async with Endpoint() as endpoint, a_gateway(tmp_path, endpoint) as gateway:
        assert (await gateway.post(STARTED)).status == 202
        await stopping(gateway)
        with pytest.raises(TimeoutError):
            await gateway.ended(deadline=3 * QUIET_SECONDS)
        ended = acknowledged(ENDED, await gateway.post(ENDED))
        assert await gateway.ended(deadline=QUIET_SECONDS + SLACK_SECONDS) == 0
        assert [arrival.call_id for arrival in endpoint.accepted] == ["call-1", "call-1"]
    assert_arrived(endpoint, ended)
    assert gateway.events("drained")[0]["left_in_spool"] == 0


async def test_a_stop_ends_at_its_deadline(tmp_path: Path) -> None:
    """A call that never ends is waited for until the deadline, not longer."""
    async with Endpoint() as endpoint, a_gateway(tmp_path, endpoint, deadline=3) as gateway:
        await gateway.post(STARTED)
        gateway.terminate()
        with pytest.raises(TimeoutError):
            await gateway.ended(deadline=3 * QUIET_SECONDS)
        assert await gateway.ended(deadline=3 + SLACK_SECONDS) == 0


async def test_a_second_signal_ends_a_stop_at_once(tmp_path: Path) -> None:
    """It does not wait for the open call then, nor for a delivery under way, which the next start makes again."""
    async with Endpoint(fault=Fault("hang")) as endpoint, a_gateway(tmp_path, endpoint) as gateway:
        started = acknowledged(STARTED, await gateway.post(STARTED))
        await endpoint.wait_until(lambda: len(endpoint.headers) == 1)
        await stopping(gateway)
        gateway.terminate()
        assert await gateway.ended(deadline=SLACK_SECONDS) == 0
        assert gateway.events("drained")[0]["left_in_spool"] == 1
        endpoint.set_fault(Fault())
        await gateway.start()
        await endpoint.wait_for(1)
        assert endpoint.headers[0]["Idempotency-Key"] == endpoint.headers[1]["Idempotency-Key"] == started.keys[0]


async def test_what_is_left_is_delivered_by_the_next_start(tmp_path: Path) -> None:
    """A stop does not wait for an endpoint that is down; what it has for it is delivered after the next start."""
    port = ReservedPort()
    endpoint = Endpoint(port=port.number)
    large = make_call_log(6_000_000, seed=2, call_id="call-2")
    async with a_gateway(tmp_path, endpoint) as gateway:
        posted = [acknowledged(body, await gateway.post(body)) for body in (ENDED, large)]
        gateway.terminate()
        assert await gateway.ended(deadline=QUIET_SECONDS + SLACK_SECONDS) == 0
        assert gateway.events("drained")[0]["left_in_spool"] == 3
        async with endpoint:
            await gateway.start()
            await endpoint.wait_for(3)
            await gateway.delivered()
    port.close()
    for one in posted:
        assert_arrived(endpoint, one)


async def test_a_successor_waits_for_the_gateway_that_stops(tmp_path: Path) -> None:
    """Started on the same spool while another one still stops, it takes over as soon as that one has ended."""
    async with Endpoint() as endpoint, a_gateway(tmp_path, endpoint) as old, AsyncExitStack() as cleanup:
        successor = GatewayProcess(tmp_path / "new", old.environment | {"CALLSPOOL_SPOOL_DIR": str(old.spool)})
        cleanup.push_async_exit(successor)
        await old.post(STARTED)
        await stopping(old)
        await successor.spawn()
        await successor.until_ready(503)
        await old.post(ENDED)
        assert await old.ended() == 0
        await successor.until_ready()
        repeated = await successor.post(ENDED)
        assert repeated.json["duplicate"] is True


STANDBY = """
[shutdown]
until = "empty"
evacuate_to = "evacuation"
evacuate_within = "{within}"
deadline = "{deadline}"
quiet = "0.1s"
[[destinations]]
name = "endpoint"
type = "http"
url = "{url}"
[[destinations]]
name = "evacuation"
type = "file"
path = "evacuated"
standby = true
"""


async def test_a_stop_evacuates_what_its_endpoint_does_not_take(tmp_path: Path) -> None:
    """At the deadline everything that is queued goes to the destination on standby, which got nothing before: the
    volume may be deleted then. It holds the documents that were owed; posted to another gateway, they arrive."""
    port, file = ReservedPort(), tmp_path / "callspool.toml"
    endpoint = Endpoint(port=port.number)
    file.write_text(STANDBY.format(url=endpoint.url, within="20s", deadline="23s"))
    large = make_call_log(6_000_000, seed=2, call_id="call-2")
    async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(file)}) as gateway:
        for body in (ENDED, large):
            assert (await gateway.post(body)).status == 202
        gateway.terminate()
        assert await gateway.ended(deadline=25 + SLACK_SECONDS) == 0
        assert gateway.events("evacuating")[0]["deliveries"] == 3
        assert gateway.events("drained")[0]["left_in_spool"] == 0
        files = sorted((gateway.folder / "evacuated").glob("*/*/*"), key=lambda path: (".detail" in path.name, path))
        assert "evacuation: " in gateway.log
    async with endpoint, GatewayProcess(tmp_path / "other", {"CALLSPOOL_ENDPOINT_URL": endpoint.url}) as other:
        intake = other.intake_url.removeprefix("http://")
        await other.command("post", *map(str, files), "--intake", intake)
        await endpoint.wait_for(3)
        await other.delivered()
    port.close()
    kinds = [(arrival.call_id, arrival.kind) for arrival in endpoint.accepted]
    assert sorted(kinds) == [("call-1", "whole"), ("call-2", "core"), ("call-2", "detail")]


async def test_a_stop_during_a_reload_evacuates_too(tmp_path: Path) -> None:
    """A reload waits for a delivery that hangs. Told to stop, it waits no longer, and what is queued is evacuated."""
    file = tmp_path / "callspool.toml"
    async with Endpoint(fault=Fault("hang")) as endpoint:
        text = STANDBY.format(url=endpoint.url, within="10s", deadline="13s")
        file.write_text(text)
        async with GatewayProcess(tmp_path / "gateway", {"CALLSPOOL_CONFIG": str(file)}) as gateway:
            assert (await gateway.post(ENDED)).status == 202
            file.write_text(text.replace('quiet = "0.1s"', 'quiet = "0.2s"'))
            assert b"being applied" in await gateway.command("reload", *gateway.admin)
            gateway.terminate()
            assert await gateway.ended(deadline=15 + SLACK_SECONDS) == 0
            assert gateway.events("evacuating")[0]["deliveries"] == 1
            assert gateway.events("drained")[0]["left_in_spool"] == 0


async def test_a_stop_may_wait_for_details(tmp_path: Path) -> None:
    """With `until = "empty"` the last detail is delivered too, where its endpoint is slow to take it."""
    async with Endpoint() as endpoint:
        gateway = a_gateway(tmp_path, endpoint)
        gateway.environment["CALLSPOOL_SHUTDOWN_UNTIL"] = "empty"
        endpoint.set_fault(Fault("status", status=500))
        async with gateway:
            assert (await gateway.post(make_call_log(6_000_000, seed=2, call_id="call-2"))).status == 202
            await stopping(gateway)
            endpoint.set_fault(Fault())
            assert await gateway.ended(deadline=SLACK_SECONDS) == 0
        assert gateway.events("drained")[-1]["left_in_spool"] == 0
