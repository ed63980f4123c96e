"""What is asked of a pipeline over HTTP: similar calls, words, its queue, callbacks; each tenant its own alone."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from gateway.admin.events import Observers, RecentEvents
from gateway.admin.metrics import Metrics
from gateway.admin.permissions import Role
from gateway.operations.erasure import CallEraser, ErasureOrder, ErasureReport
from spool.records import system_clock
from tests.admin.admin_app import AdminFigures
from tests.pipeline.conftest import LocalModelsHere
from tests.pipeline.queued import done
from tests.spool.spool_parts import Clock, opened
from tests.stores.calls import part_of
from tests.stores.engines import SqliteEngine
from tests.uploaders.dispatcher_stage import ToldUploader
from tests.uploaders.fake_time import FakeTime
from uploaders.dispatch.dispatcher import Dispatcher
from uploaders.pipeline.local import BundledEmbedding
from uploaders.pipeline.models import ModelUnavailable
from uploaders.pipeline.runner import Models
from uploaders.pipeline.service import Pipeline
from uploaders.pipeline.vectors import SqliteVectors
from uploaders.stores.parts import PartKind
from uploaders.stores.pipeline import CallbackTables, CallText, Insight, Job, NewCallback, Step, StepOutput, TextQuery
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import CallsWanted

TENANTS = {"acme": ("acme-token",), "other": ("other-token",)}
SUMMARIES = {"tooth": "a terrible toothache, an appointment", "pizza": "two large pizzas with mushrooms"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def pipeline(tmp_path: Path) -> AsyncIterator[Pipeline]:
    """Two tenants with calls of the same ids, and one more call of `acme`."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    tables, local = PipelineTables(store, system_clock), LocalModelsHere(tmp_path)
    models = Models(local, BundledEmbedding(local))
    vectors = SqliteVectors(store, engine.path, local, models.embedding.name)
    await tables.prepare()
    for project, names in (("acme", ("tooth", "pizza")), ("other", ("tooth",))):
        for name in names:
            (vector,) = await local.embed([SUMMARIES[name]])
            await vectors.put(project, name, vector)
            callback = NewCallback(2_000_000_000_000, "UTC", "tomorrow", "+1555")
            insight = Insight(f"{project}: {SUMMARIES[name]}", "extractive", None, callback)
            await done(tables, name, insight, CallText((("caller", name),)), project)
            job = Job(project, name, 0, b"", 0, 0, asking=False, text=CallText())
            await tables.record(job, Step.EMBEDDING, StepOutput(b"", vector, "m"))
    made = Pipeline("pipeline", tables, CallbackTables(store, system_clock), models, vectors, None, redact=True)
    yield made
    await made.stop(0.0)
    await store.close()


@pytest.fixture
async def client(aiohttp_client: AiohttpClient, pipeline: Pipeline) -> Any:
    world = AdminFigures(
        pipeline=pipeline, tokens={Role.READ: ("read",), Role.OPERATE: ("operate",), Role.ADMIN: ("admin",)}
    )
    world.access.accept_tokens({Role.READ: ("read",), Role.OPERATE: ("operate",), Role.ADMIN: ("admin",)}, TENANTS)
    return await aiohttp_client(world.app)


async def found(client: Any, path: str, token: str, **order: object) -> list[dict[str, Any]]:
    answer = await client.post(f"/api/calls/{path}", json=order, headers=bearer(token))
    assert answer.status == 200, await answer.text()
    calls: list[dict[str, Any]] = (await answer.json())["calls"]
    return calls


async def test_a_tenant_finds_its_own_calls_whatever_it_asks(client: Any) -> None:
    """By a text, by a call, by words; also where it names another tenant."""
    for path, order in (
        ("similar", {"text": "pain in the teeth"}),
        ("similar", {"text": "pain in the teeth", "project": "acme"}),
        ("search", {"text": "toothache"}),
        ("search", {"text": "toothache", "project": "acme"}),
    ):
        (call,) = await found(client, path, "other-token", **order)
        assert call["summary"].startswith("other: ")
    assert await found(client, "similar", "other-token", call_id="tooth") == []
    assert [each["call_id"] for each in await found(client, "similar", "acme-token", call_id="tooth")] == ["pizza"]
    best, worst = await found(client, "similar", "read", text="toothache", project="acme")
    assert (best["call_id"], worst["call_id"]) == ("tooth", "pizza")
    assert 1 >= best["score"] > worst["score"]
    refused = await client.get("/api/callbacks", headers=bearer("acme-token"))
    assert refused.status == 403


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({}, 400), ({"text": "a", "call_id": "b"}, 400), ({"text": "a", "limit": 0}, 400), ({"text": 7}, 400),
        ({"text": "a", "unknown": 1}, 400), ({"call_id": "nobody"}, 404),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused(client: Any, order: dict[str, object], status: int) -> None:
    """With the reason."""
    assert (await client.post("/api/calls/similar", json=order, headers=bearer("read"))).status == status


@pytest.mark.parametrize(
    ("path", "token"),
    [
        ("calls/similar", "read"), ("calls/search", "read"), ("pipeline/redo", "admin"), ("callbacks/run", "operate"),
        ("callbacks/cancel", "operate"), ("callbacks/done", "operate"), ("callbacks/reopen", "operate"),
        ("do-not-call", "operate"),
    ],
)  # fmt: skip
async def test_a_body_that_cannot_be_read_is_refused(client: Any, path: str, token: str) -> None:
    """In the shape of all errors, whatever it asks for."""
    headers = {**bearer(token), "Content-Type": "application/json"}
    for body, status in ((b'{"text": "%b"}' % (b"x" * 70_000), 413), (b'{"text": "\xff"}', 400), (b"[" * 60_000, 400)):
        answer = await client.post(f"/api/{path}", data=body, headers=headers)
        assert (answer.status, bool((await answer.json())["error"]["hint"])) == (status, True)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=nonsense", "state should be one of waiting, fired, cancelled, done"),
        ("stat=waiting", "unknown parameter 'stat'"),
    ],
)
async def test_callbacks_of_no_known_state_are_not_asked_for(client: Any, query: str, said: str) -> None:
    """An empty list would say that there are none."""
    answer = await client.get(f"/api/callbacks?{query}", headers=bearer("read"))
    assert answer.status == 400
    assert said in (await answer.json())["error"]["message"]


