"""What the embedded store does besides what every store does."""

import asyncio
import json
import random
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.stores.calls import RULE, detail_of, part_of
from tests.stores.engines import SqliteEngine
from uploaders.stores.completion import CallState
from uploaders.stores.parts import PartKind
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.sqlite.connection import Connection
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import CallQuery, CallsWanted, Detail, PartRefused, StoreRefused, StoreUnavailable, Written


async def test_nobody_else_may_read_the_file(tmp_path: Path) -> None:
    """The file and the directory that is made for it are their owner's alone."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    await store.write([part_of(PartKind.START)])
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (engine.path.parent, *engine.path.parent.iterdir())]
    await store.close()
    assert modes[0] == 0o700
    assert set(modes[1:]) == {0o600}


async def test_the_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A path that names another database, such as a spool, is refused; nothing in it is changed."""
    path = tmp_path / "spool.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE records (id INTEGER)")
    before = path.read_bytes()
    store = SqliteStore(path, lambda: 0, RULE)
    with pytest.raises(StoreRefused, match="something else"):
        await store.open()
    await store.close()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Waiting would not mend it."""
    path = tmp_path / "store.db"
    path.write_bytes(b"no database at all, " * 100)
    store = SqliteStore(path, lambda: 0, RULE)
    with pytest.raises(StoreRefused, match="no SQLite database"):
        await store.write([part_of(PartKind.START)])
    await store.close()


async def test_a_directory_that_cannot_be_made_may_be_there_later(tmp_path: Path) -> None:
    """A store that cannot be opened is tried again by the next write."""
    blocked = tmp_path / "calls"
    blocked.write_text("a file")
    store = SqliteStore(blocked / "store.db", lambda: 0, RULE)
    with pytest.raises(StoreUnavailable):
        await store.write([part_of(PartKind.START)])
    blocked.unlink()
    assert (await store.write([part_of(PartKind.START)])).new
    await store.close()


async def test_a_new_file_that_another_process_is_making_is_waited_for(tmp_path: Path) -> None:
    """A receiver and a worker that start together both find the store open, though one has the file's lock first."""
    store = SqliteStore(tmp_path / "calls.db", lambda: 0, RULE)
    with closing(sqlite3.connect(tmp_path / "calls.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(store.open())
        done, _ = await asyncio.wait([opening], timeout=0.1)
        assert not done
        other.execute("ROLLBACK")
    await opening
    assert await store.write([part_of(PartKind.START)]) == Written({PartKind.START: 1})
    await store.close()


async def test_a_value_that_cannot_be_stored_refuses_its_batch_alone(tmp_path: Path) -> None:
    """Nothing of the batch is kept, and the next one is written."""
    store = SqliteEngine(tmp_path).store()
    beyond = part_of(PartKind.START, "beyond", accepted_at=1 << 70)
    with pytest.raises(PartRefused):
        await store.write([part_of(PartKind.START), beyond])
    assert await store.call("", "c1") is None
    assert (await store.write([part_of(PartKind.START)])).new
    await store.close()


async def test_waiting_for_another_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another process keeps locked is unavailable, not refused, and free later."""
    monkeypatch.setattr("uploaders.stores.sqlite.connection.BUSY_MILLISECONDS", 50)
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    await store.open()
    with closing(sqlite3.connect(engine.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.write([part_of(PartKind.START)])
    assert (await store.write([part_of(PartKind.START)])).new
    await store.close()


async def test_after_a_failed_commit_everything_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed fsync is reported once: the connection is replaced, and its log written again before the next answer."""
    store = SqliteEngine(tmp_path).store()
    await store.write([part_of(PartKind.START)])
    execute, statements = Connection.execute, list[str]()

    def failing(self: Connection, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        statements.append(statement)
        if statement == "COMMIT" and statements.count("COMMIT") == 1:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return execute(self, statement, parameters)

    monkeypatch.setattr(Connection, "execute", failing)
    with pytest.raises(StoreUnavailable, match="disk I/O error"):
        await store.write([part_of(PartKind.END)])
    assert await store.write([part_of(PartKind.END)]) == Written({PartKind.END: 1}, completed=1)
    assert statements.index("PRAGMA wal_checkpoint(TRUNCATE)") < len(statements) - 1 - statements[::-1].index("COMMIT")
    assert statements.count("PRAGMA wal_checkpoint(TRUNCATE)") == 1
    await store.close()


async def test_what_waits_behind_a_failed_commit_may_work_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that it waited for is closed: that is the store's matter, and no defect that ends whoever asks."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    await store.open()
    execute, failed, queued = Connection.execute, list[str](), threading.Event()

    def failing(self: Connection, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        if statement == "COMMIT" and not failed:
            failed.append(statement)
            assert queued.wait(10)
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return execute(self, statement, parameters)

    monkeypatch.setattr(Connection, "execute", failing)
    work = [store.write([part_of(PartKind.START)]), store.write([part_of(PartKind.END)]), store.sweep()]
    waiting = asyncio.gather(*work, return_exceptions=True)
    await asyncio.sleep(0)  # each is in the queue of the thread
    queued.set()
    errors = await waiting
    assert [type(error) for error in errors] == [StoreUnavailable] * 3
    assert (await store.write([part_of(PartKind.START), part_of(PartKind.END)])).completed == 1
    await store.close()


async def test_calls_of_an_id_are_found_by_their_key(tmp_path: Path) -> None:
    """In every project, and without reading the keys of all others."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    await store.write([replace(part_of(PartKind.CALL, "c1"), project=project) for project in ("", "a", "b")])
    connection = store._reading._connection
    assert connection is not None
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    assert await store.find_calls(CallsWanted(("c1", "never"))) == [("", "c1"), ("a", "c1"), ("b", "c1")]
    connection.set_trace_callback(None)
    plan = [row[-1] for row in engine.rows(f"EXPLAIN QUERY PLAN {asked[0]}")]
    assert any("SEARCH p USING" in step and "(project=? AND call_id=?)" in step for step in plan)
    assert not any(step.startswith("SCAN p") for step in plan)
    await store.close()


LISTS = {
    CallQuery(): "calls_by_time",
    CallQuery(agent_id="a"): "calls_by_agent",
    CallQuery(customer_number="+1"): "calls_by_number",
    CallQuery(state=CallState.ORPHAN): "calls_by_state",
    CallQuery(agent_id="a", state=CallState.ORPHAN): "calls_by_agent_and_state",
    CallQuery(agent_id="a", state=CallState.ORPHAN, until=9, after=(5, "c")): "calls_by_agent_and_state",
}


async def test_every_list_has_its_index(tmp_path: Path) -> None:
    """None reads calls that it does not show, and none sorts, also in a store that is older than the index."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    await store.open()
    await store.close()
    for index in ("calls_by_agent_and_state", "pipeline_jobs_claimed"):
        engine.change(f"DROP INDEX {index}")
    engine.set_schema_version(6)
    store = engine.store()
    await store.open()
    assert isinstance(store, SqliteStore)
    connection = store._reading._connection
    assert connection is not None
    for query, index in LISTS.items():
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        await store.calls(query)
        connection.set_trace_callback(None)
        plan = " ".join(row[-1] for row in engine.rows(f"EXPLAIN QUERY PLAN {asked[0]}"))
        assert f"USING INDEX {index} (" in plan
        assert "TEMP B-TREE" not in plan
    await store.close()


async def test_nothing_of_an_erased_call_is_left_in_the_files(tmp_path: Path) -> None:
    """Neither of it nor of what was deleted before: in pages, free pages, the index of words and the log."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    said = random.Random(7).randbytes(3_000).hex()
    parts = [part_of(PartKind.CALL, f"c{number}", text=f"{said} {number}" * 20) for number in range(20)]
    await store.write(parts)
    text = json.dumps({"call_id": "c1", "text": said * 400}).encode()
    await store.write_detail(part_of(PartKind.DETAIL, "c1", document=text), detail_of(text, whole=True))
    tables = PipelineTables(store, lambda: 0)
    await tables.prepare()
    await store.run([
        ("INSERT INTO call_insights VALUES (1, '', 'c1', :said, 'llm', null, null, null, 0, 0)", {"said": said}),
        ("INSERT INTO call_words (rowid, words) VALUES (1, :said)", {"said": f"zebracrossing {said}"}),
    ])  # fmt: skip
    with sqlite3.connect(engine.path) as database:
        assert database.execute("PRAGMA secure_delete = 0").fetchone() == (0,)
        database.execute("DELETE FROM call_parts WHERE call_id = 'c0'")
    database.close()

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in engine.path.parent.iterdir())

    assert said[:64].encode() in files()
    keys = await store.find_calls(CallsWanted(tuple(f"c{number}" for number in range(20))))
    for key in keys:
        await tables.forget_call(*key)
    await store.delete(keys)
    await store.wipe()
    left = files()
    assert said[:64].encode() not in left
    assert said[-64:].encode() not in left
    assert b"zebracrossing" not in left
    await store.close()


async def test_an_erasure_takes_what_was_left_of_a_detail_and_none_that_is_being_written(tmp_path: Path) -> None:
    """An attempt that failed midway left frames that name no call; another call's goes on, in this store."""
    engine = SqliteEngine(tmp_path)
    store = engine.store()
    said = random.Random(7).randbytes(6 << 20).hex().encode()
    said = said[: len(said) // 2]
    wiping, wiped = asyncio.Event(), asyncio.Event()

    async def failing() -> AsyncIterator[bytes]:
        yield said
        raise OSError("the payload cannot be read")

    async def slowly() -> AsyncIterator[bytes]:
        yield said
        wiping.set()
        await wiped.wait()
        yield said

    gone, stays = part_of(PartKind.DETAIL, "gone"), part_of(PartKind.DETAIL, "stays")
    with pytest.raises(OSError, match="cannot be read"):
        await store.write_detail(gone, Detail(failing()))
    being_written = asyncio.ensure_future(store.write_detail(stays, Detail(slowly())))
    await wiping.wait()
    await store.wipe()
    with sqlite3.connect(engine.path) as database:
        assert database.execute("SELECT count(*) FROM call_details").fetchone() == (1,)
    database.close()
    other = engine.store()
    await other.wipe()
    await other.close()
    wiped.set()
    with pytest.raises(StoreUnavailable, match="written anew"):
        await being_written
    files = b"".join(path.read_bytes() for path in engine.path.parent.iterdir())
    assert said[:64] not in files
    assert await store.write_detail(stays, Detail(slowly())) == Written({PartKind.DETAIL: 1})
    await store.close()
