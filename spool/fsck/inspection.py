"""Looking into a spool without changing a byte of it, beside a running gateway or where none runs.

- A gateway runs: a reading connection like any other. It takes SQLite's own read locks and changes no file's content,
  and holds no snapshot for longer than the books take.
- None runs, and the write-ahead log holds something: `mode=ro` alone would rebuild the log's index in a new file. With
  the VFS that locks nothing, and exclusive mode, SQLite keeps that index in memory (SQLite: "Write-Ahead Logging", 8).
- None runs, and there is no log: `immutable=1`, for otherwise an empty log would be made.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spool.database import log_of
from spool.directory import DATABASE_NAME

Tell = Callable[[str, int, int], None]
"""Hears of progress: what is being checked, how much of it is done, and how much there is (0: not known)."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A spool that is being looked into."""

    directory: Path
    connection: sqlite3.Connection
    live: bool
    """Whether a gateway owns it at the moment."""
    tell: Tell


@contextmanager
def reading(database: Path, *, live: bool) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, for one thread at a time; text that is no UTF-8 is read all the same."""
    connection = sqlite3.connect(_address(database, live=live), uri=True, isolation_level=None, check_same_thread=False)
    try:
        if not live:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA query_only = 1")
        connection.execute("PRAGMA busy_timeout = 2000")
        connection.text_factory = _text
        yield connection
    finally:
        connection.close()


def _address(database: Path, *, live: bool) -> str:
    address = f"{database.absolute().as_uri()}?mode=ro"
    if live:
        return address
    log = log_of(database)
    return address + ("&vfs=unix-none" if log.exists() and log.stat().st_size else "&immutable=1")


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")


@contextmanager
def inspecting(directory: Path, *, live: bool, tell: Tell) -> Iterator[Inspection]:
    """Look into the spool in `directory`."""
    with reading(directory / DATABASE_NAME, live=live) as connection:
        yield Inspection(directory, connection, live, tell)
