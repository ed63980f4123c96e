"""Erasure: a real gateway with a store, files and an endpoint; every byte that it keeps is looked at afterwards."""

import asyncio
import json
import random
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import zstandard
from aiohttp import web

from bench.endpoint import Endpoint, Fault
from gateway.operations.schemas import INDEX
from spool.directory import IMPORTED_NAME, QUARANTINE_PREFIX, fingerprint
from tests.system import preloaded
from tests.system.gateway_process import GatewayProcess, Reply
from tests.system.waiting import until

SAID = "the purple armadillo sings"
NUMBER = "+15550100999"
LARGE = 6_000_000


@asynccontextmanager
async def a_gateway(
    folder: Path, *, later_posts: str = "refuse", more: str = ""
) -> AsyncIterator[tuple[GatewayProcess, Endpoint]]:
    """One that keeps calls in a store and in files, and whose endpoint refuses all of them."""
    async with Endpoint(fault=Fault("status", 400)) as endpoint:
        folder.mkdir(exist_ok=True)
        settings = f"""
            [erasure]
            later_posts = "{later_posts}"
            [[destinations]]
            name = "refuses"
            type = "http"
            url = "{endpoint.url}"
            retry = {{ initial = "0.1s", max = "0.2s" }}
            [[destinations]]
            name = "files"
            type = "file"
            path = "{folder / "delivered"}"
            [[destinations]]
            name = "calls"
            type = "sqlite"
            path = "{folder / "store" / "calls.db"}"
            {more}
        """
        async with GatewayProcess(folder / "gateway", settings=settings) as gateway:
            yield gateway, endpoint


