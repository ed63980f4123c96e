"""Starting: a spool with a large backlog opens with as little work as an empty one, and damaged rows stop nobody."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from spool.db import startup
from spool.db.connection import connect_writer
from spool.db.startup import prepare_database
from spool.directory import DATABASE_NAME
from spool.errors import SpoolUnavailable
from spool.records import Lane
from tests.spool.spool_parts import ENDPOINT, NOW, a_record, due, looked_into, opened

BACKLOG = 100_000

FILL = [
    f"""INSERT INTO records (record_id, call_id, agent_id, event, digest, raw_bytes, stored_bytes, accepted_at,
            token_id, first_chunk, fragments, principal)
        SELECT value, 'call-' || (value - (value % 4 = 2)), 'agent', 'call_ended', zeroblob(32), 2000, 800, {NOW}, 1,
            value, '{{"body":[1,2000,800]}}', '' FROM generate_series""",
    "INSERT INTO chunks SELECT value, 0, zeroblob(200) FROM generate_series",
    f"""INSERT INTO deliveries (record_id, destination_id, form, lane, state, ordered, due_at)
        SELECT value, 1, 'whole', 'core', (value + 3) % 4, 1, {NOW} FROM generate_series""",
    f"INSERT INTO tokens VALUES (1, zeroblob(32), 'token', {BACKLOG}, NULL)",
    f"""INSERT INTO counters VALUES (1, 'core', {BACKLOG}, {BACKLOG // 4}, {BACKLOG // 4}, {BACKLOG // 4},
        {BACKLOG // 4}, 0, 0, 0, {BACKLOG // 4 * 3 * 2000})""",
]


async def fill(directory: Path) -> None:
    """A backlog of 100,000 records, written as the spool would, but at once: one is ready, one waits for it, ..."""
    async with opened(directory):
        pass
    connection = looked_into(directory)
    series = (
        "WITH RECURSIVE generate_series(value) AS "
        f"(SELECT 1 UNION ALL SELECT value + 1 FROM generate_series WHERE value < {BACKLOG}) "
    )
    connection.execute("BEGIN")
    for statement in FILL:
        connection.execute(series + statement if "generate_series" in statement else statement)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


class Work:
    """Counts the statements of a connection, and the steps of SQLite's virtual machine that they took."""

    def __init__(self, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self._connect = connect
        self.statements = 0
        self.steps = 0

    def __call__(self, path: Path) -> sqlite3.Connection:
        connection = self._connect(path)
        connection.set_trace_callback(self._statement)
        connection.set_progress_handler(self._step, 1)
        return connection

    def _statement(self, _text: str) -> None:
        self.statements += 1

    def _step(self) -> int:
        self.steps += 1
        return 0


def work_of_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work(connect_writer)
    with monkeypatch.context() as patched:
        patched.setattr(startup, "connect_writer", work)
        prepare_database(path, None, [ENDPOINT])
    return work


async def test_opening_is_as_little_work_with_a_backlog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The statements of a start are the same, and take as many steps, whatever waits in the spool."""
    async with opened(tmp_path / "empty"):
        pass
    await fill(tmp_path / "full")
    empty = work_of_opening(tmp_path / "empty" / DATABASE_NAME, monkeypatch)
    full = work_of_opening(tmp_path / "full" / DATABASE_NAME, monkeypatch)
    assert full.statements == empty.statements > 5
    assert full.steps <= empty.steps + 100


async def test_a_spool_with_a_backlog_takes_posts_and_hands_out_what_is_due(tmp_path: Path) -> None:
    """The figures are there at once, the oldest delivery is due, and a new record goes behind the others."""
    await fill(tmp_path)
    async with opened(tmp_path) as spool:
        counts = spool.stats().lanes[ENDPOINT, Lane.CORE]
        assert (counts.owed, counts.queued, counts.dead) == (BACKLOG, BACKLOG * 3 // 4, BACKLOG // 4)
        accepted = await spool.accept(a_record("new"))
        assert accepted.ready[0].record.record_id == BACKLOG + 1
        page = await spool.due(ENDPOINT, Lane.CORE, now=NOW, limit=3)
        assert [one.record.record_id for one in page.deliveries] == [1, 5, 9]


async def test_one_start_after_the_other_changes_nothing(tmp_path: Path) -> None:
    """Opening and closing keeps the spool's id, its figures and its records."""
    uids = set()
    for number in range(3):
        async with opened(tmp_path) as spool:
            uids.add((await spool.accept(a_record(f"c{number}"))).uid.rsplit("-", 1)[0])
            assert len(await due(spool)) == number + 1
    assert len(uids) == 1


async def test_two_spools_never_share_an_identity(tmp_path: Path) -> None:
    """Keys that destinations remember differ between spools, also for records with the same number."""
    keys = set()
    for number in range(4):
        async with opened(tmp_path / str(number)) as spool:
            keys.add((await spool.accept(a_record())).ready[0].idempotency_key)
    assert len(keys) == 4


async def test_a_start_that_fails_gives_the_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the writer cannot be opened, nothing is left open and the next start may try again."""

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr("spool.db.write_connection.connect_writer", fail)
        with pytest.raises(SpoolUnavailable, match="for writing"):
            async with opened(tmp_path):
                pass
    async with opened(tmp_path, lock_timeout=0.0) as spool:
        assert (await spool.accept(a_record())).ready
