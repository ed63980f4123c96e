"""Migrations: the schema is brought up to date in order, whole, once; a newer one is refused and left alone."""

import sqlite3
from importlib.resources import files
from pathlib import Path

import pytest

from spool.db import connection as database
from spool.db.connection import connect, connect_writer, migrate
from spool.directory import DATABASE_NAME
from spool.errors import SchemaTooNew
from tests.spool.building import a_record, looked_into, opened

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
    connection = looked_into(tmp_path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    for _ in range(2):
        with pytest.raises(SchemaTooNew, match="999"):
            async with opened(tmp_path, lock_timeout=0.0):
                pass
    connection = looked_into(tmp_path)
    assert version_of(connection) == 999
    assert connection.execute("SELECT count(*) FROM records").fetchone() == (1,)
    connection.close()


def test_a_migration_that_fails_leaves_the_version_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a migration did before its error is undone, and the next start tries it again."""
    connection = connect_writer(path)
    migrate(connection)
    broken = "BEGIN IMMEDIATE; CREATE TABLE half (a); INSERT INTO nowhere VALUES (1); PRAGMA user_version = 99; COMMIT;"
    monkeypatch.setattr(database, "_migrations", lambda: iter([(99, broken)]))
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
