"""A SQLite connection with a thread of its own, the translation of SQLite's errors, and the wiping of its files."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from uploaders.stores.pipeline import Rows, Statement
from uploaders.stores.store import PartRefused, StoreRefused, StoreUnavailable

BUSY_MILLISECONDS: Final = 10_000
"""Another process may hold the file as long as its transaction lasts."""

Result = TypeVar("Result")


class Connection:
    """A connection and the one thread that uses it. `run` is for the event loop, the others are for that thread."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self.distrusts_disk = False
        """An I/O error closed it: what it wrote last may not be on the disk."""

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._connection is not None

    async def run(self, work: Callable[["Connection"], Result]) -> Result:
        """Do the work in the thread. It runs to its end also where the caller is cancelled."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._translated, work)

    async def close(self) -> None:
        """Disconnect and end the thread; nothing where that was done."""
        if self._closed:
            return
        await self.run(Connection.disconnect)
        self._closed = True
        self._thread.shutdown()

    def connect(self, path: Path) -> None:
        """Open the file."""
        # NULL isolation level: transactions are begun and ended here, in plain sight.
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")

    def write_ahead(self) -> None:
        """Give the file a write-ahead log, for good.

        Where another process is about to do the same, SQLite fails at once, whatever its busy time-out is.
        """
        deadline = time.monotonic() + BUSY_MILLISECONDS / 1000
        while True:
            try:
                self.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def disconnect(self) -> None:
        """Close the file, if it is open."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> list[Any]:  # Any: a row
        """All rows of one statement."""
        with closing(self._open.execute(statement, parameters)) as cursor:
            return cursor.fetchall()

    def change(self, statement: str, parameters: Sequence[object]) -> int:
        """How many rows a statement changed."""
        with closing(self._open.execute(statement, parameters)) as cursor:
            return cursor.rowcount

    def change_many(self, statement: str, rows: Iterator[Sequence[object]]) -> None:
        """Run a statement for each of the rows."""
        self._open.executemany(statement, rows)

    def run_script(self, script: str) -> None:
        """Run a migration, which commits itself; nothing of one that fails is kept."""
        try:
            self._open.executescript(script)
        except BaseException:
            self._open.rollback()
            raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block writes, or nothing of it."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
            raise

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Whoever waited in the thread behind what met an I/O error.
            raise StoreUnavailable("the file of the store was closed after an I/O error, and is opened again")
        return self._connection

    def _translated(self, work: Callable[["Connection"], Result]) -> Result:
        try:
            return work(self)
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            if _code(error) in _DISK:
                self.distrusts_disk = True
                with suppress(sqlite3.Error):
                    self.disconnect()
            raise _translate(error) from error


_REFUSED_VALUES: Final = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}
_DISK: Final = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL}
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: Exception) -> int:
    """SQLite's primary result code; 0 where the error is not SQLite's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _translate(error: Exception) -> Exception:
    """The store's error for one of SQLite's or of binding a value."""
    if isinstance(error, OverflowError | UnicodeEncodeError):
        return PartRefused(f"SQLite refuses a value: {error}")
    code = _code(error)
    if code in _REFUSED_VALUES or isinstance(error, sqlite3.DataError):
        return PartRefused(f"SQLite refuses a value: {error}")
    if code in _DAMAGED:
        return StoreRefused(f"the store is damaged or no SQLite database: {error}")
    return StoreUnavailable(f"SQLite: {error}")


# Statements of several callers share a transaction.

Order = tuple[Sequence[Statement], bool]
"""Statements, and whether the first of them is a fence: without a row of it the others are not run."""


def run_orders(orders: Sequence[Order], writing: Connection) -> list[list[Rows]]:
    """The rows of every statement that was run. In the connection's thread."""
    with writing.transaction():
        return [_run_order(order, writing) for order in orders]


def _run_order(order: Order, writing: Connection) -> list[Rows]:
    statements, fenced = order
    done: list[Rows] = []
    for each in statements:
        done.append(writing.execute(*each))
        if fenced and not done[0]:
            break
    return done


# Wiping leaves nothing of deleted rows in the files of a store: not in free pages, the full-text index, or the log.

_FILL_BYTES: Final = 4 << 20
"""Of zeros in one transaction: the log stays small, and writes of others are not held up for long."""
_LOG_SECONDS: Final = 10.0
"""How long readers may keep the log from being emptied."""


def wipe(being_written: Collection[int], writing: Connection) -> None:
    """In the connection's thread. Takes as long as writing the free pages once, and the words of all summaries.

    Frames of details that never got their part name no call, so all of them go, but for those `being_written` here. If
    another process writes some, it begins anew.

    With `secure_delete = FAST` SQLite clears what is deleted inside of pages, but not pages that become free: a table
    of zeros takes all of these, and gives them back. Raises `StoreUnavailable` where readers do not let go of the log.
    """
    for detail in writing.execute("SELECT detail_id FROM details WHERE staged_at IS NOT NULL"):
        if detail[0] not in being_written:
            with writing.transaction():
                writing.change("DELETE FROM call_details WHERE detail_id = ?", detail)
                writing.change("DELETE FROM details WHERE detail_id = ?", detail)
    if writing.execute("SELECT 1 FROM sqlite_schema WHERE name = 'call_words'"):
        # An index of words only marks what is deleted, until its segments are merged.
        writing.execute("INSERT INTO call_words (call_words) VALUES ('optimize')")
    ((page_bytes,),) = writing.execute("PRAGMA page_size")
    with writing.transaction():
        writing.execute("CREATE TABLE IF NOT EXISTS wiping (zeros BLOB) STRICT")
    while free := writing.execute("PRAGMA freelist_count")[0][0]:
        with writing.transaction():
            # A row of many pages takes them whole; the last ones are taken one by one, each by a row of its own.
            size = min(free * page_bytes, _FILL_BYTES) - 2 * page_bytes
            writing.execute("INSERT INTO wiping VALUES (zeroblob(?))", (max(size, page_bytes // 2),))
    with writing.transaction():
        writing.execute("DROP TABLE wiping")
    deadline = time.monotonic() + _LOG_SECONDS
    while writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
        if time.monotonic() > deadline:
            raise StoreUnavailable("a reader keeps the log of the store from being emptied: erase again")
