"""A PostgreSQL in trouble: each kind is waited for, or says what to change, and no record is blamed for it."""

import asyncio
import json
import random
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from pwd import getpwnam
from urllib.parse import urlsplit

import pytest

from bench.postgres_server import PostgresServer
from gateway.operations.backfill import Backfill
from spool.payload.frames import encode
from tests.disks.filesystems import remount, small_disk
from tests.stores.calls import RULE, detail_of, document_of, part_of, span_of
from tests.stores.engines import PostgresEngine
from uploaders.stores.parts import PartKind
from uploaders.stores.store import (
    BackfillDay,
    BackfillStatus,
    Detail,
    Span,
    StoreRefused,
    StoreUnavailable,
    Written,
)

psycopg = pytest.importorskip("psycopg")

from uploaders.stores.postgres.store import PostgresStore  # noqa: E402  # needs psycopg

BATCH = [part_of(PartKind.START), part_of(PartKind.END)]


@pytest.fixture
def engine(postgres_servers: Callable[[str], PostgresServer]) -> PostgresEngine:
    """A fresh schema."""
    return PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}")


@pytest.fixture
async def store(engine: PostgresEngine) -> AsyncIterator[PostgresStore]:
    """With a role of its own, so that what happens to it happens to nobody else."""
    role = f"role_{uuid.uuid4().hex}"
    engine.change(f"create role {role} login")
    engine.change(f"grant usage, create on schema {engine.schema} to {role}")
    made = PostgresStore(engine.url.replace("callspool@", f"{role}@"), RULE, statement_timeout=0.2)
    await made.open()
    yield made
    await made.close()


def role_of(engine: PostgresEngine) -> str:
    ((owner,),) = engine.rows(f"select tableowner from pg_tables where schemaname = '{engine.schema}' limit 1")
    return str(owner)


