"""The documents for programs: OpenAPI of both listeners, JSON schemas, the reference receiver, the recipes."""

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema_rs
import pytest
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner

from gateway.admin import permissions
from gateway.admin.permissions import RULES
from gateway.calllog.document import parse
from gateway.cli import main
from gateway.diagnostics.probe import Verdict, probe
from gateway.intake import openapi as intake_openapi
from gateway.intake.parse import CallLog, SizeRule
from gateway.intake.parse import parse as parse_body
from gateway.schemas import CALL_LOG, CORE, DETAIL, FILES
from spool.records import DeliveryState, Form, Fragment
from tests.admin.admin_app import AUTHORIZED, NOW, AdminFigures, traced, traced_delivery
from tests.intake.running_intake import running
from tests.project.repository import ROOT, text
from tests.project.surface import admin_paths, intake_paths
from uploaders.http.uploader import HttpOptions

RECIPES = re.findall(r"^```(\w+)( no-run)?\n(.*?)^```$", text("docs/recipes.md"), re.DOTALL | re.MULTILINE)


def references(node: Any) -> Iterator[str]:
    """All `$ref` below a node."""
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        for each in node.values():
            yield from references(each)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def schemas_in(node: Any) -> Iterator[dict[str, Any]]:
    """All schemas of objects below a node, wherever in the document they stand."""
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        if isinstance(each, dict) and isinstance(each.get("required"), list):
            yield each
        yield from schemas_in(each)


@pytest.mark.parametrize("document", [permissions.document, intake_openapi.document])
def test_what_a_schema_requires_is_among_its_properties(document: Any) -> None:
    """A client that is generated from the document has a field for each member that must be there."""
    found = list(schemas_in(json.loads(document())))
    assert found
    assert [each for each in found if not set(each["required"]) <= set(each["properties"])] == []


@pytest.mark.parametrize("document", [permissions.document, intake_openapi.document])
def test_a_document_refers_to_nothing_that_is_missing(document: Any) -> None:
    """Each reference leads to a schema of the document, and each schema is one."""
    found = json.loads(document())
    known = {f"#/components/schemas/{name}" for name in found["components"]["schemas"]}
    assert set(references(found)) <= known
    for schema in found["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_the_admin_document_is_that_of_the_routes() -> None:
    """Every path and method of the listener stands in it, and no other."""
    paths = json.loads(permissions.document())["paths"]
    assert sorted(paths) == [path for path in admin_paths() if path in paths]
    assert {path for path in admin_paths() if f"GET {path}" in RULES or f"POST {path}" in RULES} == set(paths)
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} == set(RULES)


def test_the_intake_document_is_that_of_the_routes() -> None:
    """Every route stands in it but the address of an upload, which is a secret that the gateway gave."""
    paths = set(json.loads(intake_openapi.document())["paths"])
    assert {path for path in intake_paths() if path != "upload_url"} == paths


async def test_both_listeners_serve_their_document(tmp_path: Path) -> None:
    """Without a token: they hold no secret."""
    async with running(tmp_path / "spool", token="intake-token") as world:
        reply = await world.ask("GET", "/openapi.json")
        assert (reply.status, reply.json["info"]["title"]) == (200, "callspool intake")
    async with TestClient(TestServer(AdminFigures().app)) as client, client.get("/openapi.json") as answer:
        assert (answer.status, (await answer.json())["info"]["title"]) == (200, "callspool admin")


@pytest.mark.parametrize("path", ["/api/status", "/api/traces", "/api/calls/call-1"])
async def test_an_answer_is_as_the_document_says(path: str) -> None:
    """What the listener answers validates against its schema."""
    record = traced(traced_delivery(Form.CORE, DeliveryState.READY))
    served = TestClient(TestServer(AdminFigures(calls={"call-1": (record,)}).app))
    async with served as client, client.get(path, headers=AUTHORIZED) as answer:
        assert answer.status == 200
        body = await answer.json()
    document = json.loads(permissions.document())
    name = {"/api/status": "Status", "/api/traces": "NewestTraces", "/api/calls/call-1": "CallTrace"}[path]
    jsonschema_rs.validate({"$ref": f"#/components/schemas/{name}", "components": document["components"]}, body)


async def test_whatever_is_posted_is_answered_as_the_document_says(tmp_path: Path) -> None:
    """A call log, one that is known, the request for an address at every path that takes it, a notice of an upload."""
    document = json.loads(intake_openapi.document())
    asks_address = {"call_id": "c-2", "content_type": "application/json"}
    async with running(tmp_path / "spool") as world:
        address = (await world.post(asks_address, "/get-upload-url")).json
        await world.ask("PUT", address["upload_url"], {"call_id": "c-2"})
        notice = {
            "s3_reference": True,
            "s3_bucket": address["s3_bucket"],
            "s3_key": address["s3_key"],
            "call_id": "c-2",
        }
        posts = [
            (path, body)
            for path in ("/v1/calls", "/send-call-log")
            for body in ({"call_id": "c-1"}, {"call_id": "c-1"}, asks_address, notice)
        ]
        for path, body in [("/get-upload-url", asks_address), *posts]:
            reply = await world.post(body, path)
            content = document["paths"][path]["post"]["responses"][str(reply.status)]["content"]
            schema = {**content["application/json"]["schema"], "components": document["components"]}
            jsonschema_rs.validate(schema, reply.json)


