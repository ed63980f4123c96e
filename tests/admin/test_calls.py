"""Calls from the store of a receiver, asked over HTTP: a real embedded store behind the real admin application."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from pytest_aiohttp import AiohttpClient

from gateway.admin.permissions import Role
from gateway.calls import LiveEntry
from spool.records import DeliveryState, Form
from tests.admin.admin_app import AdminFigures, traced, traced_delivery
from tests.stores.calls import detail_of, part_of
from tests.stores.engines import SqliteEngine
from uploaders.stores.parts import PartKind
from uploaders.stores.store import Store, StoreUnavailable

BEARER = {"Authorization": "Bearer hush"}
EXACT = b'{"call_id":"c1","n":1e400,"s":"\\ud800\\u0000","k":1,"k":2,"big":1234567890123456789012345}'


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A complete call with a detail, an open one and an orphan-to-be."""
    made = SqliteEngine(tmp_path).store()
    await made.write(
        [
            part_of(PartKind.START, agent_id="a", call_started_at=1_764_320_400, customer_number="+49"),
            part_of(PartKind.END, document=EXACT),
            part_of(PartKind.UPDATE, document=b'{"recording_url": "u"}'),
            part_of(PartKind.REFERENCE, document=b'{"s3_key": "k"}'),
            part_of(PartKind.START, "rooms/7", agent_id="b"),
            part_of(PartKind.END, "whole", note=1.10),
        ]
    )
    await made.write_detail(part_of(PartKind.DETAIL, document=EXACT), detail_of(EXACT, step=7))
    yield made
    await made.close()


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, store: Store) -> Any:
    """Somebody who has the token."""
    return await aiohttp_client(AdminFigures(call_store=store, token="hush").app, headers=BEARER)


async def test_a_call_comes_back_whole(client: Any) -> None:
    """Columns, documents as they were posted, and the other parts in one answer."""
    body = await (await client.get("/api/calls/c1")).read()
    assert EXACT in body
    call = json.loads(body)
    assert (call["state"], call["late"], call["agent_id"], call["customer_number"]) == ("complete", False, "a", "+49")
    assert call["started_at"] == "2025-11-28T09:00:00.000Z"
    assert (call["updates"], call["references"]) == ([{"recording_url": "u"}], [{"s3_key": "k"}])
    assert (call["start"]["wcall_event"], call["has_detail"], call["records"]) == ("call_started", True, [])


async def test_a_detail_comes_back_byte_for_byte(client: Any) -> None:
    """Its frames are decompressed one after the other; nothing of it is read anew."""
    answer = await client.get("/api/calls/c1/detail")
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert await answer.read() == EXACT


