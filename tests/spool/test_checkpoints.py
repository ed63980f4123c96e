"""Checkpoints: the log stays bounded under load, a reader in the way stalls nobody, a failure is told."""

import asyncio
import os
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from spool.db import write_connection
from spool.db.connection import connect_writer, log_of
from spool.db.startup import prepare_database
from spool.db.write_connection import CAP_BYTES, SMALLEST_CAP_BYTES, Checkpointer
from spool.db.writer import GROUP_HEAVY_BYTES
from spool.directory import DATABASE_NAME
from spool.errors import SpoolError, SpoolUnavailable
from spool.records import Delivered
from spool.store import Spool
from tests.spool.spool_parts import (
    a_record,
    accepted_again,
    becomes,
    checkpointed,
    due,
    files_no_larger_than,
    log_size,
    looked_into,
    opened,
    rows,
    without_maintenance,
)

MIB = 1 << 20


async def steady_load(spool: Spool, directory: Path, records: int) -> int:
    """Post and deliver without a pause; returns how large the log ever was."""
    largest = 0
    for start in range(0, records, 4):
        bodies = [os.urandom(MIB) for _ in range(4)]
        posts = (spool.accept(a_record(f"c{start + n}", body=body)) for n, body in enumerate(bodies))
        for accepted in await asyncio.gather(*posts):
            await spool.settle(accepted.ready[0], Delivered())
            largest = max(largest, log_size(directory))
    return largest


async def test_the_log_is_bounded_under_steady_load(tmp_path: Path) -> None:
    """However much is written without a pause, the log is at most half above its cap, and a group."""
    async with opened(tmp_path, max_bytes=30 * MIB) as spool:
        largest = await steady_load(spool, tmp_path, 100)
    assert 2 * MIB < largest <= SMALLEST_CAP_BYTES * 3 // 2 + GROUP_HEAVY_BYTES + MIB


async def test_a_reader_in_the_way_loses_nothing_and_stalls_nobody(tmp_path: Path) -> None:
    """While somebody holds an old snapshot the log grows; afterwards it is reset, and all was accepted."""
    async with opened(tmp_path, max_bytes=400 * MIB) as spool:
        await spool.accept(a_record("first"))
        reader = looked_into(tmp_path)
        reader.execute("BEGIN")
        seen = reader.execute("SELECT count(*) FROM records").fetchone()
        started = asyncio.get_running_loop().time()
        held_up = await steady_load(spool, tmp_path, 120)
        assert asyncio.get_running_loop().time() - started < 60
        assert held_up > 50 * MIB * 3 // 2, "the snapshot did not keep the log from being reset"
        assert reader.execute("SELECT count(*) FROM records").fetchone() == seen
        reader.execute("ROLLBACK")
        reader.close()
        await asyncio.sleep(0)
        spool._writer.database._checkpointer._no_reset_before = 0.0
        await steady_load(spool, tmp_path, 16)
        assert log_size(tmp_path) < held_up
    assert rows(tmp_path, "SELECT count(*) FROM records") == [(137,)]


