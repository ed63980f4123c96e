"""Checkpoints: moving the write-ahead log into the database on a thread of its own, off the way of a commit.

PASSIVE checkpoints never block a commit, but under steady load they never catch up either, and the log would
grow without end (1.9 GB in 6 s were seen). So above a cap the writer is asked to reset the log between two
groups, when a passive checkpoint has just left it little to do; and above half as much again, whatever is left.
"""

import mmap
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from spool.db.connection import PAGE_SIZE, SQLITE_ERRORS, connect, primary_code, translate
from spool.errors import SpoolError

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


# The index of the write-ahead log (the `-shm` file), which SQLite must not trust any more after a disk failed.
#
# Two things in it can be wrong then, and both live as long as any connection does, for all of them map it:
#
# - How far checkpoints have come (`nBackfill`). A checkpoint that does not reach the end of the log copies pages into
#   the database without syncing it; the next one continues from there and syncs. When that sync fails, Linux marks
#   all of the pages clean, the earlier ones too; a checkpoint after it would copy only the later ones again, sync
#   with success, and let go of a log that held the only good copies. So the note is set back to 0 after every failed
#   checkpoint, which SQLite allows at any time: it promises less than before.
# - Where the log ends and which page lies where. A mapped page that could not be written back is clean as well, and may
#   be read from the disk again as it was earlier: a commit would then write over acknowledged ones. So the header is
#   taken away before the database is opened anew, and SQLite makes the index anew, from the log alone.

BACKFILLED_AT = 96
"""Where the number of frames stands (https://www.sqlite.org/walformat.html, section 2.3); before it, two headers."""
HEADER_BYTES = 136


class LogIndex:
    """Revokes what the index says. While no checkpoint runs; `close` after the last connection."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-shm")
        self._descriptor: int | None = None
        self._header: mmap.mmap | None = None

    def forget_backfill(self) -> None:
        """Let the next checkpoint copy the whole log. Raises `OSError` where the index is not there."""
        self._mapped()[BACKFILLED_AT : BACKFILLED_AT + 4] = bytes(4)

    def discard(self) -> None:
        """Let the next connection that looks make the index anew. While nothing is written; raises `OSError`."""
        self._mapped()[:BACKFILLED_AT] = bytes(BACKFILLED_AT)

    def _mapped(self) -> mmap.mmap:
        if self._header is not None and self._is_current():
            return self._header
        return self._open()

    def _is_current(self) -> bool:
        """Whether the index that is mapped is the one in use: SQLite makes a new one with its first connection."""
        if self._descriptor is None:
            return False
        return os.path.samestat(os.fstat(self._descriptor), self._path.stat())

    def _open(self) -> mmap.mmap:
        """Map the index that is there now.

        It is not closed while SQLite has it open: that would drop the locks by which other processes see this one.
        """
        self.close()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(self._descriptor).st_size < HEADER_BYTES:
            raise OSError(f"{self._path} is no index of a log")
        self._header = mmap.mmap(self._descriptor, HEADER_BYTES)
        return self._header

    def close(self) -> None:
        """Let go of the index."""
        if self._header is not None:
            self._header.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._header = self._descriptor = None
