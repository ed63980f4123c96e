"""Tenants: a real receiver with fifty of them, whose agents all use the same ids for their calls."""

import asyncio
import io
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench.calllogs import make_call_log
from tests.stores.engines import SqliteEngine
from tests.system.gateway_process import GatewayProcess, Reply
from tests.system.receivers import PATIENCE, Receiver
from tests.system.waiting import until

COUNT = 50
NAMES = [f"t{number:02}" for number in range(COUNT)]
CALLS = ("call-1", "call-2")


def token_of(name: str) -> str:
    return f"intake-token-of-{name}"


def reading_token_of(name: str) -> str:
    return f"reading-token-of-{name}"


def a_receiver(folder: Path, database: Path, tables: str) -> Receiver:
    receiver = Receiver(folder, f"sqlite:///{database}")
    receiver.configure(tables)
    return receiver


def table_of(name: str, *more: str) -> str:
    tokens = f'token = ["{token_of(name)}"]\nread_token = ["{reading_token_of(name)}"]'
    return "\n".join([f"[tenants.{name}]", tokens, *more, ""])


async def asked(gateway: GatewayProcess, url: str, token: str) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.json()


async def post_as(gateway: GatewayProcess, name: str, body: bytes) -> Reply:
    return await gateway.post(body, headers={"x-pype-token": token_of(name)})


@pytest.mark.slow
async def test_fifty_tenants_with_the_same_call_ids_are_fifty_times_their_calls(tmp_path: Path) -> None:
    """No call of one is a duplicate of, supersedes, completes or shows another's; each token shows its tenant's calls,
    whatever it asks for, on both listeners, and an unknown token none."""
    engine = SqliteEngine(tmp_path)
    tables = '[intake]\ntoken = "token-of-the-house"\n' + "".join(map(table_of, NAMES))
    async with a_receiver(tmp_path / "receiver", engine.path, tables) as receiver:
        for call_id in CALLS:
            # The same bytes of all: only whose they are differs. Half of them never end.
            start = make_call_log(2_000, seed=1, call_id=call_id, event="call_started")
            end = make_call_log(2_000, seed=2, call_id=call_id)
            replies = await asyncio.gather(*[post_as(receiver, name, start) for name in NAMES])
            replies += await asyncio.gather(*[post_as(receiver, name, end) for name in NAMES[::2]])
            assert {(reply.status, reply.json["duplicate"]) for reply in replies} == {(202, False)}
        assert (await post_as(receiver, NAMES[0], start)).json["duplicate"]
        assert (await receiver.post(start, headers={"x-pype-token": "stranger"})).status == 401
        await receiver.delivered(deadline=PATIENCE)
        rows = engine.rows("select project, call_id, state from calls_complete")
        assert {(project, call_id): state for project, call_id, state in rows} == {
            (name, call_id): 1 if number % 2 else 3 for number, name in enumerate(NAMES) for call_id in CALLS
        }
        mine, other = NAMES[0], NAMES[1]
        for name, state in ((mine, "complete"), (other, "open")):
            for query in ("", f"?project={mine}"):
                status, call = await asked(
                    receiver, f"{receiver.admin_url}/api/calls/call-1{query}", reading_token_of(name)
                )
                assert (status, call["state"], len(call["records"])) == (200, state, 1 if name == other else 2)
            _, listed = await asked(receiver, f"{receiver.admin_url}/api/calls?project={mine}", reading_token_of(name))
            assert {call["state"] for call in listed["calls"]} == {state}
            status, trace = await asked(receiver, f"{receiver.intake_url}/v1/calls/call-1", token_of(name))
            assert (status, len(trace["records"])) == (200, 1 if name == other else 2)
        for path in ("/api/deliveries", "/api/tenants"):
            assert (await asked(receiver, receiver.admin_url + path, reading_token_of(mine)))[0] == 403
        assert (await asked(receiver, f"{receiver.admin_url}/api/calls", token_of(mine)))[0] == 401
        shown = json.loads(
            await receiver.command("calls", "show", "call-1", "--tenant", other, "--json", *receiver.admin)
        )
        assert shown["state"] == "open"


