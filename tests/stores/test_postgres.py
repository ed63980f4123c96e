"""What the PostgreSQL store does besides what every store does."""

import asyncio
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from bench.postgres_server import PostgresServer
from tests.stores.calls import RULE, detail_of, document_of, numbered, part_of
from tests.stores.engines import PostgresEngine
from tests.stores.postgres_server import started
from uploaders.stores.completion import CallState
from uploaders.stores.parts import PartKind
from uploaders.stores.store import BackfillStatus, CallQuery, Detail, PartRefused, StoreRefused, StoreUnavailable

psycopg = pytest.importorskip("psycopg")

from uploaders.stores.postgres.pool import translate  # noqa: E402  # needs psycopg
from uploaders.stores.postgres.store import PostgresStore  # noqa: E402


@pytest.fixture
def engine(postgres_servers: Callable[[str], PostgresServer]) -> PostgresEngine:
    """A fresh schema."""
    return PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}")


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may kill, and that flushes what it commits."""
    server = started("18")
    yield server
    server.stop()


async def test_a_value_that_is_refused_refuses_its_batch_alone(engine: PostgresEngine) -> None:
    """Nothing of the batch is kept, the next one is written, and the error quotes no document."""
    store = engine.store()
    spoken = b'{"secret": "what was said", "broken'
    with pytest.raises(PartRefused) as refused:
        await store.write([part_of(PartKind.START), part_of(PartKind.END, "bad", document=spoken)])
    assert "said" not in str(refused.value)
    assert await store.call("", "c1") is None
    assert (await store.write([part_of(PartKind.START)])).new
    await store.close()


async def test_calls_of_an_agent_in_a_state_have_their_index(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither all of the agent nor all of the state are read for them."""
    store = PostgresStore(engine.url, RULE)
    await store.open()
    engine.change(
        "insert into calls_complete (project, call_id, state, late, self_contained, conflicts, first_part_at, "
        "end_digest, end_head) select '', 'c' || i, case when i % 7 = 0 then 5 else 3 end, false, true, 0, now(), 'd', "
        "jsonb_build_object('agent_id', 'agent-' || i % 9, 'started_at', i) from generate_series(1, 20000) i"
    )
    engine.change("analyze calls_complete")
    plans: list[str] = []
    rows = store._rows

    async def explained(statement: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """The plan of what the store asks for, and then that."""
        plans.append(" ".join(line for (line,) in await rows(f"explain {statement}", parameters)))
        return await rows(statement, parameters)

    monkeypatch.setattr(store, "_rows", explained)
    query = CallQuery(agent_id="agent-1", state=CallState.ORPHAN, limit=51)
    found = await store.calls(query)
    await store.calls(replace(query, after=(found[-1].place, found[-1].call_id)))
    assert len(found) == 51
    assert ["calls_by_agent_and_state" in plan for plan in plans] == [True, True]
    await store.close()


async def test_a_missing_grant_is_named(engine: PostgresEngine) -> None:
    """A role that may not write is refused with the grants that it needs."""
    owner = engine.store()
    await owner.open()
    role = f"role_{uuid.uuid4().hex}"
    engine.change(f"create role {role} login")
    engine.change(f"grant usage on schema {engine.schema} to {role}")
    store = PostgresStore(engine.url.replace("callspool@", f"{role}@"), RULE)
    with pytest.raises(StoreRefused, match="what to grant this role"):
        await store.write([part_of(PartKind.START)])
    missing = await store.missing_rights()
    assert f"GRANT INSERT, SELECT, UPDATE ON {engine.schema}.calls_complete TO {role}" in missing
    for statement in missing:
        engine.change(statement)
    assert await store.missing_rights() == ()
    assert (await store.write([part_of(PartKind.START), part_of(PartKind.END)])).completed == 1
    await store.write_detail(part_of(PartKind.DETAIL, document=b"{}"), detail_of(b"{}"))
    await store.sweep()
    assert await store.check() == ()
    await store.close()
    await owner.close()


async def test_a_database_that_is_not_there_is_refused_or_waited_for(engine: PostgresEngine) -> None:
    """A server that does not answer may come; the message names no password."""
    store = PostgresStore("postgresql://user:hush@127.0.0.1:1/db", RULE)
    with pytest.raises(StoreUnavailable) as unavailable:
        await store.open()
    assert "hush" not in str(unavailable.value)
    await store.close()


async def test_a_server_that_was_killed_has_all_that_was_acknowledged(own_server: PostgresServer) -> None:
    """SIGKILL under load, several times: each acknowledged part is there once, and the store goes on by itself."""
    store = PostgresStore(own_server.url(), RULE)
    await store.open()
    acknowledged: list[str] = []
    news: asyncio.Queue[str] = asyncio.Queue()
    stopping = asyncio.Event()

    async def load(worker: int) -> None:
        number = 0
        while not stopping.is_set():
            call_id = f"{worker}-{number}"
            try:
                await store.write([part_of(PartKind.START, call_id)])
                await store.write([part_of(PartKind.END, call_id)])
            except StoreUnavailable:
                await asyncio.sleep(0.01)  # and again the same, as an uploader does
                continue
            acknowledged.append(call_id)
            news.put_nowait(call_id)
            number += 1

    workers = [asyncio.create_task(load(worker)) for worker in range(4)]
    for _ in range(3):
        for _ in range(40):
            await news.get()
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.start)
    stopping.set()
    await asyncio.gather(*workers)
    status = await store.status()
    with psycopg.connect(own_server.url()) as connection:
        parts = connection.execute("select call_id, count(*) from call_parts group by call_id").fetchall()
    await store.close()
    assert set(acknowledged) <= {call_id for call_id, count in parts if count == 2}
    assert all(count <= 2 for _, count in parts)
    assert status.calls[CallState.COMPLETE] >= len(acknowledged)


