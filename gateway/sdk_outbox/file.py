"""One outbox file: claiming rows as the SDK does, reading them, and deleting them when they are durable elsewhere.

Everything here blocks, for at most `LOCK_SECONDS` on other processes: call it in a worker thread, one call at a
time. No transaction is held between two calls, so that an SDK beside us never waits longer than for its own kind.
"""

import asyncio
import json
import sqlite3
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from gateway.sdk_outbox.rows import (
    ANY_FREE_ROW,
    CLAIM,
    COLUMNS,
    COUNT,
    DELETE_CLAIMED,
    FREE_FROM,
    FREE_IDS,
    FREE_ROWS,
    GIVE_BACK,
    KINDS,
    OutboxUnusable,
    Row,
    Survey,
    translated,
)
from spool.queue.ingest import uninterrupted

# Whether a file is an outbox of the SDK in good order, found out without changing a byte of it.
#
# A damaged or foreign file must not be touched, and merely opening an SQLite file to write may move its log into it. So
# it is looked at as immutable first, or, where a log lies beside it, read-only. Triggers are refused, since deleting a
# row would run them.

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


BATCH_ROWS = 32
BATCH_BYTES = 1 << 20
"""Payloads that are held in memory at once; a row that is larger comes alone, and is copied piece by piece."""
_COPY_BYTES = 1 << 20


class OutboxFile:
    """An outbox of the SDK. `open` before the first of the other calls, `close` after the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._proven: Stamp | None = None
        self._connection: sqlite3.Connection | None = None

    def stamp(self) -> Stamp | None:
        """See `stamp_of`: cheap enough to be asked every second."""
        return stamp_of(self.path)

    def open(self, stamp: Stamp, *, to_change: bool = True) -> bool:
        """Make sure that it is an outbox, and connect to it; False where it has no table yet.

        A file that was proven once is trusted until it is replaced, or fails. Raises `OutboxError`.
        """
        if (self._proven is None or stamp.replaces(self._proven)) and not prove(self.path, stamp):
            return False
        self._proven = stamp
        with self._translated():
            self._connection = connect(self.path, "rw" if to_change else reading_mode(stamp))
        return True

    def close(self) -> None:
        """Let go of the file; harmless when repeated."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def claim(self, now: float, left_out: Collection[int]) -> tuple[Row, ...]:
        """Claim the next rows that nobody works on, at most one of each call, but those of `left_out`.

        `now` is in seconds since the epoch, as the SDK counts. Where none is returned, none is free. Raises
        `OutboxError`.
        """
        wanted: dict[str, object] = {"now": now, "left_out": json.dumps(list(left_out)), "limit": BATCH_ROWS}
        with self._translated():
            if not self._open.execute(ANY_FREE_ROW, wanted).fetchone()[0]:
                return ()
            with self._transaction() as connection:
                rows = tuple(self._batch(connection.execute(FREE_ROWS, wanted).fetchall()))
                connection.executemany(CLAIM, [(now, row.row_id) for row in rows])
            return rows

    def copy(self, row: Row, write: Callable[[bytes], object]) -> None:
        """Give the payload of a row to `write`, piece by piece. Raises `OutboxError`, and what `write` raises."""
        with self._translated(), self._open.blobopen("outbox", "payload", row.row_id, readonly=True) as blob:
            while piece := blob.read(_COPY_BYTES):
                write(piece)

    def settle(self, claimed_at: float, done: Sequence[Row], not_done: Sequence[Row]) -> None:
        """Delete the claimed rows that are durable elsewhere, and give the others back as they were."""
        with self._translated(), self._transaction() as connection:
            connection.executemany(DELETE_CLAIMED, [(row.row_id, claimed_at) for row in done])
            connection.executemany(
                GIVE_BACK, [(row.status, row.claimed_at, row.row_id, claimed_at) for row in not_done]
            )

    def free_from(self, left_out: Collection[int]) -> float | None:
        """When the next row can be taken that cannot be now, in seconds since the epoch; None without one."""
        with self._translated():
            found: float | None = self._open.execute(FREE_FROM, {"left_out": json.dumps(list(left_out))}).fetchone()[0]
            return found

    def count(self) -> int:
        """How many rows it holds, of whatever status."""
        with self._translated():
            return int(self._open.execute(COUNT).fetchone()[0])

    def survey(self, now: float) -> Survey:
        """What lies in it; nothing is changed."""
        with self._translated():
            free = [row_id for (row_id,) in self._open.execute(FREE_IDS, {"now": now})]
            kinds = tuple(self._open.execute(KINDS))
            size = sum(self._size(row_id) for row_id in free)
            return Survey(len(free), size, self.count() - len(free), kinds)

    def _batch(self, free: Sequence[tuple[int, str, str, float | None]]) -> Iterator[Row]:
        """The rows of one batch; the first in any case."""
        calls: set[str] = set()
        total = 0
        for row_id, call_id, status, claimed_at in free:
            size = self._size(row_id)
            if call_id in calls or (calls and total + size > BATCH_BYTES):
                return
            payload = self._read(row_id) if size <= BATCH_BYTES else None
            yield Row(row_id, call_id, status, claimed_at, size, payload)
            calls.add(call_id)
            total += size

    def _size(self, row_id: int) -> int:
        """Bytes of a payload. SQL's length() would read all of it into memory."""
        with self._open.blobopen("outbox", "payload", row_id, readonly=True) as blob:
            return len(blob)

    def _read(self, row_id: int) -> bytes:
        """A payload in one piece."""
        with self._open.blobopen("outbox", "payload", row_id, readonly=True) as blob:
            return blob.read()

    @property
    def _open(self) -> sqlite3.Connection:
        """The connection, which must be there."""
        assert self._connection is not None, "it is not open"
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Immediate, as the SDK's: who reads rows in order to claim them must not be overtaken."""
        connection = self._open
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """A file that failed is examined again before its next use."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            told = translated(error)
            if isinstance(told, OutboxUnusable):
                self._proven = None
            raise told from error


# Work on an outbox in a thread, waited for to its end even by who is cancelled.

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    """The function's result. A connection must not be closed while a thread is still inside of it."""
    return await uninterrupted(asyncio.ensure_future(asyncio.to_thread(function, *arguments, **keywords)))
