"""Whether a file is an outbox of the SDK in good order, found out without changing a byte of it.

A damaged or foreign file must not be touched, and merely opening an SQLite file to write may move its log into it. So
it is looked at as immutable first, or, where a log lies beside it, read-only. Triggers are refused, since deleting a
row would run them.
"""

import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gateway.outbox.errors import OutboxUnusable, translated
from gateway.outbox.rows import COLUMNS

LOCK_SECONDS = 5
"""For another process to end its transaction: as long as the SDK waits."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """By which a change of the file, or of the log beside it, is seen without opening either."""

    identity: tuple[int, int]
    size: int
    changed_at: int
    log_size: int
    log_changed_at: int

    def replaces(self, earlier: "Stamp") -> bool:
        """Whether another file lies there now. One that shrank is another, too: numbers of deleted files are given to
        new ones, and an outbox only grows.
        """
        return self.identity != earlier.identity or self.size < earlier.size


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of an outbox; None where there is no file yet. Raises `OutboxUnusable`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutboxUnusable(f"it cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise OutboxUnusable("it is not a file")
    try:
        log = log_of(path).stat()
    except OSError:
        return Stamp((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns, 0, 0)
    return Stamp((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns, log.st_size, log.st_mtime_ns)


def log_of(path: Path) -> Path:
    """The write-ahead log beside an SQLite file."""
    return path.with_name(f"{path.name}-wal")


def reading_mode(stamp: Stamp) -> str:
    """How to open it so that neither it nor its log changes: immutable, unless a log holds what it does not yet."""
    return "ro" if stamp.log_size else "ro&immutable=1"


def prove(path: Path, stamp: Stamp) -> bool:
    """True for a sound outbox, False for a file that has no table yet. Raises `OutboxUnusable` or `OutboxBusy`."""
    try:
        with closing(connect(path, reading_mode(stamp))) as connection:
            tables = connection.execute("SELECT type, name, tbl_name FROM sqlite_schema").fetchall()
            if not tables:
                return False
            _check_schema(connection, tables)
            fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise translated(error) from error
    if fault != "ok":
        raise OutboxUnusable(f"it is damaged ({' '.join(str(fault).split())}): repair it, or move it away")
    return True


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection in autocommit mode that makes no file, and runs no code that the file brings along."""
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=LOCK_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.text_factory = _text
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _text(stored: bytes) -> str:
    """A text of the file; one that is not UTF-8 must not keep the other rows from being read."""
    return stored.decode(errors="replace")


def _check_schema(connection: sqlite3.Connection, tables: list[tuple[str, str, str]]) -> None:
    """Raises `OutboxUnusable` unless the tables are those of the SDK's outbox."""
    if ("table", "outbox", "outbox") not in tables:
        raise OutboxUnusable("it is an SQLite file of another program: it has no table named outbox")
    if any(kind == "trigger" for kind, _, _ in tables):
        raise OutboxUnusable("it has triggers, which no outbox of the SDK has")
    columns = {str(row[1]): bool(row[5]) for row in connection.execute("PRAGMA table_info(outbox)")}
    missing = sorted(COLUMNS - columns.keys())
    if missing or not columns["id"]:
        told = ", ".join(missing) or "a primary key"
        raise OutboxUnusable(f"its table outbox is not the SDK's: it lacks {told}")
