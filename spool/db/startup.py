"""Opening a spool: the database file, its schema, what a start needs to know; a corrupt one is replaced."""

import errno
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from spool.db import sql
from spool.db.connection import (
    VERSIONS_AHEAD,
    connect_writer,
    log_of,
    migrate,
    newest_version,
    primary_code,
    schema_faults,
    translate,
    translated,
)
from spool.db.transaction import DeliveryCounters
from spool.db.wal import lost_commits
from spool.db.write_connection import CAP_BYTES, SMALLEST_CAP_BYTES
from spool.directory import finish_quarantines, quarantine
from spool.errors import CorruptDatabase
from spool.records import DestinationIds
from spool.space import default_limit

LOG_SHARE = 8
"""The write-ahead log may take an eighth of the quota, so that a small spool is not filled by its log alone."""

_CORRUPTION_CODES = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, 0}
"""Of statements that are right for every sound database; 0 is the Python module's own, for text that is no UTF-8."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the database says at a start."""

    destinations: DestinationIds
    limit_bytes: int
    next_chunk: int
    encrypted: bool = False
    """Whether anything that is stored is encrypted."""
    quarantined: Path | None = None
    """Where the database is that was there before, if it was corrupt."""

    @property
    def log_cap_bytes(self) -> int:
        """Above this size the write-ahead log is reset."""
        return max(SMALLEST_CAP_BYTES, min(CAP_BYTES, self.limit_bytes // LOG_SHARE))


def open_or_replace(path: Path, max_bytes: int | None, destinations: Sequence[str], now: int) -> Start:
    """Prepare the database; a corrupt one is moved into quarantine whole, and a new one takes its place.

    Raises `SchemaTooNew`, which is no corruption, and `SpoolUnavailable` where disk or rights are in the way.
    """
    with translated(f"opening the spool {path}"):
        finish_quarantines(path.parent)
    try:
        _refuse_lost_commits(path)
        return prepare_database(path, max_bytes, destinations)
    except CorruptDatabase as error:
        with translated(f"moving the corrupt database {path} into quarantine"):
            folder = quarantine(path.parent, str(error), now)
        return replace(prepare_database(path, max_bytes, destinations), quarantined=folder)


def prepare_database(path: Path, max_bytes: int | None, destinations: Sequence[str]) -> Start:
    """Bring the database up to date and read what a start needs; a handful of look-ups, whatever it holds."""
    with _corruption_recognised(path):
        _protect(path)
        connection = connect_writer(path)
        try:
            _check_schema(connection)
            with translated(f"bringing the schema of the spool {path} up to date"):
                migrate(connection)
            _write_facts(connection, path, destinations)
            DeliveryCounters(connection)  # what the writer will read: whether it can be
            return _read(connection, max_bytes)
        finally:
            connection.close()


def _refuse_lost_commits(path: Path) -> None:
    """Raise `CorruptDatabase` where opening the database would lose what its log holds."""
    with _corruption_recognised(path):
        if not path.exists() and log_of(path).exists():
            raise CorruptDatabase(f"the database {path} is not there, and its log is")
        lost = lost_commits(path) if path.exists() else 0
    if lost:
        raise CorruptDatabase(f"the log of {path} is corrupt: {lost} commits behind the damage would be lost")


@contextmanager
def _corruption_recognised(path: Path) -> Iterator[None]:
    """Tell corruption from what else keeps a database from opening: what a sound one could not cause is corruption."""
    try:
        yield
    except sqlite3.Error as error:
        refused = primary_code(error) == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK)
        if refused or primary_code(error) in _CORRUPTION_CODES:
            raise CorruptDatabase(f"the spool {path} is corrupt: {error}") from error
        raise translate(error, f"opening the spool {path}") from error
    except OSError as error:
        raise translate(error, f"opening the spool {path}") from error
    except (TypeError, ValueError, LookupError) as error:
        raise CorruptDatabase(f"the spool {path} is corrupt: it holds what was never written ({error})") from error


def _check_schema(connection: sqlite3.Connection) -> None:
    """A version and tables that do not fit together are damage, but a version a little ahead is a newer callspool's."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if newest_version() < version <= newest_version() + VERSIONS_AHEAD:
        return
    faults = schema_faults(connection)
    if faults:
        raise CorruptDatabase(f"the schema of the spool is corrupt: {', '.join(faults)}")
    if not 0 <= version <= newest_version():
        raise CorruptDatabase(f"the schema of the spool is corrupt: it calls itself version {version}")


def _protect(path: Path) -> None:
    """Make the file if there is none, for its owner only (promise 9); SQLite gives its log the same mode."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, "the database is a symbolic link", str(path))
    path.touch(0o600)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _write_facts(connection: sqlite3.Connection, path: Path, destinations: Sequence[str]) -> None:
    """Write the facts that every spool knows about itself, once, and the destinations."""
    has_id = connection.execute(sql.READ_META, ("spool_id",)).fetchone() is not None
    used = connection.execute(sql.LAST_RECORD).fetchone() is not None
    if used and not has_id:
        raise CorruptDatabase(f"the spool {path} is corrupt: it has lost its id")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(sql.WRITE_META, ("spool_id", secrets.token_hex(4)))
    connection.execute(sql.WRITE_META, ("limit_bytes", default_limit(path.parent)))
    known = {name for _, name in connection.execute(sql.ALL_DESTINATIONS)}
    connection.executemany(sql.ADD_DESTINATION, [(name,) for name in destinations if name not in known])
    connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, max_bytes: int | None) -> Start:
    """What a start needs."""
    spool_id = connection.execute(sql.READ_META, ("spool_id",)).fetchone()[0]
    default = connection.execute(sql.READ_META, ("limit_bytes",)).fetchone()[0]
    names = dict(connection.execute(sql.ALL_DESTINATIONS).fetchall())
    last_chunks = [
        connection.execute(statement).fetchone()[0] or 0 for statement in (sql.LAST_CHUNK, sql.LAST_ORPHAN_CHUNK)
    ]
    ids = {name: destination_id for destination_id, name in names.items()}
    encrypted = connection.execute(sql.ANY_ENCRYPTED).fetchone() is not None
    return Start(DestinationIds(spool_id, ids, names), max_bytes or default, max(last_chunks) + 1, encrypted)
