"""Migrations: the schema is brought up to date in order, whole, once; a newer one is refused and left alone."""

import sqlite3
import time
from importlib.resources import files
from pathlib import Path
from zlib import crc32

import pytest

from spool.db import connection as database
from spool.db.connection import connect, connect_writer, migrate
from spool.directory import DATABASE_NAME
from spool.errors import SchemaTooNew
from spool.fsck import Severity, check
from spool.payload.frames import encode
from spool.records import principal_of
from tests.spool.salvaged_spools import bring
from tests.spool.spool_parts import (
    CORE,
    DETAIL,
    Clock,
    a_record,
    change,
    due,
    looked_into,
    maintained,
    opened,
    rows,
    split_fragments,
)

NUMBERED = sorted(entry.name for entry in files("spool").joinpath("schema").iterdir() if entry.name.endswith(".sql"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / DATABASE_NAME).touch()
    return tmp_path / DATABASE_NAME


def version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_migrations_are_numbered_without_gaps() -> None:
    """0001, 0002, ... each once."""
    assert [int(name[:4]) for name in NUMBERED] == list(range(1, len(NUMBERED) + 1))


@pytest.mark.parametrize("name", NUMBERED)
def test_each_migration_is_one_transaction_that_sets_its_version(name: str) -> None:
    """executescript commits first, so each file carries BEGIN, its version and COMMIT itself."""
    text = files("spool").joinpath("schema", name).read_text("utf-8")
    statements = [line for line in text.splitlines() if line and not line.startswith("--")]
    assert statements[0] == "BEGIN IMMEDIATE;"
    assert statements[-2:] == [f"PRAGMA user_version = {int(name[:4])};", "COMMIT;"]


def test_an_empty_database_gets_the_whole_schema_once(path: Path) -> None:
    """Migrating again changes nothing."""
    connection = connect_writer(path)
    migrate(connection)
    schema = connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
    migrate(connection)
    assert connection.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall() == schema
    assert version_of(connection) == len(NUMBERED)
    connection.close()


def test_each_older_version_is_brought_up_to_date(path: Path) -> None:
    """Whatever version is found, the missing migrations follow in order and make the same schema."""
    schemas = set()
    for found in range(len(NUMBERED)):
        path.unlink()
        path.touch()
        connection = connect_writer(path)
        for name in NUMBERED[:found]:
            connection.executescript(files("spool").joinpath("schema", name).read_text("utf-8"))
        migrate(connection)
        schemas.add(tuple(connection.execute("SELECT sql FROM sqlite_schema ORDER BY name")))
        connection.close()
    assert len(schemas) == 1


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A spool of a newer callspool is neither guessed at nor changed, and its directory is free again."""
    async with opened(tmp_path) as spool:
        await spool.accept(a_record())
    change(tmp_path, "PRAGMA user_version = 999")
    for _ in range(2):
        with pytest.raises(SchemaTooNew, match="999"):
            async with opened(tmp_path, lock_timeout=0.0):
                pass
    assert rows(tmp_path, "PRAGMA user_version") == [(999,)]
    assert rows(tmp_path, "SELECT count(*) FROM records") == [(1,)]


def test_a_migration_that_fails_leaves_the_version_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a migration did before its error is undone, and the next start tries it again."""
    connection = connect_writer(path)
    migrate(connection)
    broken = "BEGIN IMMEDIATE; CREATE TABLE half (a); INSERT INTO nowhere VALUES (1); PRAGMA user_version = 99; COMMIT;"
    monkeypatch.setattr(database, "_migrations", lambda: {99: broken})
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection)
    connection.close()
    again = connect(path)
    assert version_of(again) == len(NUMBERED)
    assert again.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone() == (0,)
    again.close()


def test_the_database_is_set_up_as_designed(path: Path) -> None:
    """Page size, vacuum mode and journal mode took effect, which they do only in the right order."""
    connection = connect_writer(path)
    migrate(connection)
    expected = {
        "page_size": database.PAGE_SIZE,
        "auto_vacuum": 2,
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "secure_delete": 2,
    }
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}
    assert found == expected
    connection.close()


def test_a_connection_makes_no_database(tmp_path: Path) -> None:
    """A file that was removed is not replaced by an empty one."""
    with pytest.raises(sqlite3.OperationalError):
        connect_writer(tmp_path / "missing.db")
    assert not (tmp_path / "missing.db").exists()


