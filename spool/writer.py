"""The sole writer: one thread owns the one writing connection, and many requests share one durable commit.

Whoever wants something written submits an operation, a function of the transaction, and awaits its result. The
thread takes all that wait (light ones first, then heavy ones up to a bound, so that a large payload never holds
small posts up for long), runs them in one transaction, commits with an fsync, and only then resolves the results.
An operation that fails takes nobody with it: the group is rolled back and each of its operations runs alone.
"""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from spool.accounting import CounterBook
from spool.checkpoints import Checkpointer
from spool.database import PAGE_SIZE, connect_writer, translate
from spool.errors import SpoolError, SpoolUnavailable
from spool.tokens import TokenBook

Result = TypeVar("Result")

GROUP_LIGHT_OPERATIONS = 512
GROUP_HEAVY_BYTES = 4 << 20
"""At 250 MB/s this much holds a small post up for 16 ms."""
HEAVY_BYTES = 256 << 10
PAGES_PER_GROUP = 12
"""About how many pages a group of small records writes besides payloads; for the pace of checkpoints only."""
REOPEN_SECONDS = 1.0


class CommitObserver(Protocol):
    """Hears of every durable commit, on the event loop."""

    def committed(self, seconds: float, batch: int) -> None:
        """A transaction with `batch` operations took `seconds` from BEGIN to the end of its fsync."""
        ...