def call_log(call_id: str, *, event: str = "call_ended", number: str = NUMBER, size: int = 0, **more: Any) -> bytes:
    said = f"{SAID} {call_id}"
    log = {
        "call_id": call_id, "wcall_event": event, "agent_id": f"agent-{call_id[0]}", "customer_number": number,
        "transcript_json": [{"role": "user", "content": said}], **more,
    }  # fmt: skip
    if size:
        chance = random.Random(call_id)
        spans = [{"name": said, "body": chance.randbytes(5_000).hex()} for _ in range(size // 10_000)]
        log["telemetry_data"] = spans
        log["transcript_with_metrics"] = [{"user_transcript": said, "agent_response": "well"}]
    return json.dumps(log).encode()


def words_in(folder: Path, words: bytes) -> list[str]:
    """The files below a folder in which the words stand, as they are or in a zstd frame at any place."""
    found = []
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        if words in data or any(words in frame for frame in frames(data)):
            found.append(str(path.relative_to(folder)))
    return found


def databases_and_files(names: list[str]) -> set[str]:
    """With a database and its WAL as one: a checkpoint moves what they hold from the one to the other at any time."""
    return {name.removesuffix("-wal") for name in names}


def frames(data: bytes) -> list[bytes]:
    """What is in the zstd frames that begin anywhere, as far as they can be read."""
    read = []
    for magic in re.finditer(re.escape(b"\x28\xb5\x2f\xfd"), data):
        reader = zstandard.ZstdDecompressor().decompressobj()
        try:
            read.append(reader.decompress(data[magic.start() : magic.start() + (2 << 20)]))
        except zstandard.ZstdError:
            continue
    return read


async def dead(gateway: GatewayProcess, count: int) -> None:
    async def there() -> bool:
        destinations = (await gateway.status())["destinations"]
        return sum(int(each["dead"]) for each in destinations) >= count

    await until(there, "everything is dead at the endpoint")


async def erased(gateway: GatewayProcess, *arguments: str) -> Any:
    environment = {**gateway.operators_environment, **gateway.environment}
    code, output = await preloaded.run("erase", "--json", *arguments, *gateway.admin, environment=environment)
    report = json.loads(output)
    assert (code == 0) is report["complete"], report
    return report


def place(report: Any, name: str) -> Any:
    return next((each for each in report["places"] if each["place"] == name), None)


@pytest.mark.slow
async def test_after_an_erasure_no_byte_of_the_caller_is_left(tmp_path: Path) -> None:
    """Small and large call logs, delivered, dead and open ones, turns of a call that goes on, what a pipeline made, an
    export: all of one caller is gone from every file, and all of the others is there."""
    async with a_gateway(tmp_path, more='[[destinations]]\nname = "words"\ntype = "pipeline"') as (gateway, _):
        for call_id in ("gone-1", "gone-2", "stay-1"):
            number = NUMBER if call_id.startswith("gone") else "+15550100111"
            start = call_log(call_id, event="call_started", number=number)
            end = call_log(call_id, number=number, size=LARGE if call_id.endswith("1") else 0)
            for body in (start, end):
                assert (await gateway.post(body)).status == 202
        live = json.dumps({"turns": [{"index": 0, "content": f"{SAID} gone-1"}]}).encode()
        await dead(gateway, 5)
        assert (await gateway.post(live, "/v1/calls/gone-3/turns")).status == 200
        about = json.dumps({"customer_number": NUMBER}).encode()
        assert (await gateway.post(about, "/v1/calls/gone-3/heartbeat")).status == 200
        export = tmp_path / "export"
        await gateway.command("dead", "export", str(export), "--all", *gateway.admin)
        folders = {"gateway", "export", "store", "delivered"}
        before = databases_and_files(words_in(tmp_path, f"{SAID} gone".encode()))
        assert {Path(name).parts[0] for name in before} >= folders, before

        plan = await erased(gateway, "--phone", NUMBER, "--call-id", "gone-3", "--exports", str(export), "--dry-run")
        assert sorted(plan["call_ids"]) == ["gone-1", "gone-2", "gone-3"]
        assert databases_and_files(words_in(tmp_path, f"{SAID} gone".encode())) == before
        report = await erased(gateway, "--phone", NUMBER, "--call-id", "gone-3", "--exports", str(export))
        assert report["complete"], report
        assert place(report, "calls")["found"] == {"calls": 2, "parts": 5}
        assert place(report, "files")["found"]["files"] >= 4
        assert place(report, "spool")["found"]["deliveries"] >= 4
        for words in (f"{SAID} gone".encode(), NUMBER.encode()):
            assert words_in(tmp_path, words) == []
        stay = words_in(tmp_path, f"{SAID} stay".encode())
        assert {Path(name).parts[0] for name in stay} >= folders
        assert (await gateway.post(call_log("gone-1"))).status == 410
        assert (await gateway.post(about, "/v1/calls/gone-3/heartbeat")).status == 410
        assert (await gateway.post(call_log("stay-2", number="+15550100111"))).status == 202
        assert (await erased(gateway, "--phone", NUMBER))["call_ids"] == []
        await gateway.kill()
        await gateway.start()
        assert (await gateway.post(call_log("gone-2"))).status == 410
        assert await gateway.metric("callspool_unaccounted_records") == 0


@pytest.mark.slow
async def test_an_erasure_that_is_killed_is_finished_by_the_next_one(tmp_path: Path) -> None:
    """Whatever it asks for: what was ordered is written down, and refused from then on."""
    async with a_gateway(tmp_path) as (gateway, _):
        calls = [f"gone-{number}" for number in range(60)]
        for call_id in calls:
            assert (await gateway.post(call_log(call_id))).status == 202

        async def ordered() -> bool:
            with closing(sqlite3.connect(f"file:{gateway.spool / 'spool.db'}?mode=ro", uri=True)) as database:
                ((count,),) = database.execute("SELECT count(*) FROM erasures")
                return bool(count == len(calls))

        sending = asyncio.create_task(erased(gateway, "--agent", "agent-g"))
        await until(ordered, "the order is written down")
        await gateway.kill()
        await asyncio.gather(sending, return_exceptions=True)
        await gateway.start()
        report = await erased(gateway, "--call-id", "another")
        assert report["complete"]
        assert words_in(tmp_path, f"{SAID} gone".encode()) == []
        assert (await gateway.post(call_log(calls[-1]))).status == 410


@pytest.mark.slow
async def test_posts_after_an_erasure_are_accepted_where_that_is_wanted(tmp_path: Path) -> None:
    """Nothing stays of the id, and a destination that takes nothing back is named with what it was given."""
    async with a_gateway(tmp_path, later_posts="accept") as (gateway, endpoint):
        endpoint.set_fault(Fault())
        assert (await gateway.post(call_log("gone-1"))).status == 202
        await gateway.delivered()
        report = await erased(gateway, "--call-id", "gone-1")
        assert not report["complete"]
        assert place(report, "refuses") == {
            "place": "refuses", "found": {"delivered": 1},
            "unreached": "what was delivered there is for its owner to erase", "again": False, "unsearched": None,
        }  # fmt: skip
        assert words_in(tmp_path, f"{SAID} gone".encode()) == []
        async with aiohttp.ClientSession() as session, session.get(f"{gateway.intake_url}/v1/calls/gone-1") as answer:
            assert answer.status == 404
        again: Reply = await gateway.post(call_log("gone-1"))
        assert (again.status, again.json["duplicate"]) == (202, False)


@asynccontextmanager
async def a_slow_endpoint() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """Its URL; the first event is set when a call log arrived, which is taken once the second one is set."""
    arrived, answer = asyncio.Event(), asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        await request.read()
        arrived.set()
        await answer.wait()
        return web.json_response({"success": True})

    app = web.Application()
    app.router.add_post("/send-call-log", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/send-call-log", arrived, answer
    finally:
        answer.set()
        await runner.cleanup()


@pytest.mark.slow
async def test_what_arrives_during_an_erasure_is_in_its_report(tmp_path: Path) -> None:
    """An attempt that is under way is waited for; the report says where the call log lies now."""
    async with a_slow_endpoint() as (url, arrived, answer):
        more = f'[[destinations]]\nname = "slow"\ntype = "http"\nurl = "{url}"'
        async with a_gateway(tmp_path, more=more) as (gateway, _):
            assert (await gateway.post(call_log("gone-1"))).status == 202
            await arrived.wait()
            erasing = asyncio.create_task(erased(gateway, "--call-id", "gone-1"))

            async def given_up() -> bool:
                slow = next(each for each in (await gateway.status())["destinations"] if each["name"] == "slow")
                return any(lane["discarded"] for lane in slow["lanes"])

            await until(given_up, "the delivery is given up")
            answer.set()
            assert place(await erasing, "slow")["found"] == {"delivered": 1}


@pytest.mark.slow
async def test_databases_in_quarantine_go_where_they_were_imported_and_are_named_where_not(tmp_path: Path) -> None:
    """What was imported is in the spool, where it is erased; nobody looked into the others."""
    spool = tmp_path / "gateway" / "spool"
    for name, imported in (("20260101T000000Z", True), ("20260102T000000Z", False)):
        folder = spool / f"{QUARANTINE_PREFIX}{name}"
        folder.mkdir(parents=True)
        (folder / "spool.db").write_text(f"{SAID} gone-1")
        (folder / "reason.txt").write_text("a test")
        if imported:
            (folder / IMPORTED_NAME).write_text(json.dumps({"files": fingerprint(folder)}))
    spool.chmod(0o700)
    async with a_gateway(tmp_path) as (gateway, _):
        assert gateway.spool == spool
        report = await erased(gateway, "--call-id", "gone-1")
        assert not report["complete"]
        places = [each["unreached"] for each in report["places"] if each["place"] == "quarantine"]
        assert places[0] is None
        assert "callspool salvage" in places[1]
        assert [Path(name).parts[2] for name in words_in(tmp_path, SAID.encode())] == [
            f"{QUARANTINE_PREFIX}20260102T000000Z"
        ]


@pytest.mark.slow
async def test_a_place_that_does_not_answer_is_tried_again_by_the_next_order(tmp_path: Path) -> None:
    """Until then nothing is forgotten that is needed to find it; a place that will never answer does not keep ids."""
    async with a_gateway(tmp_path) as (gateway, endpoint):
        endpoint.set_fault(Fault())
        assert (await gateway.post(call_log("gone-1"))).status == 202
        await gateway.delivered()
        (folder,) = (tmp_path / "delivered").glob("*/gone-1")
        held = sqlite3.connect(tmp_path / "store" / "calls.db", isolation_level=None)
        held.execute("BEGIN IMMEDIATE")
        try:
            report = await erased(gateway, "--call-id", "gone-1")
        finally:
            held.close()
        assert (place(report, "calls")["again"], place(report, "refuses")["again"]) == (True, False)
        assert not folder.exists()
        report = await erased(gateway, "--call-id", "another")
        assert report["unfinished"] == 1
        assert words_in(tmp_path, f"{SAID} gone".encode()) == []
        assert (await erased(gateway, "--call-id", "another"))["unfinished"] == 0


TENANTS = """
    [erasure]
    country = "DE"
    [[destinations]]
    name = "calls"
    type = "sqlite"
    path = "{folder}/store/calls.db"
    [[destinations]]
    name = "shared"
    type = "file"
    path = "{folder}/shared"
    [[destinations]]
    name = "acmes"
    type = "file"
    path = "{folder}/acmes"
    [tenants.acme]
    agents = ["agent-of-acme"]
    destinations = ["acmes"]
    [tenants.globex]
    agents = ["agent-of-globex"]
"""


@asynccontextmanager
async def two_tenants(folder: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway whose two tenants call their calls alike."""
    folder.mkdir(exist_ok=True)
    async with GatewayProcess(folder / "gateway", settings=TENANTS.format(folder=folder)) as gateway:
        yield gateway


def of(tenant: str, call_id: str, number: str) -> bytes:
    return call_log(call_id, number=number, agent_id=f"agent-of-{tenant}", whose=f"{SAID} of {tenant} {call_id}")


@pytest.mark.slow
async def test_an_order_for_a_tenant_leaves_the_others_calls_of_the_same_id(tmp_path: Path) -> None:
    """In store and files; without one the report says whose calls an id reaches; a wrong name is refused."""
    async with two_tenants(tmp_path) as gateway:
        for tenant in ("acme", "globex"):
            assert (await gateway.post(of(tenant, "call-7", "+49 170 1234567"))).status == 202
        await gateway.delivered()
        plan = await erased(gateway, "--call-id", "call-7", "--dry-run")
        assert plan["tenants"] == {"acme": 1, "globex": 1}
        with pytest.raises(KeyError):
            await erased(gateway, "--call-id", "call-7", "--tenant", "initech")
        report = await erased(gateway, "--call-id", "call-7", "--tenant", "acme")
        assert (report["complete"], report["tenants"]) == (True, {"acme": 1})
        assert words_in(tmp_path, f"{SAID} of acme".encode()) == []
        left = {Path(name).parts[0] for name in words_in(tmp_path, f"{SAID} of globex call-7".encode())}
        assert left == {"shared", "store"}
        assert [path for path in (tmp_path / "acmes").rglob("*") if path.is_file()] == []
        assert (await gateway.post(of("acme", "call-7", "+49 170 1234567"))).status == 410
        again = await gateway.post(of("globex", "call-7", "+49 170 1234567"))
        assert (again.status, again.json["duplicate"]) == (202, True)


@pytest.mark.slow
async def test_a_number_is_found_in_every_writing_and_of_its_own_tenant_alone(tmp_path: Path) -> None:
    """Another number that ends like it, and another caller's call of the same id, stay; what was found is named."""
    writings = ("+49 170 1234567", "(0170) 123-4567", "tel:+49-170-1234567", "sip:+491701234567@host", "491701234567")
    others = ("+43 170 1234567", "+49 170 1234568", "0171 1234567", "1234567")
    async with two_tenants(tmp_path) as gateway:
        for index, number in enumerate(writings):
            assert (await gateway.post(of("acme", f"same-{index}", number))).status == 202
        for index, number in enumerate(others):
            assert (await gateway.post(of("acme", f"other-{index}", number))).status == 202
        assert (await gateway.post(of("globex", "same-0", "+1 202 555 0123"))).status == 202
        await gateway.delivered()
        plan = await erased(gateway, "--phone", "0170/123 45 67", "--dry-run")
        assert plan["number"] == "+491701234567"
        found = [(each["call_id"], each["tenant"], each["place"], each["number"]) for each in plan["matched"]]
        assert sorted(found) == [(f"same-{index}", "acme", "calls", number) for index, number in enumerate(writings)]
        assert plan["possible"] == []
        report = await erased(gateway, "--phone", "0170/123 45 67")
        assert (report["complete"], place(report, "calls")["found"]["calls"]) == (True, len(writings))
        assert "no store" in place(report, "shared")["unsearched"]
        assert words_in(tmp_path, f"{SAID} of acme same".encode()) == []
        stay = {Path(name).parts[0] for name in words_in(tmp_path, f"{SAID} of acme other".encode())}
        assert stay == {"acmes", "shared", "store"}
        assert words_in(tmp_path, f"{SAID} of globex same-0".encode())


@pytest.mark.slow
async def test_an_export_is_searched_for_the_number_although_the_gateway_knows_its_calls_no_more(
    tmp_path: Path,
) -> None:
    """Each document is read; what belongs to the calls that are found goes, and the others stay."""
    async with a_gateway(tmp_path) as (gateway, _):
        for call_id, number in (("gone-1", NUMBER), ("stay-1", "+15550100111")):
            assert (await gateway.post(call_log(call_id, number=number))).status == 202
        await dead(gateway, 2)
        export = tmp_path / "export"
        await gateway.command("dead", "export", str(export), "--all", *gateway.admin)
        assert (await erased(gateway, "--call-id", "gone-1"))["complete"]
        report = await erased(gateway, "--phone", "tel:+1-555-010-0999", "--exports", str(export))
        assert place(report, f"export {export}")["found"] == {"documents": 1}
        assert (export / INDEX).stat().st_mode & 0o777 == 0o600, "it names callers, as it did before"
        assert words_in(tmp_path, f"{SAID} gone".encode()) == []
        assert {Path(name).parts[0] for name in words_in(tmp_path, f"{SAID} stay".encode())} >= {"export", "store"}


@pytest.mark.slow
async def test_calls_of_which_only_a_receipt_is_left_are_named_and_not_erased(tmp_path: Path) -> None:
    """A receipt has the end of a number: whose call it is cannot be told. What stores have is no longer in question."""
    async with Endpoint() as endpoint:
        settings = {"CALLSPOOL_ENDPOINT_URL": endpoint.url, "CALLSPOOL_ERASURE_COUNTRY": "US"}
        async with GatewayProcess(tmp_path / "gateway", settings) as gateway:
            for call_id, number in (("mine", NUMBER), ("ends-like-it", "+4930100999"), ("other", "+15550100111")):
                assert (await gateway.post(call_log(call_id, number=number))).status == 202
            await gateway.delivered()
            report = await erased(gateway, "--phone", "(555) 010-0999")
            assert (report["call_ids"], report["matched"], report["complete"]) == ([], [], True)
            assert sorted(each["call_id"] for each in report["possible"]) == ["ends-like-it", "mine"]
            assert all(each["number"].endswith("999") and "0100" not in each["number"] for each in report["possible"])
            report = await erased(gateway, "--call-id", "mine")
            assert place(report, "spool")["found"]["records"] == 1
            report = await erased(gateway, "--phone", "(555) 010-0999", "--dry-run")
            assert [each["call_id"] for each in report["possible"]] == ["ends-like-it"]
