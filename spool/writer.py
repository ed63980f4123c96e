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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from spool import statements
from spool.checkpoints import CAP_BYTES, Checkpointer
from spool.database import (
    PAGE_SIZE,
    SQLITE_ERRORS,
    concerns_everyone,
    connect_writer,
    distrusts_disk,
    log_of,
    translate,
)
from spool.disk_space import DiskSpace
from spool.errors import SpoolFull, SpoolUnavailable
from spool.requests import Group, Request, fail, resolve
from spool.transaction import Operation, Result, Transaction
from spool.write_points import WritePoint, reach

GROUP_LIGHT_OPERATIONS = 512
GROUP_HEAVY_BYTES = 4 << 20
"""At 250 MB/s this much holds a small post up for 16 ms."""
HEAVY_BYTES = 256 << 10
PAGES_PER_GROUP = 12
"""About how many pages a group of small records writes besides payloads; for the pace of checkpoints only."""
REOPEN_SECONDS = 1.0
WRITING = "writing to the spool"


class CommitObserver(Protocol):
    """Hears of every durable commit that changed something, on the event loop."""

    def committed(self, seconds: float, batch: int) -> None:
        """A transaction with `batch` operations took `seconds` from BEGIN to the end of its fsync."""
        ...


@dataclass(frozen=True, slots=True)
class _Setback:
    """What made a transaction come to nothing; with `shared` it would be no better for any of its operations."""

    error: Exception
    shared: bool