# Databases of before ----------------------------------------------------------------------------------------------

BEFORE_6 = [name for name in NUMBERED if int(name[:4]) < 6]
DEFERRED, STRANDED = 3_600_000, 48 * 3_600_000


def filled_before_6(path: Path) -> None:
    """As version 5 wrote it: what is owed, deferred, held as a receipt, orphaned; and an open breaker."""
    connection = connect_writer(path)
    for name in BEFORE_6:
        connection.executescript(files("spool").joinpath("schema", name).read_text("utf-8"))
    now = time.time_ns() // 1_000_000
    connection.execute("INSERT INTO meta VALUES ('spool_id', 'abcd0123'), ('limit_bytes', 100000000)")
    connection.execute("INSERT INTO destinations VALUES (1, 'endpoint'), (2, 'bucket')")
    for record_id, (call_id, settled_at) in enumerate([("a", None), ("b", None), ("c", None), ("d", now)], 1):
        connection.execute(
            "INSERT INTO records (record_id, call_id, event, digest, raw_bytes, stored_bytes, accepted_at, "
            "first_chunk, fragments, settled_at) VALUES (?, ?, 'call_ended', ?, 0, 0, ?, 1, '{\"body\":[0,0,0]}', ?)",
            (record_id, call_id, call_id.encode() * 32, now, settled_at),
        )
    for record_id, due_at, state in ((1, now, 0), (2, now + DEFERRED, 0), (3, now + STRANDED, 0), (4, now, 4)):
        connection.execute(
            "INSERT INTO deliveries (record_id, destination_id, form, lane, state, ordered, due_at, settled_at) "
            "VALUES (?, 1, 'whole', 'core', ?, 1, ?, ?)",
            (record_id, state, due_at, now if state else None),
        )
    connection.execute(
        "INSERT INTO counters (destination_id, lane, owed, ready, delivered) VALUES (1, 'core', 4, 3, 1)"
    )
    connection.execute("INSERT INTO loose_chunks VALUES (7, 9)")
    connection.execute(
        "INSERT INTO breakers VALUES (1, 'backing off', 'HTTP 503', 1, 2, 3), (2, 'paused', '', 1, 2, 3)"
    )
    connection.close()


async def test_what_version_5_wrote_goes_on_as_it_was(path: Path) -> None:
    """What was deferred stays so and becomes due with its destination; orphans and breakers are known by new names."""
    filled_before_6(path)
    now = time.time_ns() // 1_000_000
    async with opened(path.parent, clock=Clock(now)) as spool:
        assert [delivery.record.call_id for delivery in await due(spool, now=now)] == ["a", "c"]
        breakers = [await spool.uploader_state.read_breaker(name) for name in ("endpoint", "bucket")]
        assert [breaker and breaker.cause for breaker in breakers] == ["backing_off", "paused"]
        await spool.make_due("endpoint", now=now)
        assert [delivery.record.call_id for delivery in await due(spool, now=now)] == ["a", "b", "c"]
        await maintained(spool)
        assert rows(path.parent, "SELECT count(*) FROM orphan_chunks") == [(0,)]
    assert not [finding for finding in check(path.parent) if finding.severity is Severity.ERROR]


