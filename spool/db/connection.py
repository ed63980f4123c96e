"""The database file: connections, each PRAGMA with its reason, migrations, and the translation of errors."""

import functools
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path

from spool.errors import CorruptDatabase, NotStorable, SchemaTooNew, SpoolError, SpoolFull, SpoolUnavailable

PAGE_SIZE = 16384
"""Medians of three: 15 MB call logs 36, 41 and 45 a second with pages of 4, 8 and 16 KiB; 2 KB ones 9,000 to 9,300."""

VERSIONS_AHEAD = 1000
"""No newer callspool is so far ahead: a version beyond that is a damaged number, not a newer schema."""

SqliteError = sqlite3.Error | MemoryError | UnicodeDecodeError
SQLITE_ERRORS = (sqlite3.Error, MemoryError, UnicodeDecodeError)
"""What the sqlite3 module raises for an error of SQLite.

MemoryError stands for SQLITE_NOMEM; UnicodeDecodeError for a message that quotes a damaged schema, which is no UTF-8.
"""

_FULL = {sqlite3.SQLITE_FULL}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_VALUES = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DISK = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL}


_SCHEMA = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"


def address_of(path: Path) -> str:
    """What to connect to; nothing is made anew, should the file have been removed."""
    return f"{path.absolute().as_uri()}?mode=rw"


