"""Tests of what operators see and order: dead letters by reason, destinations, settings. Rendered by the server."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from pytest_aiohttp import AiohttpClient

from gateway.admin.page.layout import REFRESH_HEADER
from gateway.admin.permissions import Role
from gateway.admin.view import Lifecycle, Phase, SettingInForce
from gateway.operations.tenants import TenantAdmin
from gateway.tenants import UNASSIGNED, Tenant, TenantTable
from tests.admin.admin_app import (
    AUTHORIZED,
    ENDPOINT_DOWN,
    OTHER,
    AdminFigures,
    AskedSpoolAdmin,
    Client,
    spool_admin,
)
from tests.spool.spool_parts import CORE, DETAIL, ENDPOINT, WHOLE, a_record

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'


@pytest.fixture
async def admin(tmp_path: Path, aiohttp_client: AiohttpClient) -> AsyncIterator[AskedSpoolAdmin]:
    async with spool_admin(tmp_path, AskedSpoolAdmin) as made:
        made.client = await aiohttp_client(made.app)
        made.client.session.headers.update(AUTHORIZED)
        yield made


async def page_of(client: Client, path: str) -> str:
    answer = await client.get(path)
    assert answer.status == 200, await answer.text()
    return await answer.text()


async def test_dead_letters_stand_by_reason_with_what_helps(admin: AskedSpoolAdmin) -> None:
    """Groups by destination, form and kind, the largest first, each with advice and the order that it names."""
    for number in range(3):
        await admin.buried(f"refused-{number}", WHOLE, reason="HTTP 422: unknown agent")
    await admin.buried("large", reason="HTTP 413: Request Too Long; 14220118 bytes were sent; ")
    text = await page_of(admin.client, "/dead")
    titles = re.findall(r'<h2 id="group-[^"]*"><span class="bad">(\d+) </span>([^<]*)</h2>', text)
    assert titles == [("3", "Refused by the destination"), ("1", "Too large for the destination")]
    assert re.search(r'class="first" data-order="reroute" data-group="endpoint-core-too_large"', text)
    assert re.search(r'class="first" data-order="replay" data-group="endpoint-whole-refused"', text)
    assert "Fix what the response reports" in text
    assert "callspool dead list" in text
    assert "Of <b>bucket</b> alone" in await page_of(admin.client, "/dead?destination=bucket")


async def test_without_dead_letters_it_says_so(admin: AskedSpoolAdmin) -> None:
    """An empty page is an answer."""
    assert "No dead letters." in await page_of(admin.client, "/dead")


async def test_reasons_and_ids_are_shown_as_text(admin: AskedSpoolAdmin) -> None:
    """What an endpoint answered, and what an agent called its call, may be markup."""
    await admin.buried(HOSTILE, reason=f"HTTP 400: {HOSTILE}")
    text = await page_of(admin.client, "/dead")
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;img src=x" in text


async def test_an_order_takes_a_kind_or_what_is_named(admin: AskedSpoolAdmin) -> None:
    """A kind of reason selects, and so do keys; what has ended meanwhile is left out."""
    await admin.buried("one", WHOLE, reason="HTTP 422: no")
    await admin.buried("two", WHOLE, reason="HTTP 413: Request Too Long; 9 bytes were sent;")
    listed = (await admin.list())["deliveries"]
    keys = {each["call_id"]: each["key"] for each in listed}
    assert (await admin.order("replay", {"kind": "too_large"}, dry_run=True))["matched"] == 1
    assert [each["call_id"] for each in (await admin.list(kind="refused"))["deliveries"]] == ["one"]
    assert (await admin.order("replay", {"keys": [keys["two"]]}))["done"] == 1
    step = await admin.order("replay", {"states": ["dead"], "keys": [keys["one"], keys["two"]]})
    assert (step["matched"], step["done"], step["cursor"]) == (1, 1, None)


@pytest.mark.parametrize("select", [{"kind": "nice"}, {"keys": ["1f0c9d2e-7"]}, {"keys": ["1f0c9d2e-7/core/e"] * 201}])
async def test_what_selects_nothing_that_there_is_gets_an_answer(admin: AskedSpoolAdmin, select: object) -> None:
    """An unknown kind, and a key that names no delivery, are refused with what would be right."""
    answer = await admin.client.post("/api/orders/replay", json={"select": select})
    assert (answer.status, (await answer.json())["error"]["code"]) == (400, "bad_request")


async def test_a_dry_run_says_what_stays_and_what_goes_along(admin: AskedSpoolAdmin) -> None:
    """Of a reroute what the other one does not accept; of a replay and a discard what is held with a dead core."""
    await admin.buried("a", CORE, DETAIL, reason="HTTP 422: no")
    replay = await admin.order("replay", {}, dry_run=True)
    assert (replay["matched"], replay["left_out"], replay["along"], replay["done"]) == (1, 0, 1, 0)
    there = await admin.order("reroute", {"states": ["dead"]}, to=OTHER, dry_run=True)
    assert (there["matched"], there["left_out"], there["along"]) == (1, 0, 1)
    nowhere = await admin.order("reroute", {"states": ["dead"]}, to=ENDPOINT, dry_run=True)
    assert (nowhere["left_out"], nowhere["along"]) == (1, 0)
    assert (await admin.order("discard", {}, dry_run=True))["along"] == 1
    assert (await admin.order("discard", {}))["done"] == 2


async def test_a_destination_shows_its_last_errors_and_whose_tokens_it_refuses(
    admin: AskedSpoolAdmin, aiohttp_client: AiohttpClient
) -> None:
    """Breaker, attempts that failed, and agents whose deliveries are held; without a right to see calls none of it."""
    await admin.buried("dead-1", WHOLE, reason="HTTP 422: no such agent")
    world = AdminFigures(
        stats=admin.spool.stats(), destinations=(ENDPOINT_DOWN,), delivery_admin=admin.delivery_admin,
        spool=admin.spool, tokens={Role.READ: ("hush-hush-hush-hush",)},
    )  # fmt: skip
    client = await aiohttp_client(world.app)
    text = await (await client.get("/destinations", headers=AUTHORIZED)).text()
    assert "open: only single tries are made" in text
    assert re.search(r"<td>422</td><td class=.answer.>no such agent</td>", text)
    assert 'data-resume="endpoint"' in text
    assert "no such agent" not in await (await client.get("/destinations")).text()


async def test_tenants_stand_with_the_agents_of_nobody(admin: AskedSpoolAdmin, aiohttp_client: AiohttpClient) -> None:
    """Whose call logs there are, which agents belong to none, and the order that gives them to one."""
    await admin.spool.accept(msgspec.structs.replace(a_record("new"), tenant=UNASSIGNED, agent_id=HOSTILE))
    tenants = TenantAdmin(admin.spool, TenantTable([Tenant("acme", ("acme-*",), weight=2)]))
    client = await aiohttp_client(AdminFigures(tenant_admin=tenants, spool=admin.spool).app)
    text = await page_of(client, "/tenants")
    assert "1 call log belongs to no tenant yet." in text
    assert re.search(r"<td>acme-\*</td>", text)
    assert "<option>acme</option>" in text
    assert "<img" not in text
    calls = await page_of(client, "/calls?project=acme")
    assert "<option selected>acme</option>" in calls
    assert "No call matches." in calls
    assert 'href="/tenants"' in calls


@pytest.mark.parametrize("path", ["/", "/calls", "/dead", "/destinations", "/settings", "/similar", "/tenants"])
async def test_a_gateway_that_starts_has_pages(aiohttp_client: AiohttpClient, path: str) -> None:
    """Before the spool is open each page says what it lacks."""
    world = AdminFigures(stats=None, lifecycle=Lifecycle(Phase.STARTING, ("the spool is being checked",)))
    answer = await (await aiohttp_client(world.app)).get(path, headers=AUTHORIZED)
    assert answer.status in {200, 404, 503}
    assert "<h1" in await answer.text()


async def client_of_call(admin: AskedSpoolAdmin, aiohttp_client: AiohttpClient, body: bytes) -> Client:
    """An operator's client of a gateway whose spool has this call log of call-1."""
    await admin.spool.accept(a_record("call-1", body=body))
    world = AdminFigures(
        calls={"call-1": await admin.spool.trace("call-1")}, delivery_admin=admin.delivery_admin, spool=admin.spool
    )
    client = await aiohttp_client(world.app)
    client.session.headers.update(AUTHORIZED)
    return client