async def test_a_detail_that_a_killed_server_saw_half_of_is_not_there(own_server: PostgresServer) -> None:
    """A detail is one transaction: afterwards it is written again, whole."""
    store = PostgresStore(own_server.url(), RULE)
    await store.open()
    text = random.Random(3).randbytes(2 << 20).hex().encode()
    part = part_of(PartKind.DETAIL, document=text)

    async def killed() -> AsyncIterator[bytes]:
        async for number, frame in numbered(detail_of(text).frames):
            if number == 2:
                await asyncio.to_thread(own_server.kill)
            yield frame

    with pytest.raises(StoreUnavailable):
        await store.write_detail(part, Detail(killed()))
    await asyncio.to_thread(own_server.start)
    assert await store.call("", "c1") is None
    await store.write_detail(part, detail_of(text))
    assert await document_of(store.detail("", "c1")) == text
    await store.close()


@pytest.mark.parametrize(
    ("sqlstate", "kind"),
    [
        ("22P05", PartRefused),  # untranslatable character
        ("22021", PartRefused),  # character not in repertoire
        ("54000", PartRefused),  # program limit exceeded
        ("40P01", StoreUnavailable),  # deadlock
        ("40001", StoreUnavailable),  # serialization failure
        ("57P01", StoreUnavailable),  # admin shutdown
        ("57014", StoreUnavailable),  # statement timeout
        ("53300", StoreUnavailable),  # too many connections
        ("53100", StoreUnavailable),  # disk full
        ("25006", StoreUnavailable),  # read-only transaction
        ("42501", StoreRefused),  # insufficient privilege
        ("42P01", StoreRefused),  # undefined table
        ("3D000", StoreRefused),  # no such database
        ("28P01", StoreRefused),  # wrong password
    ],
)
def test_each_error_is_the_value_s_the_moment_s_or_the_set_up_s(sqlstate: str, kind: type[Exception]) -> None:
    """What is retried, what refuses one part, and what waits for somebody to change something."""
    assert type(translate(psycopg.errors.lookup(sqlstate)())) is kind


async def test_the_rights_to_begin_with_are_named(engine: PostgresEngine) -> None:
    """A role that may do nothing yet, in a schema without tables, is told what lets it make them."""
    role = f"role_{uuid.uuid4().hex}"
    engine.change(f"create role {role} login")
    store = PostgresStore(engine.url.replace("callspool@", f"{role}@"), RULE)
    missing = await store.missing_rights()
    assert missing == (
        f"GRANT USAGE ON SCHEMA {engine.schema} TO {role}",
        f"GRANT CREATE ON SCHEMA {engine.schema} TO {role}",
    )
    for statement in missing:
        engine.change(statement)
    await store.open()
    assert await store.missing_rights() == ()
    await store.close()


@pytest.mark.prove
async def test_a_backfill_that_is_killed_in_every_page_goes_on(engine: PostgresEngine) -> None:
    """SIGKILL after the rows and before the commit of each second page: rows and cursor always agree."""
    old = engine.store(pairs=False)
    await old.write([part_of(PartKind.CALL, f"c{number}") for number in range(10)])
    engine.age(48 * 3600 * 1000)
    day = await old.oldest_day()
    assert day is not None
    for completed in (3, 6, 9):
        command = [sys.executable, "-m", "tests.stores.killed_backfill", engine.url, day.isoformat(), "3", "2"]
        done = await asyncio.to_thread(subprocess.run, command, check=False)
        assert done.returncode == -signal.SIGKILL
        assert engine.rows("select count(*) from calls_complete") == [(completed,)]
        assert engine.rows("select calls, written from backfill_progress") == [(completed, completed)]
    pages = [page async for page in old.backfill(day, 3)]
    assert (pages[-1].status, pages[-1].calls, pages[-1].written) == (BackfillStatus.COMPLETED, 10, 10)
    await old.close()


async def test_an_older_schema_gets_the_steps_that_it_lacks(engine: PostgresEngine) -> None:
    """Each once, whatever was done before."""
    store = PostgresStore(engine.url, RULE)
    await store.open()
    await store.close()
    ((newest,),) = engine.rows("select max(version) from store_version")
    engine.change("drop index pipeline_jobs_claimed")
    engine.change("delete from store_version where version > 8")
    store = PostgresStore(engine.url, RULE)
    await store.open()
    await store.close()
    indexes = "select indexname from pg_indexes where schemaname = current_schema() and indexname = "
    assert engine.rows(f"{indexes}'pipeline_jobs_claimed'") == [("pipeline_jobs_claimed",)]
    assert engine.rows("select version from store_version where version > 8 order by version") == [
        (version,) for version in range(9, newest + 1)
    ]