@pytest.mark.parametrize("what", ["detail", "log"])
async def test_head_has_no_body(client: Any, what: str) -> None:
    """It would be taken for the answer to the next request of the connection."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"HEAD /api/calls/c1/{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer hush\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


async def test_events_have_no_head(client: Any) -> None:
    """Nobody waits for the headers of a stream without an end."""
    assert (await client.head("/api/events")).status == 405


async def test_a_call_in_one_piece_is_its_own_detail(client: Any) -> None:
    """Who asks for the detail of a small call log gets that; of a call that has only begun, a reason."""
    assert json.loads(await (await client.get("/api/calls/whole/detail")).read())["note"] == 1.10
    assert (await client.get("/api/calls/rooms%2F7/detail")).status == 404


async def test_calls_are_listed_and_selected(client: Any) -> None:
    """By the parameters of the query, the newest first."""

    async def listed(query: str = "") -> list[str]:
        return [call["call_id"] for call in (await (await client.get(f"/api/calls{query}")).json())["calls"]]

    assert set(await listed()) == {"c1", "rooms/7", "whole"}
    assert await listed("?state=open") == ["rooms/7"]
    assert await listed("?agent=a") == ["c1"]
    assert await listed("?id_prefix=room") == ["rooms/7"]
    assert await listed("?number=%2B49") == ["c1"]
    assert await listed("?until=2025-11-28T09:00:01Z") == ["c1"]
    assert await listed("?since=1764320401&state=ended") == ["whole"]
    assert len(await listed("?limit=1")) == 1


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "state=lost", "since=yesterday", "since=1..2", "unknown=1"]
)
async def test_a_query_that_cannot_be_asked_is_refused(client: Any, query: str) -> None:
    """With what would be right."""
    answer = await client.get(f"/api/calls?{query}")
    assert answer.status == 400
    assert (await answer.json())["error"]["code"] == "bad_request"


@pytest.mark.parametrize("number", ["9" * 19, "9" * 5000, "-1", "\u00b2"])
async def test_a_place_among_records_is_a_number_of_64_bits(client: Any, number: str) -> None:
    """Whatever else is asked for is refused, before the spool is asked."""
    assert (await client.get("/api/traces", params={"after": number})).status == 400


async def test_the_page_lists_every_call_once_however_many_began_at_one_moment(client: Any, store: Store) -> None:
    """Page after page of calls that a campaign began in one second, and what is older behind them."""
    at_once = [part_of(PartKind.CALL, f"campaign-{number:03}", call_started_at=2_000_000_000) for number in range(160)]
    await store.write(at_once)
    address, listed = "/calls", list[str]()
    while address:
        page = await (await client.get(address)).text()
        listed += re.findall(r'<th scope="row"><a [^>]*title="([^"]*)"', page)
        older = re.search(r'href="([^"]*)"[^>]*rel="next"', page)
        address = unescape(older[1]) if older else ""
    assert sorted(listed) == sorted([part.call_id for part in at_once] + ["c1", "rooms/7", "whole"])


async def test_an_unknown_call_is_404(client: Any) -> None:
    """In the store and in the spool."""
    for path in ("/api/calls/nobody", "/api/calls/nobody/detail"):
        answer = await client.get(path)
        assert (answer.status, (await answer.json())["error"]["code"]) == (404, "unknown_call")


async def test_documents_are_for_whoever_presents_a_token(aiohttp_client: AiohttpClient, store: Store) -> None:
    """From this machine without one there are lists and what is known of a call, and nothing that anybody said."""
    trace = {"c1": (traced(traced_delivery(Form.WHOLE, DeliveryState.DELIVERED)),)}
    client = await aiohttp_client(AdminFigures(call_store=store, calls=trace).app)
    assert (await client.get("/api/calls/c1/detail")).status == 401
    outline = await (await client.get("/api/calls/c1")).json()
    assert (outline["state"], len(outline["records"])) == ("complete", 1)
    assert not {"start", "end", "updates", "references"} & set(outline)
    listed = (await (await client.get("/api/calls")).json())["calls"]
    assert {call["call_id"] for call in listed} == {"c1", "rooms/7", "whole"}
    assert (await client.get("/api/calls/c1", headers={"Authorization": "Bearer wrong"})).status == 401


async def test_a_call_that_is_still_in_the_spool_has_its_trace(aiohttp_client: AiohttpClient, store: Store) -> None:
    """What the store does not have yet is where the trace says."""
    trace = {"c2": (traced(traced_delivery(Form.WHOLE, DeliveryState.READY)),)}
    waiting = await aiohttp_client(AdminFigures(call_store=store, calls=trace).app)
    answer = await (await waiting.get("/api/calls/c2")).json()
    assert answer["records"][0]["stage"] == "queued"


async def test_without_a_store_there_is_nothing_to_ask(aiohttp_client: AiohttpClient) -> None:
    """The answer names what to configure; the trace of a call is there all the same."""
    trace = {"c1": (traced(traced_delivery(Form.WHOLE, DeliveryState.DELIVERED)),)}
    client = await aiohttp_client(AdminFigures(calls=trace).app)
    answer = await client.get("/api/calls")
    assert (answer.status, (await answer.json())["error"]["code"]) == (404, "no_store")
    assert (await client.get("/api/calls/c1")).status == 200


async def test_a_store_in_trouble_is_503(aiohttp_client: AiohttpClient, store: Store, monkeypatch: Any) -> None:
    """With the reason, and no secret in it."""

    async def down(*_: object) -> None:
        raise StoreUnavailable("cannot reach postgresql://user:hush@host/calls")

    monkeypatch.setattr(store, "calls", down)
    client = await aiohttp_client(AdminFigures(call_store=store).app)
    answer = await client.get("/api/calls")
    assert answer.status == 503
    assert "hush" not in await answer.text()


async def test_a_detail_that_ends_too_early_breaks_off(client: Any, store: Store, monkeypatch: Any) -> None:
    """A store that fails in the middle of it: no second answer follows in the same one, and the connection ends."""
    frames = store.detail

    async def broken(project: str, call_id: str) -> AsyncIterator[bytes]:
        async for frame in frames(project, call_id):
            yield frame
            raise StoreUnavailable("the server was restarted")

    monkeypatch.setattr(store, "detail", broken)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET /api/calls/c1/detail HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer hush\r\n\r\n")
    received = b""
    with suppress(ConnectionError):
        while block := await asyncio.wait_for(reader.read(4096), 10):
            received += block
    assert received.count(b"HTTP/1.1") <= 1
    assert not received.endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_tenant_sees_its_own_live_calls_alone(aiohttp_client: AiohttpClient) -> None:
    """The list of calls that go on names none of another tenant's."""
    entry = LiveEntry(
        call_id="call-1", tenant="acme", agent_id="a", state="live", first_heard_at="2026-01-01T00:00:00.000Z",
        last_heard_at="2026-01-01T00:00:09.000Z", silent_seconds=7.4, turns=3, bytes=120,
    )  # fmt: skip
    world = AdminFigures(
        live_calls=(entry, structs.replace(entry, tenant="other"), structs.replace(entry, tenant=None))
    )
    world.access.accept_tokens({Role.READ: ("read",)}, {"acme": ("of-acme",)})
    client = await aiohttp_client(world.app)

    async def listed(token: str) -> list[str | None]:
        answer = await client.get("/api/live-calls", headers={"Authorization": f"Bearer {token}"})
        return [call["tenant"] for call in (await answer.json())["calls"]] if answer.status == 200 else []

    assert await listed("read") == ["acme", "other", None]
    assert await listed("of-acme") == ["acme"]
    assert await listed("nobody") == []


async def test_the_trace_of_a_tenants_call_has_its_records_alone(aiohttp_client: AiohttpClient) -> None:
    """Who may see everybody's, and names a tenant, sees that one's of several calls of an id."""
    one = traced()
    records = tuple([replace(one, record=structs.replace(one.record, tenant=tenant)) for tenant in ("a", "b")])
    client = await aiohttp_client(AdminFigures(calls={"call-1": records}).app)
    for query, count in (("", 2), ("?project=b", 1)):
        answer = await client.get(f"/api/calls/call-1{query}")
        assert len((await answer.json())["records"]) == count
