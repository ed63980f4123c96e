"""The database file: connections, each PRAGMA with its reason, migrations, and the translation of errors."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from spool.errors import CorruptDatabase, SchemaTooNew, SpoolError, SpoolFull, SpoolUnavailable

PAGE_SIZE = 16384
"""Medians of three: 15 MB call logs 36, 41 and 45 a second with pages of 4, 8 and 16 KiB; 2 KB ones 9,000 to 9,300."""

_FULL = {sqlite3.SQLITE_FULL}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def connect_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes. There is one; its thread owns it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    # These two take effect on an empty file only, and only before the journal mode and any table.
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    # Readers never wait for the writer, and a commit is one sequential write and one fsync.
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit returns after the fsync: promise 1.
    connection.execute("PRAGMA synchronous = FULL")
    # Checkpoints run on a thread of their own, off the way of an acknowledgement.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # Debian compiles secure_delete on: deleting 75 MB would write 76 MB. FAST clears what is written anyway.
    connection.execute("PRAGMA secure_delete = FAST")
    # Only a checkpoint can be in the way, and that is over in milliseconds.
    connection.execute("PRAGMA busy_timeout = 2000")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def reader_pragmas() -> tuple[str, ...]:
    """What a reading connection sets: it can change nothing, and keeps a small cache."""
    return ("PRAGMA query_only = 1", "PRAGMA busy_timeout = 2000", "PRAGMA cache_size = -4096")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; raise `SchemaTooNew` for one that a newer callspool wrote."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    migrations = dict(_migrations())
    if found > max(migrations):
        raise SchemaTooNew(
            f"the spool's schema has version {found}, this callspool knows up to {max(migrations)}; "
            "run the callspool that wrote it or a newer one (nothing was changed)"
        )
    for version in sorted(migrations):
        if version > found:
            connection.executescript(migrations[version])


def _migrations() -> Iterator[tuple[int, str]]:
    for entry in files("spool").joinpath("schema").iterdir():
        numbered = re.match(r"(\d{4})_\w+\.sql$", entry.name)
        if numbered:
            yield int(numbered[1]), entry.read_text("utf-8")


def translate(error: sqlite3.Error, what: str) -> SpoolError:
    """The spool's own error for one of SQLite's; `what` says what was being done."""
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in _FULL:
        return SpoolFull(f"the disk is full: {what} failed ({error}); free space on it", used_bytes=0, limit_bytes=None)
    if primary in _CORRUPT:
        return CorruptDatabase(f"the spool's database is damaged: {what} failed ({error})")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return SpoolUnavailable(f"{what} failed: {error} ({name}); check the disk of the spool directory")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise the spool's errors instead of SQLite's from the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, what) from error