@pytest.mark.slow
async def test_what_belongs_to_nobody_waits_for_somebody_to_say_whose_it_is(tmp_path: Path) -> None:
    """It is accepted and goes to what is nobody's own; what is some tenant's own gets it when its agent was assigned to
    that tenant, through a restart, and what comes later of that agent at once."""
    folder = tmp_path / "acme"
    tables = f"""
[intake]
token = "token-of-the-house"
[[destinations]]
name = "of-acme"
type = "file"
path = "{folder}"
{table_of("acme", 'destinations = ["of-acme"]', 'agents = ["known-*"]')}
{table_of("other")}
"""
    engine = SqliteEngine(tmp_path)

    async def received(count: int) -> None:
        async def there() -> bool:
            return len([path for path in folder.rglob("*.json*") if path.is_file()]) == count

        await until(there, f"{count} files are there", deadline=PATIENCE)

    def of(agent: str, call_id: str, size: int = 2_000) -> bytes:
        document = json.loads(make_call_log(size, seed=4, call_id=call_id))
        return json.dumps({**document, "agent_id": agent}).encode()

    house = {"x-pype-token": "token-of-the-house"}
    async with a_receiver(tmp_path / "receiver", engine.path, tables) as receiver:
        posts = (("new", "c1", 2_000), ("new", "c2", 6_000_000), ("known-1", "c3", 2_000), ("of-other", "c4", 2_000))
        for agent, call_id, size in posts:
            assert (await receiver.post(of(agent, call_id, size), headers=house)).status == 202
        await received(1)
        waiting = json.loads(await receiver.command("tenants", "unassigned", "--json", *receiver.admin))
        assert {(each["agent_id"], each["records"]) for each in waiting} == {("new", 2), ("of-other", 1)}
        await receiver.kill()
        await receiver.start()
        assert b"2 call logs" in await receiver.command("tenants", "assign", "new", "acme", *receiver.admin)
        assert b"1 call log that was waiting" in await receiver.command(
            "tenants", "assign", "of-other", "other", *receiver.admin
        )
        await received(4)  # a whole, core and detail of a large one, and that of the known agent
        assert (await receiver.post(of("new", "c5"), headers=house)).status == 202
        await received(5)
        await receiver.delivered(deadline=PATIENCE)
        listed = json.loads(await receiver.command("tenants", "list", "--json", *receiver.admin))
        assert {each["name"]: each["assigned"] for each in listed} == {"acme": ["new"], "other": ["of-other"]}
        await receiver.kill()
        await receiver.start()
        assert (await receiver.post(of("new", "c6"), headers=house)).status == 202
        await received(6)
        assert await receiver.metric("callspool_unaccounted_records") == 0
        await receiver.hurry()
        await receiver.command("fsck")
    by_call = dict(engine.rows("select call_id, project from calls_complete"))
    assert {call_id for call_id, tenant in by_call.items() if tenant == "acme"} == {"c3", "c5", "c6"}
    assert {call_id for call_id, tenant in by_call.items() if tenant == "unassigned"} == {"c1", "c2", "c4"}


