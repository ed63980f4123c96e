"""Opening a spool: the database file, its schema, and what a start needs to know."""

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spool import statements
from spool.checkpoints import CAP_BYTES, SMALLEST_CAP_BYTES
from spool.database import connect_writer, migrate, translated
from spool.quota import default_limit
from spool.settling import Names

LOG_SHARE = 8
"""The write-ahead log may take an eighth of the quota, so that a small spool is not filled by its log alone."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the database says at a start."""

    names: Names
    limit_bytes: int
    next_chunk: int

    @property
    def log_cap_bytes(self) -> int:
        """Above this size the write-ahead log is reset."""
        return max(SMALLEST_CAP_BYTES, min(CAP_BYTES, self.limit_bytes // LOG_SHARE))


def prepare_database(path: Path, max_bytes: int | None, destinations: Sequence[str]) -> Start:
    """Bring the database up to date and read what a start needs; a handful of look-ups, whatever it holds."""
    with translated(f"opening the spool {path}"):
        _protect(path)
        connection = connect_writer(path)
        try:
            migrate(connection)
            _introduce(connection, path, destinations)
            return _read(connection, max_bytes)
        finally:
            connection.close()


def _protect(path: Path) -> None:
    """Make the file if there is none, for its owner only (promise 9); SQLite gives its log the same mode."""
    path.touch(0o600)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _introduce(connection: sqlite3.Connection, path: Path, destinations: Sequence[str]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(statements.WRITE_META, ("spool_id", secrets.token_hex(4)))
    connection.execute(statements.WRITE_META, ("limit_bytes", default_limit(path.parent)))
    known = {name for _, name in connection.execute(statements.ALL_DESTINATIONS)}
    connection.executemany(statements.ADD_DESTINATION, [(name,) for name in destinations if name not in known])
    connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, max_bytes: int | None) -> Start:
    spool_id = connection.execute(statements.READ_META, ("spool_id",)).fetchone()[0]
    default = connection.execute(statements.READ_META, ("limit_bytes",)).fetchone()[0]
    names = dict(connection.execute(statements.ALL_DESTINATIONS).fetchall())
    last_chunks = [
        connection.execute(statement).fetchone()[0] or 0
        for statement in (statements.LAST_CHUNK, statements.LAST_LOOSE_CHUNK)
    ]
    ids = {name: destination_id for destination_id, name in names.items()}
    return Start(Names(spool_id, ids, names), max_bytes or default, max(last_chunks) + 1)