@pytest.mark.parametrize("name", FILES)
def test_the_schemas_in_the_docs_are_those_of_the_code(name: str) -> None:
    """docs/schemas is generated: write it anew where this fails."""
    assert json.loads(text(f"docs/schemas/{name}.schema.json")) == FILES[name]
    jsonschema_rs.meta.validate(FILES[name])


def test_what_goes_in_and_out_is_as_the_schemas_say() -> None:
    """A call log of the SDK's shape, its core and its detail validate; a core is no detail."""
    turns = [{"turn_id": "1", "user_transcript": "hi", "agent_response": "hello", "llm_metrics": {"ttft": 0.2}}]
    spans = [{"name": "llm", "operation_type": "llm", "duration_ms": 3, "attributes": {"x": "y" * 6_000_000}}]
    log = {
        "call_id": "c", "agent_id": "a", "wcall_event": "call_ended", "transcript_with_metrics": turns,
        "telemetry_data": {"session_traces": spans},
    }  # fmt: skip
    jsonschema_rs.validate(CALL_LOG, log)
    parsed = parse_body(json.dumps(log).encode(), bytearray, SizeRule())
    assert isinstance(parsed, CallLog)
    pieces = {name: b"".join(map(bytes, found)) for name, found in parsed.fragments.items()}
    core = json.loads(b"{" + pieces[Fragment.BASE] + b"," + pieces[Fragment.DERIVED] + b"}")
    detail = {"call_id": "c", "update_type": "detailed_telemetry", **json.loads(b"{" + pieces[Fragment.REST] + b"}")}
    jsonschema_rs.validate(CORE, core)
    jsonschema_rs.validate(DETAIL, detail)
    assert not jsonschema_rs.is_valid(CORE, detail)
    assert not jsonschema_rs.is_valid(CALL_LOG, {"agent_id": "a"})
    assert parse(b'{"call_id": "c"}').call_id == "c"


@pytest.fixture
def receiver() -> Iterator[tuple[ModuleType, str]]:
    """The reference receiver, listening; and its address."""
    spec = importlib.util.spec_from_file_location("receiver", ROOT / "docs/examples/receiver.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = ThreadingHTTPServer(("127.0.0.1", 0), module.Receiver)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield module, f"http://127.0.0.1:{server.server_port}/send-call-log"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_the_reference_receiver_knows_phase_2(receiver: tuple[ModuleType, str]) -> None:
    """It takes cores and details, joins them, and asks for the core of a call that it does not know."""
    module, url = receiver
    result = await probe(HttpOptions(url=url, token=None), agent_id="a", call_id="call-1", clock=lambda: NOW)
    assert result.verdict is Verdict.KNOWS_PHASE_2
    assert module.calls["call-1"].keys() >= {"summary_metrics", "transcript_with_metrics", "telemetry_data"}
    assert "call-1-unknown" not in module.calls
    lines = text("docs/examples/receiver.py").partition("calls: dict")[2].splitlines()
    assert len([line for line in lines if line.strip()]) <= 42


async def test_the_recipes_post_what_they_say(tmp_path: Path) -> None:
    """Each recipe that needs nothing but a gateway is run as it stands; its call is accepted."""
    async with running(tmp_path / "spool") as world:
        for language, no_run, code in RECIPES:
            program = {
                "sh": ["bash", "-eu"],
                "python": [sys.executable, "-"],
                "js": ["node", "--input-type=module", "-"],
            }
            command = program[language]
            if no_run or "callspool webhooks" in code or shutil.which(command[0]) is None:
                continue
            script = code.replace("127.0.0.1:7717", f"127.0.0.1:{world.port}")
            done = await asyncio.to_thread(
                subprocess.run, command, input=script, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
        for call_id in ("recipe-curl", "recipe-python", *(["recipe-typescript"] if shutil.which("node") else [])):
            assert (await world.only_record(call_id)).record.call_id == call_id


def test_the_recipe_for_webhooks_shows_what_becomes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its variables are all that each of its commands needs."""
    (recipe,) = [code for _, _, code in RECIPES if "callspool webhooks" in code]
    for name, value in re.findall(r"(CALLSPOOL_\w+)=(\S+)", recipe):
        monkeypatch.setenv(name, value)
    commands = re.findall(r"^callspool (.*)$", recipe, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        shown = CliRunner().invoke(main, command.split())
        assert (shown.exit_code, "becomes:" in shown.stdout) == (0, True), shown.output


def test_the_recipes_of_frameworks_are_python() -> None:
    """Those that need a framework can at least be compiled."""
    live = re.findall(r"^```python(?: no-run)?\n(.*?)^```$", text("docs/live-calls.md"), re.DOTALL | re.MULTILINE)
    kept = [code for language, no_run, code in RECIPES if no_run and language == "python"]
    assert (len(kept), len(live)) == (2, 3)
    for code in (*kept, *live):
        compile(code, "recipe", "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT)