@pytest.mark.parametrize("principal", ["", principal_of(None, "key"), principal_of("tenant", None)])
async def test_what_version_5_accepted_is_an_original_whoever_repeats_it(path: Path, principal: str) -> None:
    """An upgrade in the middle of a repetition spools nothing twice: of old records nobody knows who posted them."""
    filled_before_6(path)
    async with opened(path.parent, clock=Clock(time.time_ns() // 1_000_000)) as spool:
        for call_id in ("a", "d"):
            again = await spool.accept(a_record(call_id, digest=call_id.encode() * 32, principal=principal))
            assert again.duplicate
        assert (await spool.accept(a_record("b", principal=principal))).ready == (), "waits for the old one"


WITHOUT_LATER = (
    "DROP TABLE live_calls; DROP TABLE live_turns; DROP TABLE attempts; DROP TABLE erasures; "
    "DELETE FROM meta WHERE name = 'erasure_salt';"
) + "".join(f"ALTER TABLE records DROP COLUMN {name};" for name in ("number_hint", "length_ms", "ended_reason"))
WITHOUT_KEYS = (
    "DROP INDEX records_by_epoch; ALTER TABLE records DROP COLUMN key_epoch; "
    "ALTER TABLE records DROP COLUMN payload_key; ALTER TABLE tokens DROP COLUMN key_epoch; "
    "ALTER TABLE records DROP COLUMN trace_context;"
)
"""What versions 13 and 16 added, taken away, beside the tables that go whole."""


@pytest.mark.parametrize("salvaged", [False, True])
async def test_what_version_6_accepted_is_as_sound_as_before(path: Path, salvaged: bool) -> None:
    """Its checksums know nothing of gateways; it came through none, as far as anybody knows."""
    async with opened(path.parent) as spool:
        await spool.accept(a_record("a", principal=principal_of(None, "key")))
        spool_id = spool.id
    connection = looked_into(path.parent)
    later = "DROP TABLE traces; DROP TABLE trace_rows; DROP TABLE agents; DROP INDEX unassigned; "
    later += "ALTER TABLE records DROP COLUMN via; " + WITHOUT_LATER + WITHOUT_KEYS
    connection.executescript(f"{later} PRAGMA user_version = 6;")
    connection.close()
    folder = path.parent / "new" if salvaged else path.parent
    async with opened(folder) as spool:
        if salvaged:
            await bring(spool, path.parent)
        ((record,),) = [[one.record for one in await spool.trace("a")]]
        assert (record.uid, record.damaged, record.via) == (f"{spool_id}-1", False, None)


async def test_what_version_9_counted_twice_is_counted_once(path: Path) -> None:
    """Each form counted the whole record; afterwards each counts what it carries, and fsck agrees."""
    new = a_record("a", CORE, DETAIL, fragments=split_fragments(b'"rest": 123'))
    async with opened(path.parent) as spool:
        await spool.accept(new)
        counted = {lane: counts.queued_bytes for (_, lane), counts in spool.stats().lanes.items()}
    connection = connect_writer(path)
    connection.execute("UPDATE counters SET queued_bytes = ?", (new.raw_bytes,))
    connection.executescript(f"DROP TABLE traces; DROP TABLE trace_rows; {WITHOUT_LATER} {WITHOUT_KEYS}")
    connection.executescript(files("spool").joinpath("schema", NUMBERED[7]).read_text("utf-8"))
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    async with opened(path.parent) as spool:
        assert {lane: counts.queued_bytes for (_, lane), counts in spool.stats().lanes.items()} == counted
        assert sum(counted.values()) == new.raw_bytes
    assert not [finding for finding in check(path.parent) if finding.severity is Severity.ERROR]


async def test_open_traces_of_version_10_are_kept_with_their_counts(path: Path) -> None:
    """Of their rows nobody counted the spans: the first has all of its trace's, so that a close ends at none."""
    connection = connect_writer(path)
    for name in NUMBERED[:10]:
        connection.executescript(files("spool").joinpath("schema", name).read_text("utf-8"))
    for trace, spans in ((b"a" * 16, 5), (b"b" * 16, 2)):
        connection.execute(
            "INSERT INTO traces (trace_id, principal, first_at, last_at, spans, raw_bytes) "
            "VALUES (?, 'key:1', 1, 2, ?, ?)",
            (trace, spans, 10 * spans),
        )
    for trace in (b"a" * 16, b"b" * 16, b"a" * 16):
        frame = encode(b'{"name":"x"}')
        connection.execute(
            "INSERT INTO trace_rows (trace_id, crc32, frame) VALUES (?, ?, ?)", (trace, crc32(frame), frame)
        )
    connection.close()
    async with opened(path.parent) as spool:
        found = {trace.trace_id[:1]: trace for trace in await spool.traces.open()}
        assert [(found[name].spans, found[name].raw_bytes) for name in (b"a", b"b")] == [(5, 50), (2, 20)]
        of_a = [row async for row in spool.traces.rows(b"a" * 16, "key:1")]
        assert [(row.row_id, row.spans, row.raw_bytes) for row in of_a] == [(1, 5, 50), (3, 0, 0)]
        assert {row.data for row in of_a} == {b'{"name":"x"}'}
    assert not [finding for finding in check(path.parent) if finding.severity is Severity.ERROR]