async def test_a_closed_spool_has_no_log(tmp_path: Path) -> None:
    """After `close` everything is in the database itself."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record("c", body=os.urandom(MIB)))
    assert not log_of(tmp_path / DATABASE_NAME).exists()


async def test_a_checkpoint_that_fails_is_made_up_for_before_the_next_acknowledgement(tmp_path: Path) -> None:
    """A database that cannot grow refuses posts though the log could take them, until a whole checkpoint succeeds."""
    async with opened(tmp_path, max_bytes=30 * MIB) as spool:
        await spool.accept(a_record("first", body=os.urandom(3 * MIB)))
        checkpointed(tmp_path)
        with files_no_larger_than((tmp_path / DATABASE_NAME).stat().st_size):
            await spool.accept(a_record("second", body=os.urandom(MIB)))
            await becomes(lambda: "checkpoint failed" in (spool.stats().failure or ""))
            with pytest.raises(SpoolUnavailable):
                await spool.accept(a_record("third", body=os.urandom(MIB)))
        await accepted_again(spool, "third")
        assert spool.stats().failure is None
        assert len(await due(spool)) == 3


@pytest.mark.parametrize("posting", [True, False], ids=["until it is taken again", "never again"])
async def test_an_index_that_the_disk_has_as_it_was_earlier_loses_nothing(tmp_path: Path, posting: bool) -> None:
    """A page of it that could not be written back may be read again as it was: after a failure nobody asks it."""
    index_path = tmp_path / f"{DATABASE_NAME}-shm"
    with ExitStack() as until_closed:
        async with opened(tmp_path) as spool:
            await without_maintenance(spool)  # it would open the database anew, perhaps while the index is put back
            await spool.accept(a_record("first"))
            index = until_closed.enter_context(index_path.open("r+b", buffering=0))
            earlier = index.read()
            await spool.accept(a_record("second"))
            with files_no_larger_than(log_size(tmp_path)), pytest.raises(SpoolUnavailable):
                await spool.accept(a_record("third"))
            os.pwrite(index.fileno(), earlier, 0)
            if posting:
                await accepted_again(spool, "fourth")
    async with opened(tmp_path) as spool:
        waiting = [delivery.record.call_id for delivery in await due(spool)]
    assert waiting == ["first", "second", *["fourth"] * posting]


async def test_nothing_is_copied_while_the_log_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where nobody posts: what SQLite believes about the log may be wrong until it was opened anew."""
    monkeypatch.setattr(write_connection, "IDLE_SECONDS", 0.01)
    path = tmp_path / DATABASE_NAME
    prepare_database(path, None, ["a"])
    with closing(connect_writer(path)) as writer:
        writer.execute("INSERT INTO meta VALUES ('a', 1)")
        before = log_size(tmp_path), path.read_bytes()
        asked = 0

        def trusted() -> bool:
            nonlocal asked
            asked += 1
            return False

        troubles: list[SpoolError | str] = []
        checkpointer = Checkpointer(path, troubles.append, troubles.append, trusted)
        checkpointer.written(CAP_BYTES)
        await becomes(lambda: asked > 3)
        assert (log_size(tmp_path), path.read_bytes()) == before
        checkpointer.stop()
        assert not troubles


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(sqlite3.SQLITE_FULL, False, id="a full disk, on which the log is as good as it was"),
        pytest.param(sqlite3.SQLITE_IOERR_FSYNC, True, id="a failed sync"),
    ],
)
def test_what_a_failed_checkpoint_means(tmp_path: Path, error: int, told: bool) -> None:
    """Only what makes the disk doubtful is a failure; either way the next checkpoint uses a new connection."""

    class Failing(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            raised = sqlite3.OperationalError("as SQLite would say")
            raised.sqlite_errorcode = error
            raise raised

    path = tmp_path / DATABASE_NAME
    prepare_database(path, None, ["a"])
    failures: list[SpoolError] = []
    full: list[str] = []
    checkpointer = Checkpointer(path, failures.append, full.append, lambda: not failures)
    checkpointer.stop()
    checkpointer._connection = sqlite3.connect(":memory:", factory=Failing)
    checkpointer._checkpoint("PASSIVE")
    assert (bool(failures), bool(full)) == (told, not told)
    checkpointer._checkpoint("PASSIVE")
    assert checkpointer._connection is not None
    assert len(failures) == told
    checkpointer._disconnect()


def test_a_log_that_could_not_be_reset_is_left_alone_for_a_while(tmp_path: Path) -> None:
    """A reader in the way is waited for once, not at every commit."""
    path = tmp_path / DATABASE_NAME
    prepare_database(path, None, ["a"])
    writer = connect_writer(path)
    failures: list[SpoolError] = []
    full: list[str] = []
    checkpointer = Checkpointer(path, failures.append, full.append, lambda: not failures, cap_bytes=MIB)
    try:
        assert not checkpointer.must_reset(MIB)
        assert checkpointer.must_reset(2 * MIB)
        reader = looked_into(tmp_path)
        writer.execute("INSERT INTO meta VALUES ('a', 1)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        writer.execute("INSERT INTO meta VALUES ('b', 1)")
        checkpointer.reset(writer, 2 * MIB)
        assert not checkpointer.must_reset(2 * MIB)
        assert writer.execute("PRAGMA busy_timeout").fetchone() == (2000,)
        reader.close()
        checkpointer.reset(writer, 2 * MIB)
        assert log_size(tmp_path) == 0
        assert checkpointer.must_reset(2 * MIB)
    finally:
        checkpointer.stop()
        writer.close()
    assert (failures, full) == ([], [])


@pytest.mark.parametrize("missing", [True, False])
def test_a_database_that_does_not_open_is_told(tmp_path: Path, missing: bool) -> None:
    """The checkpointer's own connection may fail; its thread goes on, and connects again next time."""
    path = tmp_path / DATABASE_NAME
    if not missing:
        prepare_database(path, None, ["a"])
    failures: list[SpoolError] = []
    full: list[str] = []
    checkpointer = Checkpointer(path, failures.append, full.append, lambda: not failures)
    checkpointer.stop()
    checkpointer._checkpoint("PASSIVE")
    checkpointer._disconnect()
    assert (bool(failures), full) == (missing, [])
