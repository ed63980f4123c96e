"""After the call, with a real receiver: what its operator finds, what a model that is down does to it, callbacks."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bench.calllogs import make_call_log
from bench.endpoint import Endpoint
from bench.postgres_server import PostgresServer
from tests.budget import FULL, budgeted
from tests.pipeline.model_server import ModelServer
from tests.pipeline.real_models import chat_model, embedding_model, install_models
from tests.stores.engines import PostgresEngine, SqliteEngine
from tests.system.collector import Collector, way_of
from tests.system.fake_clock import FakeClock
from tests.system.receivers import Receiver, insist, post
from tests.system.waiting import until

TALKS = {
    "tooth": ("I have a terrible toothache and need to see a dentist.", "Please come on Tuesday at ten."),
    "crown": ("My crown fell out and my tooth hurts a lot.", "We will fit you in this afternoon."),
    "pizza": ("I would like to order two large pizzas with mushrooms.", "That will be thirty dollars."),
    "power": ("My electricity bill is much too high this month.", "Let me check your account."),
}
DAY = 86_400
CALLBACKS = """
[[destinations]]
name = "pipeline"
type = "pipeline"
callbacks = {{enabled = true, first_hour = 0, last_hour = 24, days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}}

[[destinations]]
name = "dialer"
type = "http"
url = "{url}"
events = ["callback_due"]
encoding = "identity"
"""


def ended(call_id: str, *said: str, **members: object) -> dict[str, object]:
    turns = [{"role": ("user", "assistant")[at % 2], "content": words} for at, words in enumerate(said)]
    return {"call_id": call_id, "wcall_event": "call_ended", "customer_number": "+15551234567",
            "transcript_json": turns, **members}  # fmt: skip


def a_receiver(
    folder: Path, engine: SqliteEngine, *, environment: Mapping[str, str] | None = None, preload: bool = True
) -> Receiver:
    receiver = Receiver(folder, f"sqlite:///{engine.path}", preload=preload)
    receiver.environment.update({"CALLSPOOL_PIPELINE": "local", **(environment or {})})
    return receiver


def calls_back(receiver: Receiver, dialer: Endpoint) -> Receiver:
    """This receiver, with callbacks that go to the dialer at any hour."""
    receiver.configure(CALLBACKS.format(url=dialer.url))
    return receiver


async def pipeline(receiver: Receiver) -> Any:
    return json.loads((await receiver.ask("/api/pipeline"))[1])


async def worked(receiver: Receiver, count: int, deadline: float = 15) -> None:
    """Wait until so many calls are done."""

    async def there() -> bool:
        return bool((await pipeline(receiver))["jobs"]["done"] >= count)

    await until(there, f"{count} calls are done", deadline=deadline)


async def ask(receiver: Receiver, *arguments: str) -> Any:
    return json.loads(await receiver.command(*arguments, *receiver.admin, "--json"))


@pytest.mark.slow
async def test_calls_are_found_by_what_they_mean_and_by_their_words(tmp_path: Path) -> None:
    """With nothing but a file: soon after they ended, after kill -9, and without a model in the gateway itself. The
    spans of the work on a call belong to the trace of its post."""
    async with (
        Collector() as collector,
        a_receiver(tmp_path / "receiver", SqliteEngine(tmp_path), environment=collector.settings) as receiver,
    ):
        for call_id, said in TALKS.items():
            await post(receiver, ended(call_id, *said))
        await worked(receiver, 4)

        async def traced() -> bool:
            return len(collector.named("pipeline")) == 4

        await until(traced, "the work on four calls is at the collector")
        for span in collector.named("step embedding"):
            assert way_of(span, collector.spans)[:4] == ["step embedding", "pipeline", "commit", "calls"]
        found = await ask(receiver, "calls", "similar", "pain in the teeth", "--limit", "2")
        assert {each["call_id"] for each in found} == {"tooth", "crown"}
        assert found[0]["score"] >= found[1]["score"]
        await receiver.kill()
        await receiver.start()
        (nearest, *_) = await ask(receiver, "calls", "similar", "tooth")
        assert nearest["call_id"] == "crown"
        assert [each["call_id"] for each in await ask(receiver, "calls", "search", "mushrooms")] == ["pizza"]
        assert await ask(receiver, "calls", "similar", "anything", "--tenant", "nobody") == []
        status = await ask(receiver, "pipeline", "status")
        assert (status["jobs"]["done"], status["summaries"]) == (4, {"extractive": 4})
        assert await ask(receiver, "pipeline", "redo", "--dry-run") == {"calls": 4, "paid_answers": 0, "dry_run": True}
        maps = Path(f"/proc/{receiver.process.pid}/maps").read_text(encoding="utf-8")
        assert "numpy" not in maps
        async with aiohttp.ClientSession() as session:
            url = f"{receiver.admin_url}/api/calls/similar"
            async with session.post(url, json={"text": "teeth"}) as refused:
                assert refused.status == 401


@pytest.mark.slow
async def test_a_model_that_is_down_leaves_the_spool_empty(tmp_path: Path) -> None:
    """Of calls of megabytes the queue has the transcript; when the model is there, all of them are summarised."""
    async with ModelServer() as server:
        down = True
        server.chat = lambda _request, _body: web.Response(status=503) if down else None
        engine = SqliteEngine(tmp_path)
        environment = {"CALLSPOOL_OPENAI_BASE_URL": server.url, "CALLSPOOL_OPENAI_EMBEDDING_MODEL": "none"}
        async with a_receiver(tmp_path / "receiver", engine, environment=environment) as receiver:
            for number in range(3):
                call = make_call_log(6_000_000, seed=number, call_id=f"c{number}", event="call_ended")
                await post(receiver, call)
            await receiver.delivered()
            ((texts,),) = engine.rows("select sum(length(text)) from pipeline_jobs")
            assert texts < 600_000

            async def waits() -> bool:
                return (await pipeline(receiver))["obstacle"] is not None

            await until(waits, "the pipeline waits for its model")
            assert (await pipeline(receiver))["jobs"]["queued"] == 3
            down = False
            engine.change("update pipeline_jobs set due_at = 0")
            await receiver.kill()
            await receiver.start()
            await worked(receiver, 3)
            assert (await pipeline(receiver))["summaries"] == {"llm": 3}


@pytest.mark.prove
async def test_a_model_that_is_down_for_long_fills_no_spool(tmp_path: Path) -> None:
    """Far more comes in than the spool may hold, in calls of 15 MB; every post is accepted, every call summarised."""
    calls = budgeted(small=16, full=200)
    async with ModelServer() as server:
        down = True
        server.chat = lambda _request, _body: web.Response(status=503) if down else None
        environment = {"CALLSPOOL_OPENAI_BASE_URL": server.url, "CALLSPOOL_OPENAI_EMBEDDING_MODEL": "none",
                       "CALLSPOOL_SPOOL_MAX_BYTES": "32MiB"}  # fmt: skip
        engine = SqliteEngine(tmp_path)
        async with a_receiver(tmp_path / "receiver", engine, environment=environment) as receiver:
            for number in range(calls):
                call = make_call_log(15_000_000, seed=number, call_id=f"c{number}", event="call_ended")
                await post(receiver, call)
                await receiver.delivered()
            assert (await pipeline(receiver))["jobs"]["queued"] == calls
            down = False
            engine.change("update pipeline_jobs set due_at = 0")
            await receiver.kill()
            await receiver.start()
            await worked(receiver, calls)


@pytest.mark.prove
def test_all_of_it_works_without_any_network(tmp_path: Path) -> None:
    """In a network namespace with nothing but loopback: call logs in, summaries and similar calls out."""
    inside = ("unshare", "-rn", "sh", "-c")
    if shutil.which("unshare") is None or subprocess.run([*inside, "ip link set lo up"], check=False).returncode:
        pytest.skip("this user may not make network namespaces")
    test = f"{__file__}::{test_calls_are_found_by_what_they_mean_and_by_their_words.__name__}"
    pytest_again = f"{sys.executable} -m pytest -p no:cacheprovider -q --basetemp={tmp_path / 'inside'} {test}"
    ran = subprocess.run([*inside, f"ip link set lo up && {pytest_again}"], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stdout.decode()


@pytest.mark.slow
async def test_who_asks_to_be_called_back_is_called_once(tmp_path: Path) -> None:
    """At the number of the call's metadata, through a kill, whoever hastens it; cancelled or forbidden, never."""
    engine = SqliteEngine(tmp_path)
    async with Endpoint() as dialer, calls_back(a_receiver(tmp_path / "receiver", engine), dialer) as receiver:
        wish = "Please call me back tomorrow at 3 pm on +1 900 555 0000."
        for call_id in ("c1", "c2", "c3"):
            await post(receiver, ended(call_id, "I have a question about my bill.", "Sure.", wish))
        await post(receiver, ended("c4", "No need to call me back."))
        await worked(receiver, 4)
        waiting = await ask(receiver, "callbacks", "list")
        assert {each["call_id"] for each in waiting} == {"c1", "c2", "c3"}
        assert {each["number"] for each in waiting} == {"+15551234567"}
        await ask(receiver, "callbacks", "cancel", "c2")
        await ask(receiver, "callbacks", "run", "c1")
        (arrival,) = await dialer.wait_for(1)
        document = json.loads(dialer.documents[arrival.key])
        assert (document["wcall_event"], document["call_id"]) == ("callback_due", "c1")
        assert (document["customer_number"], document["words"]) == ("+15551234567", wish.rstrip("."))
        # As if it had been killed between the record and the row: the record is known, and not made again.
        engine.change("update callbacks set state = 'waiting', due_at = 0 where call_id = 'c1'")
        await receiver.kill()
        await receiver.start()
        await ask(receiver, "callbacks", "block", "+15551234567")
        await ask(receiver, "callbacks", "run", "c3")

        async def settled() -> bool:
            states = {each["call_id"]: each["state"] for each in await ask(receiver, "callbacks", "list")}
            return "waiting" not in states.values()

        await until(settled, "no callback waits")
        await receiver.delivered()
        assert len(dialer.documents) == 1


