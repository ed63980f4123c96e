"""Details that an endpoint refuses as too large, and that a real bucket takes: at once, and through a kill."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.endpoint import Endpoint
from bench.s3_server import Server
from tests.s3.recording_proxy import Fate, proxy_before
from tests.s3.stored_objects import Stored, objects, uploads
from tests.system.buckets import configured, members, post
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

LARGE = 6_000_000
HUGE = 22_000_000
"""Bytes as plain JSON: three parts of 8 MiB."""
TAKES_BYTES = 900_000
HELD = {2, 3}
DEADLINE_SECONDS = 60


def settings(endpoint: Endpoint, bucket: str, server: str, more: str = "") -> str:
    return f"""
        [[destinations]]
        name = "dashboard"
        type = "http"
        url = "{endpoint.url}"
        when_too_large = ["s3"]
        max_request_bytes = "100MB"
        [[destinations]]
        name = "details"
        type = "s3"
        bucket = "{bucket}"
        endpoint_url = "{server}"
        notify = "dashboard"
        {more}
    """


async def assert_moved_on(gateway: GatewayProcess, endpoint: Endpoint, posted: bytes, found: Sequence[Stored]) -> None:
    """The detail is in the bucket, its notice at the endpoint, and what was refused counts as diverted, once."""
    (detail,) = found
    core, notice = (members(endpoint.documents[arrival.key]) for arrival in endpoint.accepted)
    assert [arrival.kind for arrival in endpoint.accepted] == ["core", "notice"]
    kept = members(detail.document)
    assert kept.pop("update_type") == "detailed_telemetry"
    assert {name: core[name] for name in core if name in members(posted)} | kept == members(posted)
    assert (notice["s3_key"], notice["call_id"]) == (detail.key, core["call_id"])
    (record,) = await gateway.trace(core["call_id"])
    assert {(each["destination"], each["form"], each["state"]) for each in record["deliveries"]} == {
        ("dashboard", "core", "delivered"),
        ("dashboard", "notice", "delivered"),
        ("details", "detail", "delivered"),
    }
    assert (record["stage"], record["detail_sent_at"] is not None) == ("delivered", True)
    assert await gateway.metric("callspool_unaccounted_records") == 0
    assert refused(endpoint) == 1


def refused(endpoint: Endpoint) -> int:
    """How often a detail came to the endpoint."""
    return sum(headers["Idempotency-Key"].endswith("-detail") for headers in endpoint.headers)


def outcomes(destination: str, lane: str, outcome: str) -> str:
    return f'callspool_deliveries_total{{destination="{destination}",lane="{lane}",outcome="{outcome}"}}'


async def test_a_refused_detail_goes_into_the_bucket(tmp_path: Path, weed: Server, bucket: str) -> None:
    """The endpoint gets core and notice, the bucket the detail; nothing that was refused counts as delivered."""
    async with (
        Endpoint(max_request_bytes=TAKES_BYTES) as endpoint,
        configured(tmp_path, settings(endpoint, bucket, weed.endpoint)) as gateway,
    ):
        posted, _ = await post(gateway, "call-large", LARGE)
        await gateway.delivered()
        await assert_moved_on(gateway, endpoint, posted, await objects(weed, bucket))
        assert await gateway.metric(outcomes("dashboard", "detail", "diverted")) == 1
        assert await gateway.metric(outcomes("details", "detail", "delivered")) == 1
        assert await no_such_metric(gateway, outcomes("dashboard", "detail", "delivered"))
        by_lane = {each["lane"]: each for each in await lanes(gateway, "dashboard")}
    assert (by_lane["detail"]["queued"], by_lane["detail"]["delivered"]) == (0, 0)


@pytest.mark.prove
async def test_a_kill_in_the_middle_of_the_upload_changes_nothing_of_it(
    tmp_path: Path, weed: Server, bucket: str
) -> None:
    """After its start the gateway goes on with the missing parts, and asks the endpoint for the detail no more."""
    async with proxy_before(weed.port) as proxy, Endpoint(max_request_bytes=TAKES_BYTES) as endpoint:
        proxy.decide = lambda request: Fate.HOLD_BODY if request.part in HELD else Fate.PASS
        text = settings(endpoint, bucket, proxy.endpoint, 'encoding = "plain"')
        async with configured(tmp_path, text) as gateway:
            posted, _ = await post(gateway, "call-huge", HUGE)
            for _ in HELD:
                await asyncio.wait_for(proxy.held.get(), DEADLINE_SECONDS)
            await until(lambda: a_part_arrived(gateway), "the part before is remembered", deadline=DEADLINE_SECONDS)
            await gateway.kill()
            proxy.requests.clear()
            proxy.decide = lambda _: Fate.PASS
            await gateway.start()
            await gateway.delivered(deadline=DEADLINE_SECONDS)
            assert set(proxy.parts) == HELD
            await assert_moved_on(gateway, endpoint, posted, await objects(weed, bucket))
    assert await uploads(weed, bucket) == []


async def a_part_arrived(gateway: GatewayProcess) -> bool:
    """Whether a part is at the server, and the gateway knows of it."""
    name = 'callspool_upload_parts_total{destination="details",result="sent"}'
    return not await no_such_metric(gateway, name)


async def no_such_metric(gateway: GatewayProcess, name: str) -> bool:
    """Whether it never counted."""
    try:
        return await gateway.metric(name) == 0
    except ValueError:
        return True


async def lanes(gateway: GatewayProcess, name: str) -> Any:
    (found,) = [each for each in (await gateway.status())["destinations"] if each["name"] == name]
    return found["lanes"]
