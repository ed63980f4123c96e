"""Endpoints that fail: nothing is lost, nothing is sent when the endpoint asked for quiet, the cores come first."""

from pathlib import Path

import pytest

from bench.calllogs import make_call_log
from bench.endpoint import Arrival, Endpoint, Fault
from tests.system.acknowledged import Acknowledged, acknowledged, assert_arrived
from tests.system.gateway_process import GatewayProcess, ReservedPort
from tests.system.waiting import until

SMALL, LARGE = 2_000, 6_000_000
DETAIL_SLOTS = 2
QUIET_SECONDS = 3
SOON_SECONDS = 8.0
FAULTS = (
    Fault("hang", times=1),
    Fault("reset", times=2),
    Fault("status", status=503, times=2),
    Fault("success_false", times=2),
)


def a_gateway(folder: Path, endpoint: Endpoint, *, patience: str = "30s") -> GatewayProcess:
    """It waits so long for an answer, and tenths of seconds after a failure."""
    settings = f"""
        [[destinations]]
        name = "endpoint"
        type = "http"
        url = "{endpoint.url}"
        total_timeout = "{patience}"
        retry = {{ initial = "0.2s", max = "0.5s" }}
    """
    return GatewayProcess(folder / "gateway", settings=settings)


async def post(gateway: GatewayProcess, call_id: str, size: int = SMALL, token: str = "agents-key") -> Acknowledged:
    body = make_call_log(size, seed=len(call_id), call_id=call_id)
    return acknowledged(body, await gateway.post(body, headers={"x-pype-token": token}))


@pytest.mark.slow
async def test_an_outage_costs_no_call_log_and_its_end_no_waiting(tmp_path: Path) -> None:
    """Closed port, then 500s, then 429: all arrives soon after Retry-After and none before, the core lane first."""
    port = ReservedPort()
    endpoint = Endpoint(port=port.number)
    async with a_gateway(tmp_path, endpoint) as gateway:
        posted = [await post(gateway, f"large-{number}", LARGE) for number in range(5)]
        posted += [await post(gateway, f"small-{number}") for number in range(30)]
        await until(lambda: is_down(gateway), "the closed port is noticed")
        assert {each["attempts"] for each in (await gateway.trace("large-0"))[0]["deliveries"]} == {0}
        endpoint.set_fault(Fault("status", 500))
        async with endpoint:
            await endpoint.wait_until(lambda: len(endpoint.arrivals) >= 8)
            quiet = Fault("status", 429, retry_after=str(QUIET_SECONDS), times=1)
            endpoint.set_fault(quiet)
            await endpoint.wait_until(lambda: any(arrival.status == 429 for arrival in endpoint.arrivals))
            posted.append(await post(gateway, "during-the-quiet"))
            await endpoint.wait_for(len({key for one in posted for key in one.keys}), deadline=30)
            await gateway.delivered()
        assert {one["attempts"] for one in (await gateway.trace("during-the-quiet"))[0]["deliveries"]} == {0}
    port.close()
    for one in posted:
        assert_arrived(endpoint, one)
    assert_quiet_was_kept(endpoint.arrivals)


def assert_quiet_was_kept(arrivals: list[Arrival]) -> None:
    """After the 429 nothing until its time; then a core at once, cores before details, and soon all of it."""
    (refused,) = [number for number, arrival in enumerate(arrivals) if arrival.status == 429]
    later = arrivals[refused + 1 :]
    end = arrivals[refused].at + QUIET_SECONDS
    assert {arrival.status for arrival in later} == {200}
    assert len({arrival.key for arrival in later}) == len(later)
    assert min(arrival.at for arrival in later) >= end
    assert max(arrival.at for arrival in later) <= end + SOON_SECONDS
    kinds = [arrival.kind for arrival in later]
    assert kinds[0] in {"core", "whole"}
    last_core = max(number for number, kind in enumerate(kinds) if kind != "detail")
    assert kinds[:last_core].count("detail") <= DETAIL_SLOTS


async def is_down(gateway: GatewayProcess) -> bool:
    return not (await gateway.destination())["up"]


@pytest.mark.slow
async def test_what_fails_for_a_while_is_sent_again(tmp_path: Path) -> None:
    """No answer, a cut connection, 503 and a 2xx that says `success: false` each delay a call log, and no more."""
    posted: list[Acknowledged] = []
    async with Endpoint() as endpoint, a_gateway(tmp_path, endpoint, patience="2s") as gateway:
        for fault in FAULTS:
            endpoint.set_fault(fault)
            posted.append(await post(gateway, f"small-{fault.kind}"))
            posted.append(await post(gateway, f"large-{fault.kind}", LARGE))
            await gateway.delivered()
            assert endpoint.fault == Fault(), f"{fault.kind} did not happen so often"
    for one in posted:
        assert_arrived(endpoint, one)
    assert not endpoint.conflicts


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """A redirect stops everything for that endpoint with a reason, after one request, and makes no dead letters."""
    async with Endpoint(fault=Fault("redirect")) as endpoint, a_gateway(tmp_path, endpoint) as gateway:
        for number in range(3):
            await post(gateway, f"call-{number}")
            await until(lambda: is_down(gateway), "the endpoint is paused")
        destination = await gateway.destination()
        assert "redirects to https://login.example/sso" in destination["reason"]
        assert "s3cr3t" not in destination["reason"] + gateway.log
        assert (destination["lanes"][0]["queued"], destination["dead"]) == (3, 0)
        assert [arrival.status for arrival in endpoint.arrivals] == [302]


async def test_a_refused_token_stops_its_own_deliveries_only(tmp_path: Path) -> None:
    """What an endpoint answers 401 to is held, loudly; other tokens pass, and a start after the repair delivers it."""
    async with Endpoint(token="good-token") as endpoint, a_gateway(tmp_path, endpoint) as gateway:
        held = [await post(gateway, f"bad-{number}", token="bad-token") for number in range(3)]
        passed = await post(gateway, "good", token="good-token")
        await endpoint.wait_for(1)
        await until(lambda: all_held(gateway, 3), "three deliveries are held")
        assert [arrival.call_id for arrival in endpoint.accepted] == ["good"]
        assert (await gateway.trace("bad-0"))[0]["stage"] == "held"
        assert await gateway.hurry() == 0
        endpoint.token = "bad-token"
        await gateway.start()
        await endpoint.wait_for(4)
        await gateway.delivered()
    for one in (*held, passed):
        assert_arrived(endpoint, one)


async def all_held(gateway: GatewayProcess, count: int) -> bool:
    core, _ = (await gateway.destination())["lanes"]
    return bool(core["held"] == count)