@pytest.mark.slow
async def test_who_fills_its_share_is_refused_while_the_others_go_on(tmp_path: Path) -> None:
    """With its destination down, one tenant gets 507 at its share, and another's call logs are accepted; `tenants list`
    shows what each has and may have."""
    tables = f"""
[[destinations]]
name = "of-acme"
type = "http"
url = "http://127.0.0.1:9/dev/send-call-log"
token = "key"
{table_of("acme", 'destinations = ["of-acme"]', "quota_share = 0.05", 'receipts_keep = "2h"')}
{table_of("other")}
"""
    engine = SqliteEngine(tmp_path)
    receiver = a_receiver(tmp_path / "receiver", engine.path, tables)
    receiver.environment["CALLSPOOL_SPOOL_MAX_BYTES"] = "64MiB"
    body = json.loads(make_call_log(2_000, seed=4, call_id="call"))
    async with receiver:

        async def post(tenant: str, number: int) -> Reply:
            noise = random.Random(number).randbytes(200_000).hex()
            return await post_as(receiver, tenant, json.dumps({**body, "call_id": f"c{number}", "x": noise}).encode())

        statuses = [(await post("acme", number)).status for number in range(40)]
        assert statuses == sorted(statuses)
        assert set(statuses) == {202, 507}
        refused = await post("acme", 40)
        assert (refused.status, refused.json["error"]["code"]) == (507, "spool_full")
        assert "tenants.acme" in refused.json["error"]["message"]
        assert refused.headers["Retry-After"]
        assert [(await post("other", number)).status for number in range(40)] == [202] * 40
        listed = json.loads(await receiver.command("tenants", "list", "--json", *receiver.admin))
        acme, other = sorted(listed, key=lambda each: each["name"])
        share = (64 << 20) // 20
        assert share - 500_000 < acme["stored_bytes"] <= acme["share_bytes"] == share
        assert (acme["receipts_keep_seconds"], acme["expire_after_seconds"]) == (7200, None)
        assert (other["share_bytes"], other["receipts_keep_seconds"]) == (None, 86400)
        assert b" of 3." in await receiver.command("tenants", "list", *receiver.admin)


class PatientEndpoint:
    """Answers each call after a tenth of a second, more or less, and notes when."""

    def __init__(self) -> None:
        self._chance = random.Random(3)
        self.arrived: dict[str, float] = {}
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/send-call-log", self._take)
        self.server = TestServer(app)

    async def _take(self, request: web.Request) -> web.Response:
        call_id = json.loads(await request.read())["call_id"]
        await asyncio.sleep(self._chance.uniform(0.05, 0.15))
        self.arrived[call_id] = time.monotonic()
        return web.json_response({"success": True})


@pytest.mark.prove
async def test_ten_thousand_queued_calls_of_one_leave_the_latency_of_another_within_twice_its_own(
    tmp_path: Path,
) -> None:
    """From the post of a call to the end of its delivery, as the median of ten calls: alone, and behind a backlog."""
    endpoint = PatientEndpoint()
    await endpoint.server.start_server()
    environment = {
        "CALLSPOOL_ENDPOINT_URL": str(endpoint.server.make_url("/send-call-log")),
        "CALLSPOOL_ENDPOINT_TOKEN": "key",
    }
    tables = table_of("acme") + table_of("other")
    async with GatewayProcess(tmp_path / "gateway", environment, settings=tables) as gateway:

        async def latency(name: str) -> float:
            took = []
            for number in range(10):
                call_id = f"{name}-{number}"
                began = time.monotonic()
                body = json.dumps({"call_id": call_id, "wcall_event": "call_ended"}).encode()
                assert (await post_as(gateway, "other", body)).status == 202

                async def arrived(call_id: str = call_id) -> bool:
                    return call_id in endpoint.arrived

                await until(arrived, f"{call_id} arrives", deadline=60)
                took.append(endpoint.arrived[call_id] - began)
            return statistics.median(took)

        alone = await latency("alone")
        lines = b"".join(
            json.dumps({"call_id": f"q{number}", "wcall_event": "call_ended"}).encode() + b"\n"
            for number in range(10_000)
        )
        headers = {"x-pype-token": token_of("acme")}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{gateway.intake_url}/v1/calls/batch", data=io.BytesIO(lines), headers=headers) as response,
        ):
            assert response.status == 200
            await response.read()
        behind = await latency("behind")
        queued = sum(lane["ready"] for lane in (await gateway.destination())["lanes"])
        await gateway.kill()
    await endpoint.server.close()
    assert queued > 9_000
    assert behind < 2 * alone, f"{behind:.3f} s behind {queued} calls, {alone:.3f} s alone"
