"""The order to try a destination at once, and what is told of breakers and live calls, over a real socket."""

from dataclasses import replace

import pytest
from pytest_aiohttp import AiohttpClient

from gateway.admin.status import short_reason
from gateway.live_calls import ThrottleStatus
from tests.admin.admin_app import ENDPOINT_DOWN, AdminFigures

JSON = {"Content-Type": "application/json"}


def path(destination: str) -> str:
    return f"/api/destinations/{destination}/resume"


@pytest.mark.parametrize(("destination", "waited"), [("endpoint", True), ("local", False)])
async def test_a_destination_is_tried_at_the_order(
    aiohttp_client: AiohttpClient, destination: str, waited: bool
) -> None:
    """The order reaches the dispatcher, and its answer says whether there was anything to end."""
    world = AdminFigures()
    answer = await (await aiohttp_client(world.app)).post(path(destination), data="{}", headers=JSON)
    assert answer.status == 200
    assert await answer.json() == {"destination": destination, "waited": waited}
    assert world.resumed == [destination]


@pytest.mark.parametrize(("name", "hint"), [("endpiont", "Did you mean endpoint?"), ("bucket", "endpoint, local")])
async def test_an_unknown_destination_is_told_with_the_right_ones(
    aiohttp_client: AiohttpClient, name: str, hint: str
) -> None:
    """A mistyped name is a 404 that names the one that was meant, or all that there are."""
    answer = await (await aiohttp_client(AdminFigures().app)).post(path(name), data="{}", headers=JSON)
    assert answer.status == 404
    error = (await answer.json())["error"]
    assert error["code"] == "unknown_destination"
    assert hint in error["hint"]


async def test_an_order_needs_an_open_spool(aiohttp_client: AiohttpClient) -> None:
    """While the gateway starts, the answer says when to ask again."""
    answer = await (await aiohttp_client(AdminFigures(stats=None).app)).post(path("endpoint"), data="{}", headers=JSON)
    assert answer.status == 503


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        (JSON, 401),
        (JSON | {"Authorization": "Bearer wrong"}, 401),
        (JSON | {"Authorization": "Bearer s3cret", "Origin": "https://evil.example"}, 403),
        (JSON | {"Authorization": "Bearer s3cret"}, 200),
    ],
)
async def test_only_who_may_give_orders_may_give_this_one(
    aiohttp_client: AiohttpClient, headers: dict[str, str], status: int
) -> None:
    """The order is protected as all orders are."""
    world = AdminFigures(token="s3cret")
    answer = await (await aiohttp_client(world.app)).post(path("endpoint"), data=b"{}", headers=headers)
    assert answer.status == status
    assert bool(world.resumed) is (status == 200)


async def test_status_and_metrics_tell_of_the_breaker(aiohttp_client: AiohttpClient) -> None:
    """Its state, its reason, since when, and how many attempts the destination bears."""
    down = replace(ENDPOINT_DOWN, reason='HTTP 503: {"request": "a-1"}', refused_tokens=2)
    client = await aiohttp_client(AdminFigures(destinations=(down,)).app)
    report = (await (await client.get("/api/status")).json())["destinations"][0]
    assert (report["breaker"], report["since"]) == ("open", "2025-12-31T23:59:00.000Z")
    assert (report["refused_tokens"], [lane["concurrency"] for lane in report["lanes"]]) == (2, [8, 2])
    metrics = await (await client.get("/metrics")).text()
    for line in (
        'callspool_breaker_state{destination="endpoint",state="open"} 1.0',
        'callspool_breaker_state{destination="endpoint",state="closed"} 0.0',
        'callspool_breaker_open_since_seconds{destination="endpoint",reason="HTTP 503"} 1.76722554e+09',
        'callspool_refused_tokens{destination="endpoint"} 2.0',
        'callspool_concurrency{destination="endpoint",lane="core"} 8.0',
    ):
        assert line in metrics


async def test_status_and_metrics_tell_of_live_calls(aiohttp_client: AiohttpClient) -> None:
    """How many there are, and that details are held back for them."""
    world = AdminFigures(throttle=ThrottleStatus(live_calls=3, slowed=True, rate=262_144.0))
    client = await aiohttp_client(world.app)
    told = (await (await client.get("/api/status")).json())["drain_throttle"]
    assert told == {"live_calls": 3, "throttled": True, "bytes_per_second": 262_144.0}
    metrics = await (await client.get("/metrics")).text()
    assert "callspool_live_calls 3.0" in metrics
    assert "callspool_drain_throttled 1.0" in metrics


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("HTTP 503: <html>request 4711</html>", "HTTP 503"),
        ("HTTP 302 redirects to https://host/path: moved", "HTTP 302 redirects to https://host/path"),
        ("given up after 24.0 h: HTTP 500: no +1 555 0100", "given up after 24.0 h: HTTP 500"),
        ("upload: HTTP 403 AccessDenied: not for call-7", "upload: HTTP 403 AccessDenied"),
        ("PutObject: AccessDenied: User: arn may not put arn:aws:s3:::b/call-7 (advice)", "PutObject: AccessDenied"),
        ("given up after 2 h: HeadObject: HTTP 500: call-7", "given up after 2 h: HeadObject: HTTP 500"),
        ("PutObject: SlowDown (advice)",) * 2,
        ("object s3://b/call-7.zst holds no call log", "object"),
        ("the object at s3://b/call-7.zst does not match what was sent", "the object"),
        ("cannot connect: Connection refused (ConnectionRefusedError)",) * 2,
        ("no connection within 10 s (connect_timeout)",) * 2,
        ("cannot reach https://user:pw@host", "cannot reach https://***@host"),
    ],
)
def test_a_reason_is_a_label_without_what_changes_in_every_answer(reason: str, label: str) -> None:
    """No series for each body that an endpoint invents, and no secret."""
    assert short_reason(reason) == label