@pytest.mark.prove
async def test_a_callback_days_ahead_is_neither_early_nor_late(tmp_path: Path) -> None:
    """Through kills, days without a receiver, a resumed destination, and a clock that is set forward and back."""
    clock = FakeClock(tmp_path)
    async with Endpoint() as dialer:
        receiver = a_receiver(
            tmp_path / "receiver", SqliteEngine(tmp_path), preload=False, environment=clock.environment
        )
        async with calls_back(receiver, dialer):
            await post(receiver, ended("c1", "I have a question.", "Sure.", "Please call me back in 3 days."))
            await worked(receiver, 1)
            (waiting,) = await ask(receiver, "callbacks", "list")
            due = datetime.fromisoformat(waiting["due_at"]).timestamp()

            async def doubted() -> bool:
                return bool(receiver.events("clock_set_forward"))

            clock.set_ahead(4 * DAY)
            await until(doubted, "the clock is doubted")
            clock.set_ahead(0)
            await ask(receiver, "resume", "dialer")
            for days in (1, 2):
                await receiver.kill()
                clock.set_ahead(days * DAY)
                await receiver.start()
            assert not dialer.documents
            await receiver.kill()
            ahead = due - time.time() - 10
            clock.set_ahead(ahead)
            await receiver.start()
            running_since = time.time() + ahead
            (arrival,) = await dialer.wait_for(1, deadline=60)
            fired_at = arrival.at + time.time() - time.monotonic() + ahead
            assert fired_at >= due
            assert fired_at - max(due, running_since) < 5


