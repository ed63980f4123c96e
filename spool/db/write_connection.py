"""The database as its writer has it open: the connection that writes, the log behind it, and its checkpoints.

After a failure of the disk nothing that SQLite believes about its files is relied on: `reopen` opens them anew, and
only what the log itself says counts.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path

from spool.db.connection import (
    PAGE_SIZE,
    SQLITE_ERRORS,
    connect,
    connect_writer,
    distrusts_disk,
    log_of,
    primary_code,
    translate,
)
from spool.db.transaction import Transaction
from spool.db.wal import LogIndex
from spool.errors import SpoolError
from spool.keys import SpoolKeys
from spool.ownership import CorruptionLatch
from spool.space import DiskSpace

# Checkpoints: moving the write-ahead log into the database on a thread of its own, off the way of a commit.
#
# PASSIVE checkpoints never block a commit, but under steady load they never catch up either, and the log would
# grow without end (1.9 GB in 6 s were seen). So above a cap the writer is asked to reset the log between two
# groups, when a passive checkpoint has just left it little to do; and above half as much again, whatever is left.

CAP_BYTES = 64 << 20
SMALLEST_CAP_BYTES = 4 << 20
IDLE_SECONDS = 2.0
BUSY_SECONDS = 1.0
"""How long to leave a log alone that could not be reset because of a reader."""


class Checkpointer:
    """Runs passive checkpoints whenever enough was written; decides when the log has to be reset.

    `failed` is called, in this thread, with what a checkpoint failed of; `ran_out` where that is a full disk. While
    `trusted` says no, nothing is copied: what SQLite believes about the log is not to be relied on.
    """

    def __init__(
        self,
        path: Path,
        failed: Callable[[SpoolError], None],
        ran_out: Callable[[str], None],
        trusted: Callable[[], bool],
        cap_bytes: int = CAP_BYTES,
    ) -> None:
        self._path = path
        self._failed = failed
        self._ran_out = ran_out
        self._trusted = trusted
        self._cap_bytes = cap_bytes
        self._every_bytes = cap_bytes // 8
        self._connection: sqlite3.Connection | None = None
        self._index = LogIndex(path)
        self._one_at_a_time = threading.Lock()
        # What the process before left in the log is moved, too, and the log truncated, as soon as nobody writes.
        self._unchecked_bytes = 1
        self._log_bytes = 0
        self._wake = threading.Event()
        self._stopping = False
        self._reset_due = False
        self._no_reset_before = 0.0
        self._thread = threading.Thread(target=self._run, name="spool-checkpoints", daemon=True)
        self._thread.start()

    def written(self, byte_count: int) -> None:
        """About `byte_count` more bytes lie in the log."""
        self._unchecked_bytes += byte_count
        if self._unchecked_bytes >= self._every_bytes:
            self._wake.set()

    def must_reset(self, file_bytes: int) -> bool:
        """Whether the writer should call `reset` now; `file_bytes` is the size of the log's file."""
        if not self._reset_due and not self._far_above_cap(file_bytes):
            return False
        return time.monotonic() >= self._no_reset_before

    def reset(self, connection: sqlite3.Connection, file_bytes: int) -> None:
        """Finish the checkpoint on the writer's own connection, so that the next commit starts the log anew.

        The file keeps its size, for an overwritten log is synced faster than one that grows, unless it is far
        above its cap. A reader in the way is waited for 100 ms; then it is tried again later. A checkpoint that is
        under way is waited for: SQLite would refuse a second one at once.
        """
        mode = "TRUNCATE" if self._far_above_cap(file_bytes) else "RESTART"
        self._reset_due = False
        self._no_reset_before = time.monotonic() + BUSY_SECONDS
        connection.execute("PRAGMA busy_timeout = 100")
        try:
            busy, pages, _ = self._run_checkpoint(connection, mode)
        finally:
            connection.execute("PRAGMA busy_timeout = 2000")
        if not busy:
            self._no_reset_before = 0.0
            self._log_bytes = pages * PAGE_SIZE

    def distrust(self) -> None:
        """Have SQLite find out anew what is in the log, and copy all of it. While nothing writes; raises `OSError`."""
        with self._one_at_a_time, suppress(FileNotFoundError):  # then the next connection makes an index anyway
            self._index.discard()

    def finish(self, connection: sqlite3.Connection) -> bool:
        """Copy what is in the log and truncate it; False if a reader was in the way. Raises the errors of SQLite."""
        busy, _, _ = self._run_checkpoint(connection, "TRUNCATE")
        return not busy

    def empty(self, seconds: float) -> bool:
        """Copy what is in the log and truncate it to nothing, by a connection of its own; for any thread.

        False where readers kept it from that for so long, or where it failed.
        """
        deadline = time.monotonic() + seconds
        try:
            with closing(_connect(self._path)) as connection:
                connection.execute("PRAGMA busy_timeout = 100")
                while self._run_checkpoint(connection, "TRUNCATE")[0]:
                    if time.monotonic() > deadline:
                        return False
        except SQLITE_ERRORS:
            return False
        return True

    def close(self) -> None:
        """After the last connection to the database."""
        self._index.close()

    def stop(self) -> None:
        """End the thread; a checkpoint under way is finished first."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _far_above_cap(self, file_bytes: int) -> bool:
        return file_bytes > self._cap_bytes + self._cap_bytes // 2

    def _run(self) -> None:
        while True:
            woken = self._wake.wait(IDLE_SECONDS)
            self._wake.clear()
            if self._stopping:
                self._disconnect()
                return
            if not self._trusted():
                continue
            if woken or self._unchecked_bytes:
                self._unchecked_bytes = 0
                self._checkpoint("PASSIVE")
            elif self._log_bytes:
                # Nobody writes: a moment's lock is nobody's delay, the space is given back, and the bytes of
                # tokens that were deleted are gone from the log too.
                self._checkpoint("TRUNCATE")

    def _checkpoint(self, mode: str) -> None:
        try:
            if self._connection is None:
                self._connection = _connect(self._path)
            _, pages, done = self._run_checkpoint(self._connection, mode)
        except SQLITE_ERRORS as error:
            self._disconnect()
            if primary_code(error) != sqlite3.SQLITE_FULL:
                self._failed(translate(error, "a checkpoint"))
            else:
                # The log is as good as it was; it is tried again when there is room or the headroom was given up.
                self._ran_out(f"the disk is full: a checkpoint failed ({error}); free space on it")
                self._unchecked_bytes += 1
            return
        self._log_bytes = max(0, pages) * PAGE_SIZE
        self._reset_due = self._log_bytes > self._cap_bytes and done > pages // 2

    def _run_checkpoint(self, connection: sqlite3.Connection, mode: str) -> tuple[int, int, int]:
        """Whether a reader was in the way, the pages in the log, and those that were copied; one at a time."""
        with self._one_at_a_time:
            try:
                busy, pages, done = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            except SQLITE_ERRORS:
                with suppress(OSError):  # then the database does not open either: the index is made anew
                    self._index.forget_backfill()
                raise
        return busy, pages, done

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(*SQLITE_ERRORS):  # the checkpoint has raised what it could raise
                self._connection.close()
            self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect(path)
    try:
        # The checkpoint syncs the log before it copies, and the database after that.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 100")
    except SQLITE_ERRORS:
        connection.close()
        raise
    return connection


# The database as the writer has it open.

PAGES_PER_GROUP = 12
"""About how many pages a group of small records writes besides payloads; for the pace of checkpoints only."""
REOPEN_SECONDS = 1.0


class OpenDatabase:
    """Opens it at once. For the writer's thread, which calls `finish` at the end; its figures are for any thread."""

    def __init__(
        self,
        path: Path,
        disk: DiskSpace,
        corruption: CorruptionLatch,
        log_cap_bytes: int = CAP_BYTES,
        keys: SpoolKeys | None = None,
        *,
        erase_freed: bool = False,
        counts_tenants: bool = False,
    ) -> None:
        self._keys = keys or SpoolKeys()
        self._erase_freed = erase_freed
        self._path = path
        self._counts_tenants = counts_tenants
        self._disk = disk
        self._corruption = corruption
        self._last_reopen = 0.0
        self.failure: str | None = None
        """Why nothing can be written at the moment, if so."""
        self.sizes = Sizes(path)
        self.transaction = Transaction(
            connect_writer(path, erase_freed=erase_freed), self._keys, counts_tenants=counts_tenants
        )
        self.measure()
        self._checkpointer = Checkpointer(
            path,
            failed=self._checkpoint_failed,
            ran_out=self._checkpoint_ran_out,
            trusted=lambda: self.failure is None,
            cap_bytes=log_cap_bytes,
        )

    def measure(self) -> str | None:
        """Measure the space in use; returns why what was just committed cannot be relied on, if so."""
        return self.sizes.measure(self.transaction)

    def rescue(self) -> bool:
        """Whether all that was committed is durable, although the log's file was taken away: removed, or replaced.

        The open connection has it still, so what it holds is moved into the database. Then the database has to be
        opened anew by everybody: a new connection beside the old ones would write to a log that these do not read.
        """
        if not self.sizes.lost_log():
            return False
        try:
            rescued = self._checkpointer.finish(self.transaction.connection)
        except (*SQLITE_ERRORS, OSError):
            return False
        if rescued:
            self._corruption.request_reopen(f"the log of {self._path} was removed while it was in use")
        return rescued

    def written(self, byte_count: int) -> None:
        """A group with so many bytes of payloads was committed."""
        self._checkpointer.written(PAGES_PER_GROUP * PAGE_SIZE + byte_count)

    def reset_long_log(self) -> None:
        """Start the log anew if it is long, and may be trusted."""
        if self.failure is None and self._checkpointer.must_reset(self.sizes.log_bytes):
            self.reset_log()

    def reset_log(self) -> None:
        """Move the log into the database now, so that the next commit starts it anew."""
        try:
            reach(WritePoint.RESETTING)
            self._checkpointer.reset(self.transaction.connection, self.sizes.log_bytes)
            reach(WritePoint.RESET)
        except SQLITE_ERRORS as error:
            if distrusts_disk(error):
                self.failure = f"resetting the log failed: {error}"

    def empty_log(self, seconds: float) -> bool:
        """Leave nothing in the log; see `Checkpointer.empty`. For any thread."""
        return self.failure is None and self._checkpointer.empty(seconds)

    def reopen(self) -> bool:
        """Open the database anew and move the whole log into it; only then is a commit to be trusted again.

        After a failed fsync Linux marks the pages clean, so that a second fsync would succeed without writing them.
        """
        if time.monotonic() - self._last_reopen < REOPEN_SECONDS:
            return False
        self._last_reopen = time.monotonic()
        before = self.failure
        replaced = self.sizes.replaced(self.transaction)
        if replaced is not None:  # what was acknowledged is not in the files that are there now
            self.failure = replaced
            self.rescue()
            return False
        try:
            self._checkpointer.distrust()
            self.failure = None  # so that what the checkpoints say from now on stays
            self.transaction.connection.close()
            self.sizes.closed()
            connection = connect_writer(self._path, erase_freed=self._erase_freed)
            self.transaction = Transaction(connection, self._keys, counts_tenants=self._counts_tenants)
            finished = self._checkpointer.finish(self.transaction.connection)
        except (*SQLITE_ERRORS, OSError) as error:
            self.failure = f"the spool's database does not open: {error} (at first: {before})"
            self._corruption.observe(translate(error, "reopening the spool"))
            return False
        reason = self.measure() if finished else before
        self.failure = reason or self.failure
        return self.failure is None

    def roll_back(self) -> None:
        """Undo the transaction under way."""
        try:
            self.transaction.roll_back()
        except SQLITE_ERRORS as error:
            self.failure = f"rolling back failed: {error}"

    def finish(self) -> None:
        """Leave a database without a log behind, where the disk allows it; the log is as good."""
        self._checkpointer.stop()
        with suppress(*SQLITE_ERRORS, OSError):
            if self.failure is not None:
                self._checkpointer.distrust()
            if self._corruption.reason is None:
                self.transaction.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with suppress(*SQLITE_ERRORS):
            self.transaction.connection.close()
        self._checkpointer.close()

    def _checkpoint_failed(self, error: SpoolError) -> None:
        self.failure = str(error)
        self._corruption.observe(error)

    def _checkpoint_ran_out(self, reason: str) -> None:
        """The log is as good, and whatever finds no room in it gives the headroom up; but it must not get longer."""
        self._disk.ran_out(reason, large=True)