async def test_a_page_that_asks_for_itself_reads_no_call_log(
    admin: AskedSpoolAdmin, aiohttp_client: AiohttpClient
) -> None:
    """What was said stays on the page as it is: only where its parts are is looked at again, and not too often."""
    said = b'{"call_id": "call-1", "transcript_json": [{"role": "user", "content": "my tooth hurts"}]}'
    client = await client_of_call(admin, aiohttp_client, said)
    whole = await page_of(client, "/calls/call-1")
    assert "my tooth hurts" in whole
    assert 'data-pause="5"' in whole
    again = await (await client.get("/calls/call-1", headers={REFRESH_HEADER: "1"})).text()
    assert "Where it is" in again
    assert "my tooth hurts" not in again


async def test_a_call_with_times_that_have_no_date_has_its_page(
    admin: AskedSpoolAdmin, aiohttp_client: AiohttpClient
) -> None:
    """Agents write what they like; what was said is shown all the same."""
    said = b'{"call_id": "call-1", "call_started_at": -1e15, "transcript_json": [{"role": "user", "content": "hello"}]}'
    client = await client_of_call(admin, aiohttp_client, said)
    assert "hello" in await page_of(client, "/calls/call-1")


async def test_a_call_of_very_many_values_is_not_taken_apart(
    admin: AskedSpoolAdmin, aiohttp_client: AiohttpClient
) -> None:
    """A million empty spans, 3 MB, took 400 MB and 40 s of whoever opened the page."""
    log = b'{"call_id": "call-1", "telemetry_data": {"session_traces": [%b]}}' % b",".join(300_000 * [b"{}"])
    client = await client_of_call(admin, aiohttp_client, log)
    assert "too many values to be taken apart here" in await page_of(client, "/calls/call-1")


async def test_settings_are_shown_with_where_they_came_from(aiohttp_client: AiohttpClient) -> None:
    """What was set stands first; a stranger sees none of it."""
    settings = (
        SettingInForce("spool.dir", "/data", "CALLSPOOL_SPOOL_DIR"),
        SettingInForce("log.level", "info", "default"),
    )
    client = await aiohttp_client(AdminFigures(settings=settings).app)
    text = await page_of(client, "/settings")
    assert "1 of 2 settings are not the default" in text
    assert text.index("/data") < text.index("log.level")
    world = AdminFigures(settings=settings, token="hush-hush-hush-hush")
    answer = await (await aiohttp_client(world.app)).get("/settings")
    assert answer.status == 401
    assert "/data" not in await answer.text()