@pytest.mark.prove
async def test_callbacks_that_kills_interrupt_are_made_once(tmp_path: Path) -> None:
    """Each when it is due, while the receiver is killed again and again."""
    chance, kills = Random(84), budgeted(small=3, full=100)
    engine = SqliteEngine(tmp_path)
    async with Endpoint() as dialer, calls_back(a_receiver(tmp_path / "receiver", engine), dialer) as receiver:
        for number in range(kills):
            said = ("I have a question.", "Sure.", "Please call me back in 3 days.")
            await post(receiver, ended(f"c{number}", *said, customer_number=f"+1555123{number:04}"))
        await worked(receiver, kills)
        soon = int(time.time() * 1000) + 1000
        engine.change(f"update callbacks set due_at = {soon} + 700 * (rowid % {kills})")
        for _ in range(kills):
            await receiver.kill()
            await receiver.start()
            await dialer.wait_for(min(len(dialer.documents) + 1, kills), deadline=60)
            await asyncio.sleep(chance.random() / 10)  # how far it comes with the next is chance's matter
        await dialer.wait_until(lambda: len(dialer.documents) == kills, deadline=60)
        await receiver.delivered()
        called = [call_log["call_id"] for call_log in dialer.call_logs]
        assert sorted(called) == sorted(f"c{number}" for number in range(kills))