async def test_summaries_need_a_token(client: Any, aiohttp_client: AiohttpClient) -> None:
    """They are what was said; the figures of the queue are not. Without a pipeline it says what to set."""
    for path in ("/api/calls/similar", "/api/calls/search", "/api/pipeline/redo", "/api/callbacks/run"):
        assert (await client.post(path, json={"text": "a"})).status == 401
    status = await (await client.get("/api/pipeline", headers=bearer("read"))).json()
    assert (status["jobs"]["done"], status["summaries"], status["callbacks"]["waiting"]) == (3, {"extractive": 3}, 3)
    none = await aiohttp_client(AdminFigures(token="hush").app, headers=bearer("hush"))
    answer = await none.post("/api/calls/similar", json={"text": "a"})
    assert (answer.status, (await answer.json())["error"]["code"]) == (404, "no_pipeline")


async def test_an_order_needs_its_role(client: Any, pipeline: Pipeline) -> None:
    """Redoing costs money, so it is the administrator's; callbacks are the operator's."""
    redo = {"dry_run": True, "step": "embedding", "project": "acme"}
    assert (await client.post("/api/pipeline/redo", json=redo, headers=bearer("operate"))).status == 403
    done_ = await (await client.post("/api/pipeline/redo", json=redo, headers=bearer("admin"))).json()
    assert done_ == {"calls": 2, "paid_answers": 0, "dry_run": True}
    order = {"call_id": "tooth", "project": "acme"}
    assert (await client.post("/api/callbacks/cancel", json=order, headers=bearer("read"))).status == 403
    assert (await client.post("/api/callbacks/cancel", json=order, headers=bearer("operate"))).status == 200
    assert (await client.post("/api/callbacks/cancel", json=order, headers=bearer("operate"))).status == 404
    listed = await (await client.get("/api/callbacks?state=cancelled", headers=bearer("read"))).json()
    assert [(each["project"], each["call_id"]) for each in listed["callbacks"]] == [("acme", "tooth")]
    for path, status in (("reopen", 200), ("done", 200), ("done", 404), ("reopen", 200), ("reopen", 404)):
        assert (await client.post(f"/api/callbacks/{path}", json=order, headers=bearer("operate"))).status == status
    assert (await client.post("/api/callbacks/done", json=order, headers=bearer("read"))).status == 403
    blocked = await client.post("/api/do-not-call", json={"number": "+1555"}, headers=bearer("operate"))
    assert blocked.status == 200
    assert await pipeline.callbacks.may_not_call("acme", "+1555")


async def test_an_erased_call_is_found_no_more(client: Any, pipeline: Pipeline) -> None:
    """Its vector goes with the rest; the call of that id of another tenant stays."""
    assert await pipeline.forget_call("acme", "tooth")
    assert [each["call_id"] for each in await found(client, "similar", "acme-token", text="toothache")] == ["pizza"]
    assert len(await found(client, "similar", "other-token", text="toothache")) == 1
    assert await pipeline.search(TextQuery("acme", "toothache")) == []


async def test_an_erasure_goes_on_when_the_server_of_vectors_is_back(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else goes at once, what says whose the call was, too; a later order knows it all the same."""

    up, forgotten = False, set[tuple[str, str]]()

    async def forget(project: str, call_id: str) -> None:
        if not up:
            raise ModelUnavailable("no answer")
        forgotten.add((project, call_id))

    monkeypatch.setattr(pipeline._vectors, "forget", forget)
    store = pipeline.tables._database
    assert isinstance(store, SqliteStore)
    await store.write([part_of(PartKind.CALL, "tooth", project="acme")])
    clock = Clock()
    async with opened(tmp_path / "spool", clock=clock) as spool:
        dispatcher = Dispatcher(spool, {}, clock, lambda: 0.0, Observers(Metrics(), RecentEvents(clock)))
        eraser = CallEraser(
            spool, dispatcher, {"calls": ToldUploader(FakeTime())}, {"calls": store}, pipeline, (), (), None,
            lambda principal, _agent, _key: principal, None,
        )  # fmt: skip

        async def carried_out(order: ErasureOrder) -> ErasureReport:
            *_, last = [line async for line in eraser.carry_out(order)]
            assert isinstance(last, ErasureReport), last
            return last

        report = await carried_out(ErasureOrder(("tooth",)))
        assert [(place.place, place.again) for place in report.places if place.unreached] == [("calls", True)]
        assert await pipeline.search(TextQuery("acme", "toothache")) == []
        assert await store.find_calls(CallsWanted(("tooth",))) == []
        up = True
        assert (await carried_out(ErasureOrder(("another",)))).complete
        assert ("acme", "tooth") in forgotten
        assert await spool.erasures.pending() == []


async def test_a_model_that_does_not_answer_is_503(
    client: Any, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may answer later."""

    async def down(_texts: object) -> Any:
        raise ModelUnavailable("no answer")

    monkeypatch.setattr(pipeline._models.embedding, "embed", down)
    answer = await client.post("/api/calls/similar", json={"text": "a"}, headers=bearer("read"))
    assert (answer.status, (await answer.json())["error"]["code"]) == (503, "model_unavailable")