def connect(path: Path) -> sqlite3.Connection:
    """A connection that the thread which uses it need not have made itself."""
    return sqlite3.connect(
        address_of(path), uri=True, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def connect_writer(path: Path, *, erase_freed: bool = False) -> sqlite3.Connection:
    """The connection that writes. There is one; its thread owns it.

    With `erase_freed` whatever is deleted is overwritten, whole pages that become free, too.
    """
    connection = connect(path)
    try:
        _prepare_to_write(connection)
        if erase_freed:
            connection.execute("PRAGMA secure_delete = ON")
    except SQLITE_ERRORS:
        connection.close()
        raise
    return connection


def _prepare_to_write(connection: sqlite3.Connection) -> None:
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


def rewrite(path: Path) -> None:
    """Write a database that nobody uses anew, so that nothing is left in its free pages and in gaps of the others.

    Needs as much room again. Raises the spool's errors; then the database is as it was.
    """
    with translated(f"writing {path} anew"), closing(connect_writer(path)) as connection:
        connection.execute("PRAGMA temp_store = FILE")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def reader_pragmas() -> tuple[str, ...]:
    """What a reading connection sets: it can change nothing, and keeps a small cache."""
    return ("PRAGMA query_only = 1", "PRAGMA busy_timeout = 2000", "PRAGMA cache_size = -4096")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date; raise `SchemaTooNew` for one that a newer callspool wrote."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    migrations = _migrations()
    newest = newest_version()
    if found > newest:
        raise SchemaTooNew(
            f"the spool's schema has version {found}, this callspool knows up to {newest}; "
            "run the callspool that wrote it or a newer one (nothing was changed)"
        )
    if found == 0:  # one transaction: a new database on an almost full disk writes each page once
        connection.executescript(_as_one_transaction([migrations[version] for version in sorted(migrations)]))
        return
    for version in sorted(migrations):
        if version > found:
            connection.executescript(migrations[version])


def _as_one_transaction(scripts: Sequence[str]) -> str:
    begin, commit = "BEGIN IMMEDIATE;\n", "COMMIT;\n"
    return begin + "".join(script.replace(begin, "").replace(commit, "") for script in scripts) + commit


def schema_faults(connection: sqlite3.Connection) -> list[str]:
    """The names of what is missing in the schema, or differs from its version; what is there besides is fine."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    found = dict(connection.execute(_SCHEMA).fetchall())
    return [name for name, text in _schema_of(version).items() if found.get(name) != text]


@functools.cache
def _schema_of(version: int) -> Mapping[str, str]:
    """The statements of a version, by the names of what they make: what its migrations leave behind."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        for number, script in sorted(_migrations().items()):
            if number <= version:
                made.executescript(script)
        return dict(made.execute(_SCHEMA).fetchall())


def newest_version() -> int:
    """The version of the schema that this callspool writes."""
    return max(_migrations())


@functools.cache
def _migrations() -> Mapping[int, str]:
    """Each version and the script that brings the version before it there."""
    scripts = files("spool").joinpath("schema").iterdir()
    numbered = ((re.match(r"(\d{4})_\w+\.sql$", script.name), script) for script in scripts)
    return {int(number[1]): script.read_text("utf-8") for number, script in numbered if number}


def log_of(path: Path) -> Path:
    """The write-ahead log of a database."""
    return path.with_name(f"{path.name}-wal")


def primary_code(error: SqliteError) -> int:
    """SQLite's primary result code; 0 where the error is the Python module's own."""
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def distrusts_disk(error: SqliteError) -> bool:
    """Whether nothing that a connection believes about its files can be trusted any more."""
    return primary_code(error) in _DISK


def concerns_everyone(error: SqliteError) -> bool:
    """Whether any other operation would have met it too, at that moment."""
    return distrusts_disk(error) or primary_code(error) in _LOCKED


def translate(error: Exception, what: str) -> SpoolError:
    """The spool's own error for one of SQLite's or of binding a value; `what` says what was being done."""
    if isinstance(error, UnicodeEncodeError):
        return NotStorable(f"{what} failed: a text holds a lone surrogate ({error.reason}, at {error.start})")
    if isinstance(error, OverflowError):
        return NotStorable(f"{what} failed: a number has more than 64 bits")
    if isinstance(error, sqlite3.Error | UnicodeDecodeError):
        return _translate_code(error, what)
    return SpoolUnavailable(f"{what} failed: {error}; check the disk of the spool directory")


def _translate_code(error: sqlite3.Error | UnicodeDecodeError, what: str) -> SpoolError:
    primary = primary_code(error)
    if primary in _FULL:
        return SpoolFull(f"the disk is full: {what} failed ({error}); free space on it", used_bytes=0, limit_bytes=None)
    if primary in _CORRUPT:
        return CorruptDatabase(f"the spool's database is corrupt: {what} failed ({error})")
    if primary in _VALUES:
        return NotStorable(f"{what} failed: {error}")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return SpoolUnavailable(f"{what} failed: {error} ({name}); check the disk of the spool directory")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise the spool's errors instead of SQLite's and the operating system's from the block."""
    try:
        yield
    except (sqlite3.Error, OSError, UnicodeError, OverflowError) as error:
        raise translate(error, what) from error


# Looking into a database without changing a byte of it, beside a running gateway or where none runs.
#
# - A gateway runs: a reading connection like any other. It takes SQLite's own read locks and changes no file's
#   content.
# - None runs, and the write-ahead log holds something: `mode=ro` alone would rebuild the log's index in a new file.
#   With the VFS that locks nothing, and exclusive mode, SQLite keeps that index in memory (SQLite: "Write-Ahead
#   Logging", 8).
# - None runs, and there is no log: `immutable=1`, for otherwise an empty log would be made.

CORRUPT_ROW_ERRORS = (sqlite3.Error, TypeError, ValueError, LookupError, OverflowError)
"""What reading corrupt rows can raise: whatever stands in a column, its type is not the schema's any more."""


_LONGEST_VALUE = 4 << 20
"""No value of a spool comes near it; one that is longer is damage, or somebody's who wants our memory."""


@contextmanager
def reading(database: Path, *, live: bool) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, for one thread at a time; text that is no UTF-8 is read all the same.

    `live` says whether a gateway owns the spool. Never for the database that this process itself has open: closing any
    descriptor of it would drop the POSIX locks by which other processes see this one.
    """
    connection = sqlite3.connect(
        _inspection_address(database, live=live), uri=True, isolation_level=None, check_same_thread=False
    )
    try:
        if not live:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA query_only = 1")
        connection.execute("PRAGMA busy_timeout = 2000")
        connection.text_factory = _lenient_text
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        yield connection
    finally:
        connection.close()


def _inspection_address(database: Path, *, live: bool) -> str:
    address = f"{database.absolute().as_uri()}?mode=ro"
    if live:
        return address
    log = log_of(database)
    return address + ("&vfs=unix-none" if log.exists() and log.stat().st_size else "&immutable=1")


def _lenient_text(stored: bytes) -> str:
    return stored.decode("utf-8", "replace")