class Writer:
    """Owns the writing connection in a thread. Opens it at once; `close` ends it."""

    def __init__(
        self, path: Path, loop: asyncio.AbstractEventLoop, observer: CommitObserver, log_cap_bytes: int = CAP_BYTES
    ) -> None:
        self._path = path
        self._log_path = log_of(path)
        self._loop = loop
        self._observer = observer
        self._inbox: SimpleQueue[Request[object] | None] = SimpleQueue()
        self._light: deque[Request[object]] = deque()
        self._heavy: deque[Request[object]] = deque()
        self._in_hand: Group = []
        self._closed = False
        self._last_reopen = 0.0
        self.disk = DiskSpace(path.parent)
        self.failure: str | None = None
        """Why nothing can be written at the moment, if so."""
        self.used_bytes, self.log_bytes = 0, 0
        """Pages in use, times their size, and the size of the write-ahead log's file, as of the last commit."""
        self.transaction = Transaction(connect_writer(path))
        self._measure()
        self._checkpointer = Checkpointer(path, self._checkpoint_failed, log_cap_bytes)
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)
        self._thread.start()

    @property
    def total_bytes(self) -> int:
        """Pages in use and write-ahead log."""
        return self.used_bytes + self.log_bytes

    def submit(
        self, operation: Operation[Result], byte_count: int = 0, call_id: str | None = None
    ) -> "asyncio.Future[Result]":
        """Have `operation` run in a transaction; the future resolves once that is durable.

        `byte_count` says how many payload bytes it writes, `call_id` which call it is about: those of a group are
        looked up together. Raises `SpoolUnavailable` after `close`.
        """
        if self._closed:
            raise SpoolUnavailable("the spool is closed")
        future: asyncio.Future[Result] = self._loop.create_future()
        self._inbox.put(Request(operation, byte_count, future, call_id))  # type: ignore[arg-type]  # a queue of any results
        return future

    async def close(self) -> None:
        """Write what was submitted, finish the log, and end the thread."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    # The thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self._abandon()

    def _work(self) -> None:
        stopping = False
        while not stopping or self._light or self._heavy:
            stopping = self._collect(block=not (stopping or self._light or self._heavy)) or stopping
            self._in_hand = self._take_group()
            if self._in_hand:
                self._write(self._in_hand)
                self._tell(resolve, self._in_hand)
                self._in_hand = []
            if self.failure is None and self._checkpointer.must_reset(self.log_bytes):
                self._reset_log()
        self._checkpointer.stop()
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

    def _take_group(self) -> Group:
        group = [self._light.popleft() for _ in range(min(len(self._light), GROUP_LIGHT_OPERATIONS))]
        heavy_bytes = 0
        while self._heavy and (not heavy_bytes or heavy_bytes + self._heavy[0].byte_count <= GROUP_HEAVY_BYTES):
            heavy_bytes += self._heavy[0].byte_count
            group.append(self._heavy.popleft())
        return group

    def _write(self, group: Group) -> None:
        if self.failure is not None and not self._reopen():
            fail(group, SpoolUnavailable(f"the spool cannot write: {self.failure}"))
            return
        setback = self._transact(group)
        if setback is None:
            return
        if len(group) == 1 or setback.shared:
            fail(group, setback.error)
            return
        for request in group:
            self._write([request])

    def _transact(self, group: Group) -> _Setback | None:
        """Run a group in one transaction. Returns what made it come to nothing."""
        started = time.perf_counter()
        try:
            self.transaction.begin([request.call_id for request in group if request.call_id is not None])
            reach(WritePoint.BEGUN, group)
            for request in group:
                request.result = request.operation(self.transaction)
            reach(WritePoint.WRITTEN, group)
            self.transaction.commit()
            reach(WritePoint.COMMITTED, group)
        except SQLITE_ERRORS as error:
            return self._set_back(error)
        except Exception as error:  # noqa: BLE001  # whatever an operation raises belongs to whoever submitted it
            self._roll_back()
            unstorable = isinstance(error, UnicodeEncodeError | OverflowError)
            return _Setback(translate(error, WRITING) if unstorable else error, shared=False)
        reason = self._measure()
        if reason is not None:
            self.failure = reason
            return _Setback(SpoolUnavailable(f"the spool cannot write: {reason}"), shared=True)
        if self.transaction.changed_something:
            self.disk.sufficed()
            self._checkpointer.written(PAGES_PER_GROUP * PAGE_SIZE + sum(request.byte_count for request in group))
            self._tell(self._observer.committed, time.perf_counter() - started, len(group))
        return None

    def _set_back(self, cause: sqlite3.Error | MemoryError) -> _Setback:
        """After an I/O error nothing that the connection believes can be trusted: it is reopened before the next."""
        self._roll_back()
        error = translate(cause, WRITING)
        if distrusts_disk(cause):
            self.failure = str(error)
        if isinstance(error, SpoolFull):
            self.disk.ran_out(str(error))
            error.used_bytes = self.used_bytes + self.log_bytes
        return _Setback(error, shared=concerns_everyone(cause))

    def _roll_back(self) -> None:
        try:
            self.transaction.roll_back()
        except SQLITE_ERRORS as error:
            self.failure = f"rolling back failed: {error}"

    def _reopen(self) -> bool:
        """Open the database anew and move the whole log into it; only then is a commit to be trusted again.

        After a failed fsync Linux marks the pages clean, so that a second fsync would succeed without writing them.
        """
        if time.monotonic() - self._last_reopen < REOPEN_SECONDS:
            return False
        self._last_reopen = time.monotonic()
        before, self.failure = self.failure, None  # at once, so that what the checkpoints say from now on stays
        try:
            self.transaction.connection.close()
            self.transaction = Transaction(connect_writer(self._path))
            busy, _, _ = self.transaction.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except SQLITE_ERRORS as error:
            self.failure = f"the spool's database does not open: {error} (at first: {before})"
            return False
        reason = before if busy else self._measure()
        self.failure = reason or self.failure
        return self.failure is None

    def _measure(self) -> str | None:
        """See how much room is in use; returns why what was just committed cannot be relied on, if so."""
        try:
            (pages,) = self.transaction.execute(statements.PAGES_IN_USE).fetchone()
            self.log_bytes = self._log_path.stat().st_size
        except FileNotFoundError:
            return f"{self._log_path} was removed while it was in use"
        except (*SQLITE_ERRORS, OSError) as error:
            return f"the size of the spool cannot be read: {error}"
        self.used_bytes = pages * PAGE_SIZE
        return None

    def _reset_log(self) -> None:
        try:
            reach(WritePoint.RESETTING)
            self._checkpointer.reset(self.transaction.connection, self.log_bytes)
            reach(WritePoint.RESET)
        except SQLITE_ERRORS as error:
            if distrusts_disk(error):
                self.failure = f"resetting the log failed: {error}"

    def _checkpoint_failed(self, reason: str) -> None:
        self.failure = reason

    def _finish(self) -> None:
        """Leave a database without a log behind, where the disk allows it; the log is as good."""
        try:
            self.transaction.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self.transaction.connection.close()
        except SQLITE_ERRORS as error:
            self.failure = f"closing the spool's database failed: {error}"

    def _abandon(self) -> None:
        """Nobody waits for ever for a thread that ended: there is nobody left, unless it ended by a mistake of ours."""
        self._closed = True
        while not self._inbox.empty():
            self._collect(block=False)
        left = [*self._in_hand, *self._light, *self._heavy]
        fail(left, SpoolUnavailable("the spool's writer has ended"))
        self._tell(resolve, left)

    def _tell(self, callback: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed, and everyone who waited on it is gone
            self._loop.call_soon_threadsafe(callback, *arguments)
