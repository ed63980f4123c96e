"""Details that an endpoint refuses as too large: what goes on, what is kept, and that all of it is accounted for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from tests.system.acknowledged import Acknowledged, acknowledged, assert_arrived
from tests.system.gateway_process import GatewayProcess
from tests.system.waiting import until

LARGE = 6_000_000
TAKES_BYTES = 900_000


class Refusing(Endpoint):
    """Takes so much, and answers what is larger with this status."""

    status = 413

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        answer = await super()._receive(request)
        if answer.status == 413 and self.status != 413:
            return web.json_response({"message": "Request Entity Too Large"}, status=self.status)
        return answer


def an_endpoint(status: int) -> Refusing:
    endpoint = Refusing(max_request_bytes=TAKES_BYTES)
    endpoint.status = status
    return endpoint


def a_gateway(folder: Path, endpoint: Endpoint, settings: str = "") -> GatewayProcess:
    table = f"""
        [[destinations]]
        name = "endpoint"
        type = "http"
        url = "{endpoint.url}"
        {settings}
    """
    return GatewayProcess(folder / "gateway", settings=table)


async def post(gateway: GatewayProcess, call_id: str, size: int = LARGE) -> Acknowledged:
    body = make_call_log(size, seed=len(call_id), call_id=call_id)
    return acknowledged(body, await gateway.post(body))


async def deliveries(gateway: GatewayProcess, call_id: str) -> Mapping[str, Any]:
    (record,) = await gateway.trace(call_id)
    return {each["form"]: each for each in record["deliveries"]}


async def assert_accounted(gateway: GatewayProcess) -> None:
    assert await gateway.metric("callspool_unaccounted_records") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "settings", "policy"),
    [
        (413, 'when_too_large = ["critical"]', "critical"),
        (500, 'when_too_large = ["top_n"]\ntop_n = 3', "top_n"),
        (413, f'when_too_large = ["top_n"]\ntop_n = 3\nmax_request_bytes = {TAKES_BYTES}', "top_n"),
    ],
)
async def test_a_reduced_detail_goes_and_the_full_one_stays(
    tmp_path: Path, status: int, settings: str, policy: str
) -> None:
    """Where reduction is allowed the endpoint gets the reduced detail, and the full one is kept as a dead letter."""
    async with an_endpoint(status) as endpoint, a_gateway(tmp_path, endpoint, settings) as gateway:
        posted = await post(gateway, "large")
        await gateway.delivered()
        reduced = json.loads(endpoint.documents[f"{posted.uid}-reduced"])
        assert (reduced["call_id"], reduced["update_type"]) == ("large", "detailed_telemetry")
        assert reduced["reduced"]["policy"] == policy
        assert 0 < reduced["reduced"]["kept"] < reduced["reduced"]["total"]
        found = await deliveries(gateway, "large")
        assert {form: each["state"] for form, each in found.items()} == {
            "core": "delivered", "detail": "dead", "reduced": "delivered",
        }  # fmt: skip
        assert (await gateway.destination())["dead"] == 1
        await assert_accounted(gateway)
        assert await gateway.hurry() == 0
        endpoint.max_request_bytes = 64_000_000
        await gateway.start()
        await assert_accounted(gateway)
        assert (await deliveries(gateway, "large"))["detail"]["state"] == "dead"


@pytest.mark.parametrize("status", [413, 500])
async def test_without_a_way_on_the_reason_says_what_to_configure(tmp_path: Path, status: int) -> None:
    """Nothing is reduced that nobody allowed: a dead letter that keeps its payload, and others go on."""
    async with an_endpoint(status) as endpoint, a_gateway(tmp_path, endpoint) as gateway:
        await post(gateway, "large")
        small = await post(gateway, "small", 2_000)
        await gateway.delivered()
        detail = (await deliveries(gateway, "large"))["detail"]
        assert detail["state"] == "dead"
        assert "when_too_large" in detail["error"]
        assert_arrived(endpoint, small)
        assert [arrival.kind for arrival in endpoint.accepted if arrival.call_id == "large"] == ["core"]
        await assert_accounted(gateway)


@pytest.mark.slow
async def test_a_reduced_detail_that_is_too_large_is_one_more_dead_letter(tmp_path: Path) -> None:
    """The fallbacks end: both stay, with their reasons, and nothing counts as delivered but the core."""
    settings = f'when_too_large = ["top_n"]\ntop_n = 100000\nmax_request_bytes = {TAKES_BYTES}'
    async with an_endpoint(413) as endpoint, a_gateway(tmp_path, endpoint, settings) as gateway:
        await post(gateway, "large")
        await until(lambda: _dead(gateway, 2), "both are dead letters")
        found = await deliveries(gateway, "large")
        assert {form: each["state"] for form, each in found.items()} == {
            "core": "delivered", "detail": "dead", "reduced": "dead",
        }  # fmt: skip
        await assert_accounted(gateway)


async def test_a_refused_call_log_is_uploaded_where_that_is_allowed(tmp_path: Path) -> None:
    """The whole takes the place of the detail, which is owed no more: no dead letter, and all is delivered."""
    settings = 'when_too_large = ["presigned", "critical"]'
    async with an_endpoint(413) as endpoint, a_gateway(tmp_path, endpoint, settings) as gateway:
        await post(gateway, "large")
        await gateway.delivered()
        found = await deliveries(gateway, "large")
        assert {form: each["state"] for form, each in found.items()} == {"core": "delivered", "whole": "delivered"}
        (record,) = await gateway.trace("large")
        assert (record["stage"], record["detail_sent_at"] is not None) == ("delivered", True)
        await assert_accounted(gateway)
        (whole,) = endpoint.storage.objects.values()
    assert json.loads(whole)["call_id"] == "large"
    assert len(whole) > TAKES_BYTES


async def _dead(gateway: GatewayProcess, count: int) -> bool:
    return bool((await gateway.destination())["dead"] == count)


@pytest.mark.parametrize(
    ("settings", "forms"),
    [('detail = "none"', {"core"}), ('detail = "critical"', {"core", "reduced"}), ("top_n = 1", {"core", "detail"})],
)
async def test_what_is_sent_of_details_can_be_set_for_good(tmp_path: Path, settings: str, forms: set[str]) -> None:
    """Without details only the core is owed; reduced ones end the record without a dead letter."""
    async with Endpoint() as endpoint, a_gateway(tmp_path, endpoint, settings) as gateway:
        posted = await post(gateway, "large")
        await gateway.delivered()
        assert set(endpoint.documents) == {f"{posted.uid}-{form}" for form in forms}
        (record,) = await gateway.trace("large")
        assert record["stage"] == "delivered"
        await assert_accounted(gateway)