# How much space the database and its log take, as of the last commit.

RESTART = "; nothing is accepted until callspool is started again"
REOPENING = "; it is reopened"


class Sizes:
    """Measured by the writer's thread after each commit; for any thread to read. In bytes."""

    def __init__(self, path: Path) -> None:
        self.used_bytes = 0
        """Pages in use, times their size."""
        self.log_bytes = 0
        """The size of the write-ahead log's file."""
        self.unmoved_bytes = 0
        """How much the database's file has to grow to take over what lies in the log."""
        self._path = path
        self._log_path = log_of(path)
        self._inodes: tuple[int, int] | None = None
        """Which files the connection writes to: another one of the same name is nobody's."""

    def closed(self) -> None:
        """The connection is closed; the next one may make files."""
        self._inodes = None

    def lost_log(self) -> bool:
        """Whether the database's file is the one in use, and its log's is not."""
        try:
            return (
                self._inodes is not None
                and self._path.stat().st_ino == self._inodes[1]
                and self._log_inode() != self._inodes[0]
            )
        except OSError:
            return False

    def _log_inode(self) -> int | None:
        return self._log_path.stat().st_ino if self._log_path.exists() else None

    def replaced(self, transaction: Transaction) -> str | None:
        """Why the files are not those any more that the open connection writes to, if so."""
        return None if self._inodes is None else self.measure(transaction)

    def measure(self, transaction: Transaction) -> str | None:
        """Look again; returns why what was just committed cannot be relied on, if so."""
        try:
            log, database = self._log_path.stat(), self._path.stat()
        except FileNotFoundError as missing:
            return f"{missing.filename} was removed while it was in use{REOPENING if self.lost_log() else RESTART}"
        except OSError as error:
            return f"the size of the spool cannot be read: {error}"
        inodes = (log.st_ino, database.st_ino)
        if inodes != (self._inodes or inodes):
            replaced = REOPENING if self.lost_log() else RESTART
            return f"{self._path} or its log was replaced while it was in use{replaced}"
        self._inodes = inodes
        self.log_bytes = log.st_size
        self.unmoved_bytes = max(0, transaction.pages * PAGE_SIZE - database.st_size)
        self.used_bytes = (transaction.pages - transaction.free_pages) * PAGE_SIZE
        return None


# Where a process may die between two steps of a durable write, each with a name.
#
# Nothing in callspool sets `hook`: tests do, and kill the process there, or look at what lies on the disk.


class WritePoint(StrEnum):
    """A moment in the writer's thread."""

    BEGUN = "begun"
    """The transaction is open and holds nothing yet."""
    WRITTEN = "written"
    """All of its operations ran, and nothing is durable."""
    COMMITTED = "committed"
    """All of it is durable, and no future was resolved."""
    RESETTING = "resetting"
    """The write-ahead log is about to be moved into the database."""
    RESET = "reset"
    """The log was moved; the next commit begins it anew."""


hook: Callable[[WritePoint, Sequence[object]], None] | None = None
"""Called at each point with the requests of the transaction."""


def reach(point: WritePoint, group: Sequence[object] = ()) -> None:
    """Call the hook, if there is one."""
    if hook is not None:
        hook(point, group)
