"""A SQLite connection with a thread of its own, and the translation of SQLite's errors."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

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

    def disconnect(self) -> None:
        """Close the file, if it is open."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> list[Any]:  # Any: a row
        """All rows of one statement."""
        assert self._connection is not None
        with closing(self._connection.execute(statement, parameters)) as cursor:
            return cursor.fetchall()

    def change(self, statement: str, parameters: Sequence[object]) -> int:
        """How many rows a statement changed."""
        assert self._connection is not None
        with closing(self._connection.execute(statement, parameters)) as cursor:
            return cursor.rowcount

    def change_many(self, statement: str, rows: Iterator[Sequence[object]]) -> None:
        """Run a statement for each of the rows."""
        assert self._connection is not None
        self._connection.executemany(statement, rows)

    def run_script(self, script: str) -> None:
        """Run a migration, which commits itself; nothing of one that fails is kept."""
        assert self._connection is not None
        try:
            self._connection.executescript(script)
        except BaseException:
            self._connection.rollback()
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