class Line:
    """Between a store and its server, until `cut`: then the next answer is lost with the connection."""

    def __init__(self, url: str) -> None:
        self._server = urlsplit(url)
        self._cutting = False
        self._served = asyncio.TaskGroup()

    async def __aenter__(self) -> str:
        await self._served.__aenter__()
        self._listening = await asyncio.start_server(self._met, "127.0.0.1", 0)
        port = self._listening.sockets[0].getsockname()[1]
        return self._server._replace(netloc=f"{self._server.username}@127.0.0.1:{port}").geturl()

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        await self._served.__aexit__(None, None, None)

    def cut(self) -> None:
        self._cutting = True

    def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served.create_task(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection(self._server.hostname, self._server.port)

        async def ask() -> None:
            while data := await reader.read(1 << 16):
                questions.write(data)
            questions.close()

        asking = asyncio.create_task(ask())
        with suppress(ConnectionError):
            while data := await answers.read(1 << 16):
                if self._cutting:
                    self._cutting = False
                    break
                writer.write(data)
        asking.cancel()
        for end in (writer, questions):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()


async def test_an_answer_that_is_lost_during_a_commit_costs_nothing(engine: PostgresEngine) -> None:
    """Whether it was committed is unknown, so the batch is written again: it was, and nothing is there twice."""
    line = Line(engine.url)
    async with line as url:
        store = PostgresStore(url, RULE)
        await store.open()
        line.cut()
        with pytest.raises(StoreUnavailable):
            await store.write(BATCH)
        assert engine.rows("select count(*) from call_parts") == [(2,)], "it was cut before the commit"
        assert await store.write(BATCH) == Written()
        assert engine.rows("select count(*) from calls_complete where completed_at is not null") == [(1,)]
        await store.close()


async def test_a_lock_that_is_held_ends_in_a_time_out(store: PostgresStore, engine: PostgresEngine) -> None:
    """57014: the batch is written once the lock is free; nobody waited for longer than `statement_timeout`."""
    await store.write([part_of(PartKind.START)])
    with psycopg.connect(engine.url) as other:
        other.execute("select 1 from calls_complete for update")
        with pytest.raises(StoreUnavailable, match="57014"):
            await store.write([part_of(PartKind.END)])
    assert (await store.write([part_of(PartKind.END)])).completed == 1


async def test_an_administrator_may_end_every_connection(store: PostgresStore, engine: PostgresEngine) -> None:
    """57P01, as at a restart of the server: what was idle is not used again, and nothing that is asked then fails."""
    await store.write([part_of(PartKind.START)])
    await asyncio.gather(*[store.status() for _ in range(9)])
    assert len(store._pool._idle) > 1
    engine.rows(f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '{role_of(engine)}'")
    assert (await store.write([part_of(PartKind.END)])).completed == 1


async def test_a_detail_may_come_as_slowly_as_it_likes(store: PostgresStore, engine: PostgresEngine) -> None:
    """A limit of bandwidth, or a bucket, lets frames come for longer than a statement may take: none waits for them.

    Nor does a server that ends idle transactions end this one.
    """
    engine.change(f"alter role {role_of(engine)} set idle_in_transaction_session_timeout = 100")
    await store._pool.close()  # it holds for new connections
    text = json.dumps({"call_id": "c1", "text": "x" * 100}).encode()

    async def frames() -> AsyncIterator[bytes]:
        """Each when a statement that began before it would have been ended."""
        for piece in (text[:9], text[9:50], text[50:]):
            await asyncio.to_thread(engine.rows, "select pg_sleep(0.25)")
            yield encode(piece)

    await store.write_detail(part_of(PartKind.DETAIL, document=text), Detail(frames()))
    assert await document_of(store.detail("", "c1")) == text


async def test_a_backfill_needs_no_connection_of_the_pool(engine: PostgresEngine) -> None:
    """It asks for more while it has its own, also where the pool has one only."""
    alone = PostgresStore(engine.url, RULE, pool=1)
    await alone.write(BATCH)
    async with asyncio.timeout(20):
        steps = [step async for step in Backfill(alone).run([datetime.now(UTC).date()])]
    assert [step.status for step in steps if isinstance(step, BackfillDay)][-1] is BackfillStatus.COMPLETED
    await alone.close()


async def test_two_details_of_a_call_at_once_keep_the_spans_of_one(engine: PostgresEngine) -> None:
    """Also where no row of the call is written, for which one of them would wait: neither is refused."""
    first, second = (PostgresStore(engine.url, replace(RULE, pairs=False)) for _ in range(2))
    await first.open()
    await second.open()
    older, newer = b'{"detail":"older"}', b'{"detail":"newer"}'
    loop = asyncio.get_running_loop()
    others: list[Future[Written]] = []

    def spans_in_between() -> Iterator[Span]:
        """The other one is written until it waits, or is done."""
        part = part_of(PartKind.DETAIL, accepted_at=2, document=newer)
        writing = asyncio.run_coroutine_threadsafe(second.write_detail(part, detail_of(newer, [span_of(0, "b")])), loop)
        others.append(writing)
        while not writing.done() and not engine.rows("select 1 from pg_locks where not granted"):
            pass
        return iter([span_of(0, "a")])

    part = part_of(PartKind.DETAIL, accepted_at=1, document=older)
    await first.write_detail(part, replace(detail_of(older), spans=spans_in_between))
    await asyncio.wrap_future(others[0])
    assert engine.rows("select name from spans") == [("b",)]
    for store in (first, second):
        await store.close()


@pytest.mark.parametrize("pairs", [True, False])
async def test_a_detail_that_comes_during_a_deletion_is_there_whole_or_not_at_all(
    engine: PostgresEngine, pairs: bool
) -> None:
    """Deleted frame by frame and part by part, a call must not keep frames that no part names: nobody finds them."""
    first, second = (PostgresStore(engine.url, replace(RULE, pairs=pairs)) for _ in range(2))
    await first.write([part_of(PartKind.UPDATE)])
    engine.change("insert into completions (project, call_id) values ('', 'c1')")
    loop = asyncio.get_running_loop()
    deletions: list[Future[int]] = []
    text = b'{"call_id":"c1"}'

    def waits(what: str) -> bool:
        return bool(
            engine.rows(f"select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '{what}%'")
        )

    async with asyncio.timeout(60):
        with psycopg.connect(engine.url) as holding:
            holding.execute("select from completions for update")

            async def frames() -> AsyncIterator[bytes]:
                """The deletion is under way, behind the lock, before the detail ends."""
                yield encode(text)
                deletions.append(asyncio.run_coroutine_threadsafe(second.delete([("", "c1")]), loop))
                while not await asyncio.to_thread(waits, "DELETE FROM completions"):
                    pass

            writing = asyncio.create_task(first.write_detail(part_of(PartKind.DETAIL, document=text), Detail(frames())))
            while not (await asyncio.to_thread(waits, "SELECT pg_advisory") or writing.done()):
                pass
            holding.rollback()
        await asyncio.wrap_future(deletions[0])
        await writing
    orphans = (
        "select count(*) from call_details d where not exists (select 1 from call_parts p where p.digest = d.digest)"
    )
    assert engine.rows(orphans) == [(0,)]
    assert await first.check() == ()
    for store in (first, second):
        await store.close()


async def test_a_read_only_server_is_waited_for(store: PostgresStore, engine: PostgresEngine) -> None:
    """25006, as of a standby after a fail-over: when it takes writes again, so does the store."""
    role = role_of(engine)
    engine.change(f"alter role {role} set default_transaction_read_only = on")
    await store.close()
    with pytest.raises(StoreUnavailable, match="25006"):
        await store.write(BATCH)
    engine.change(f"alter role {role} reset default_transaction_read_only")
    assert (await store.write(BATCH)).completed == 1


async def test_a_right_that_is_taken_away_is_somebody_s_to_give_back(
    store: PostgresStore, engine: PostgresEngine
) -> None:
    """42501 while it runs: refused, with the command that names the grant, until the right is there again."""
    role = role_of(engine)
    engine.change(f"revoke usage on schema {engine.schema} from {role}")
    with pytest.raises(StoreRefused):
        await store.write(BATCH)
    assert await store.missing_rights() == (f"GRANT USAGE ON SCHEMA {engine.schema} TO {role}",)
    engine.change(f"grant usage on schema {engine.schema} to {role}")
    assert (await store.write(BATCH)).completed == 1


async def test_two_who_lock_each_other_both_write(store: PostgresStore, engine: PostgresEngine) -> None:
    """40P01: of two transactions that wait for each other the server ends one; whichever it is, ours is written at the
    latest when it is written again."""
    await store.write([part_of(PartKind.START, name) for name in ("a", "b")])
    ends = [part_of(PartKind.END, name) for name in ("a", "b")]
    patient = PostgresStore(store._pool._url, RULE)
    with psycopg.connect(engine.url) as other:
        other.execute("select 1 from calls_complete where call_id = 'b' for update")
        writing = asyncio.create_task(patient.write(ends))
        for _ in range(500):
            if engine.rows(f"select 1 from pg_locks l join pg_stat_activity a using (pid) where not l.granted "
                           f"and a.usename = '{role_of(engine)}'"):  # fmt: skip
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the batch waits for no lock")
        with suppress(psycopg.errors.DeadlockDetected):
            await asyncio.to_thread(other.execute, "select 1 from calls_complete where call_id = 'a' for update")
    with suppress(StoreUnavailable):
        await writing
    await patient.write(ends)
    assert engine.rows("select count(*) from calls_complete where completed_at is not null") == [(2,)]
    await patient.close()


async def test_a_full_disk_is_waited_for(engine: PostgresEngine) -> None:
    """53100: what does not fit is written once there is room, and what was there is there."""
    folder = Path(tempfile.mkdtemp(prefix="callspool-full-"))
    folder.chmod(0o755)
    space, role = (f"{kind}_{uuid.uuid4().hex}" for kind in ("space", "role"))
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder)
        disk = cleanup.enter_context(small_disk(folder / "disk", f"size=4m,uid={getpwnam('nobody').pw_uid}"))
        engine.change(f"create tablespace {space} location '{disk}'")
        cleanup.callback(engine.change, f"drop tablespace {space}")
        cleanup.callback(engine.change, f"drop schema {engine.schema} cascade")
        engine.change(f"create role {role} login")
        engine.change(f"grant usage, create on schema {engine.schema} to {role}")
        engine.change(f"grant create on tablespace {space} to {role}")
        engine.change(f"alter role {role} set default_tablespace = {space}")
        store = PostgresStore(engine.url.replace("callspool@", f"{role}@"), RULE)
        noise, written = random.Random(3), 0

        async def fill() -> None:
            nonlocal written
            while written < 100:
                await store.write([part_of(PartKind.CALL, f"c{written}", noise=noise.randbytes(100_000).hex())])
                written += 1

        with pytest.raises(StoreUnavailable, match="53100"):
            await fill()
        remount(disk, "size=64m")
        last = part_of(PartKind.CALL, f"c{written}", noise=noise.randbytes(100_000).hex())
        assert (await store.write([last])).completed == 1
        assert engine.rows("select count(*) from calls_complete") == [(written + 1,)]
        await store.close()


@pytest.mark.parametrize(
    ("change", "address", "said"),
    [
        ("", ("/postgres?", "/nosuch?"), 'database "nosuch" does not exist; create the database'),
        ("", ("callspool@", "nosuch@"), 'role "nosuch" does not exist; check the user'),
        ("create role {0} login connection limit 0", ("callspool@", "{0}@"), "too many connections for role"),
        ("create role {0} nologin", ("callspool@", "{0}@"), "not permitted to log in; check the user"),
    ],
)
async def test_a_connection_that_is_refused_says_why(
    engine: PostgresEngine, change: str, address: tuple[str, str], said: str
) -> None:
    """The server's reason and what to do, and not that it cannot be reached; it is asked again, as one may mend it."""
    role = f"role_{uuid.uuid4().hex}"
    if change:
        engine.change(change.format(role))
    store = PostgresStore(engine.url.replace(address[0], address[1].format(role)), RULE)
    with pytest.raises(StoreUnavailable) as refused:
        await store.open()
    assert str(refused.value).startswith("PostgreSQL refuses the connection: ")
    assert said in str(refused.value)
    await store.close()