class Transaction:
    """What an operation may use: the connection and the books that are written with it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.counters = CounterBook(connection)
        self.tokens = TokenBook()

    def commit(self) -> None:
        """Write the books and make all of it durable."""
        self.counters.flush(self.connection)
        self.tokens.flush(self.connection)
        self.execute("COMMIT")
        self.counters.committed()
        self.tokens.committed()

    def roll_back(self) -> None:
        """Undo everything since BEGIN."""
        if self.connection.in_transaction:
            self.execute("ROLLBACK")
        self.counters.rolled_back()
        self.tokens.rolled_back()


Operation = Callable[[Transaction], Result]


@dataclass(slots=True)
class _Request(Generic[Result]):
    operation: Operation[Result]
    byte_count: int
    future: asyncio.Future[Result]
    result: Result | None = None
    error: BaseException | None = None

    def resolve(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # None only where Result allows it


class Writer:
    """Owns the writing connection in a thread. Opens it at once; `close` ends it."""

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, observer: CommitObserver) -> None:
        self._path = path
        self._loop = loop
        self._observer = observer
        self._inbox: SimpleQueue[_Request[object] | None] = SimpleQueue()
        self._light: deque[_Request[object]] = deque()
        self._heavy: deque[_Request[object]] = deque()
        self._closed = False
        self._last_reopen = 0.0
        self.failure: str | None = None
        """Why nothing can be written at the moment, if so."""
        self.used_bytes = 0
        """Pages in use, times their size, as of the last commit; the log not included."""
        self.transaction = Transaction(connect_writer(path))
        self._measure()
        self.checkpointer = Checkpointer(path, self._checkpoint_failed)
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log as of the last checkpoint."""
        return self.checkpointer.log_bytes

    def submit(self, operation: Operation[Result], byte_count: int = 0) -> "asyncio.Future[Result]":
        """Have `operation` run in a transaction; the future resolves once that is durable.

        `byte_count` says how many payload bytes it writes. Raises `SpoolUnavailable` after `close`.
        """
        if self._closed:
            raise SpoolUnavailable("the spool is closed")
        future: asyncio.Future[Result] = self._loop.create_future()
        self._inbox.put(_Request(operation, byte_count, future))  # type: ignore[arg-type]  # a queue of any results
        return future

    async def close(self) -> None:
        """Write what was submitted, finish the log, and end the thread."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    # The thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping = False
        while not stopping or self._light or self._heavy:
            stopping = self._collect(block=not (stopping or self._light or self._heavy)) or stopping
            group = self._take_group()
            if group:
                self._write(group)
                self._loop.call_soon_threadsafe(_resolve, group)
            if self.checkpointer.reset_due:
                self._reset_log()
        self.checkpointer.stop()
        self._finish()

    def _collect(self, *, block: bool) -> bool:
        """Sort what waits into light and heavy; returns whether the end was asked for."""
        try:
            request = self._inbox.get(block=block)
            while request is not None:
                (self._heavy if request.byte_count >= HEAVY_BYTES else self._light).append(request)
                request = self._inbox.get(block=False)
        except Empty:
            return False
        return True

    def _take_group(self) -> list[_Request[object]]:
        group = [self._light.popleft() for _ in range(min(len(self._light), GROUP_LIGHT_OPERATIONS))]
        heavy_bytes = 0
        while self._heavy and heavy_bytes + self._heavy[0].byte_count <= max(
            GROUP_HEAVY_BYTES, self._heavy[0].byte_count
        ):
            heavy_bytes += self._heavy[0].byte_count
            group.append(self._heavy.popleft())
        return group

    def _write(self, group: list[_Request[object]]) -> None:
        if self.failure is not None and not self._reopen():
            for request in group:
                request.error = SpoolUnavailable(f"the spool cannot write: {self.failure}")
            return
        error = self._transact(group)
        if error is None:
            return
        if len(group) == 1 or self.failure is not None:
            for request in group:
                request.error = error
            return
        for request in group:
            self._write([request])

    def _transact(self, group: list[_Request[object]]) -> BaseException | None:
        """Run a group in one transaction. Returns what made it come to nothing."""
        started = time.perf_counter()
        try:
            self.transaction.execute("BEGIN IMMEDIATE")
            for request in group:
                request.result = request.operation(self.transaction)
            self.transaction.commit()
        except sqlite3.Error as error:
            return self._failed(translate(error, "writing to the spool"))
        except Exception as error:  # noqa: BLE001  # whatever an operation raises belongs to whoever submitted it
            self._roll_back()
            return error
        self._measure()
        self.checkpointer.written(PAGES_PER_GROUP * PAGE_SIZE + sum(request.byte_count for request in group))
        self._loop.call_soon_threadsafe(self._observer.committed, time.perf_counter() - started, len(group))
        return None

    def _failed(self, error: SpoolError) -> SpoolError:
        """After an I/O error nothing that the connection believes can be trusted: it is reopened before the next."""
        self._roll_back()
        if isinstance(error, SpoolUnavailable):
            self.failure = str(error)
        return error

    def _roll_back(self) -> None:
        try:
            self.transaction.roll_back()
        except sqlite3.Error as error:
            self.failure = f"rolling back failed: {error}"

    def _reopen(self) -> bool:
        """Open the database anew and move the whole log into it; only then is a commit to be trusted again.

        After a failed fsync Linux marks the pages clean, so that a second fsync would succeed without writing them.
        """
        if time.monotonic() - self._last_reopen < REOPEN_SECONDS:
            return False
        self._last_reopen = time.monotonic()
        try:
            self.transaction.connection.close()
            self.transaction = Transaction(connect_writer(self._path))
            busy, _, _ = self.transaction.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            self.failure = f"the spool's database does not open: {error}"
            return False
        if busy:
            return False
        self.failure = None
        return True

    def _measure(self) -> None:
        pages = self.transaction.execute("PRAGMA page_count").fetchone()[0]
        free = self.transaction.execute("PRAGMA freelist_count").fetchone()[0]
        self.used_bytes = (pages - free) * PAGE_SIZE

    def _reset_log(self) -> None:
        try:
            self.checkpointer.reset(self.transaction.connection)
        except sqlite3.Error as error:
            self.failure = f"resetting the log failed: {error}"

    def _checkpoint_failed(self, reason: str) -> None:
        self.failure = reason

    def _finish(self) -> None:
        """Leave a database without a log behind, where the disk allows it; the log is as good."""
        try:
            self.transaction.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.transaction.connection.close()
        except sqlite3.Error as error:
            self.failure = f"closing the spool's database failed: {error}"


def _resolve(group: list[_Request[object]]) -> None:
    for request in group:
        request.resolve()