@pytest.mark.prove
async def test_kills_pay_no_finished_step_again(tmp_path: Path) -> None:
    """Killed at random while calls are worked on: every call gets its row, and at most as many answers as calls
    were under way are asked for once more."""
    chance, kills, workers = Random(84), budgeted(small=8, full=200), 5
    calls = 10 * kills
    engine = SqliteEngine(tmp_path)
    async with ModelServer() as server:
        server.delay, server.dimensions = 0.05, 1536
        environment = {"CALLSPOOL_OPENAI_BASE_URL": server.url}
        async with a_receiver(tmp_path / "receiver", engine, environment=environment) as receiver:
            for number in range(calls):
                await post(receiver, ended(f"c{number}", f"I have a question about invoice {number}.", "Yes?"))
            for _ in range(kills):
                await asyncio.sleep(0.15 + chance.random() / 2)  # how far it comes is chance's matter
                await receiver.kill()
                await receiver.start()
            await worked(receiver, calls)
            assert engine.rows("select count(*), count(distinct summary_source) from call_insights") == [(calls, 1)]
            assert engine.rows("select count(*) from call_vectors") == [(calls,)]
            assert len(server.chats) <= calls + kills * workers
            assert len(server.embeddings) <= calls + kills * workers


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of real models."""
    folder = tmp_path_factory.mktemp("models")
    install_models(folder)
    return folder


@pytest.mark.prove
@pytest.mark.skipif(not FULL, reason="real models are for the full proof")
async def test_a_real_chat_model_summarises_calls(tmp_path: Path, models: Path) -> None:
    """Over llama.cpp and its grammar for the JSON that is asked for, however poor so small a model is."""
    async with chat_model(tmp_path, models) as url:
        engine = SqliteEngine(tmp_path)
        environment = {"CALLSPOOL_OPENAI_BASE_URL": url, "CALLSPOOL_OPENAI_EMBEDDING_MODEL": "none"}
        async with a_receiver(tmp_path / "receiver", engine, environment=environment) as receiver:
            for call_id, said in TALKS.items():
                await post(receiver, ended(call_id, *said))
            await worked(receiver, len(TALKS), deadline=300)
            rows = engine.rows("select summary_source, summary from call_insights")
            assert len(rows) == len(TALKS)
            assert {source for source, _ in rows} <= {"llm", "extractive"}
            assert all(summary for _, summary in rows)
            assert "llm" in (await pipeline(receiver))["summaries"]


@pytest.mark.prove
@pytest.mark.skipif(not FULL, reason="real models are for the full proof")
async def test_a_real_server_of_embeddings_finds_similar_calls(tmp_path: Path, models: Path) -> None:
    """One that answers with vectors of its own length, whatever it is asked for."""
    async with embedding_model(models) as url:
        environment = {"CALLSPOOL_OPENAI_BASE_URL": url, "CALLSPOOL_OPENAI_CHAT_MODEL": "none"}
        receiver = a_receiver(tmp_path / "receiver", SqliteEngine(tmp_path), environment=environment)
        receiver.configure('[[destinations]]\nname = "pipeline"\ntype = "pipeline"\ndimensions = 384\n')
        async with receiver:
            for call_id, said in TALKS.items():
                await post(receiver, ended(call_id, *said))
            await worked(receiver, len(TALKS), deadline=120)
            (nearest, *_) = await ask(receiver, "calls", "similar", "tooth")
            assert nearest["call_id"] == "crown"


@pytest.mark.prove
async def test_two_receivers_share_a_queue_in_postgres(
    tmp_path: Path, postgres_servers: Callable[[str], PostgresServer]
) -> None:
    """Each call is worked on by one of them, and found through the other; a reload in between loses none."""
    engine = PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}")
    engine.change("create extension if not exists vector schema public")
    async with ModelServer() as server:
        server.dimensions = 1536
        pair = [Receiver(tmp_path / name, f"{engine.url},public") for name in ("one", "two")]
        for receiver in pair:
            receiver.environment.update({"CALLSPOOL_PIPELINE": "local", "CALLSPOOL_OPENAI_BASE_URL": server.url})
        async with pair[0], pair[1]:
            for number in range(60):
                await insist(
                    pair[number % 2], ended(f"c{number}", f"I have a question about invoice {number}.", "Yes?")
                )
                if number == 30:
                    pair[0].process.send_signal(signal.SIGHUP)
            await worked(pair[1], 60)
            assert (len(server.chats), len(server.embeddings)) == (60, 60)
            assert len(await ask(pair[0], "calls", "similar", "c59", "--limit", "5")) == 5
            assert [each["call_id"] for each in await ask(pair[1], "calls", "search", "invoice", "59")] == ["c59"]
