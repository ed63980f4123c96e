"""Checkpoints: moving the write-ahead log into the database on a thread of its own, off the way of a commit.

PASSIVE checkpoints never block a commit, but under steady load they never catch up either, and the log would
grow without end (1.9 GB in 6 s were seen). So above a cap the writer is asked to reset the log between two
groups, when a passive checkpoint has just left it little to do.
"""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from spool.database import PAGE_SIZE

EVERY_BYTES = 8 << 20
CAP_BYTES = 64 << 20
IDLE_SECONDS = 2.0


class Checkpointer:
    """Runs passive checkpoints whenever enough was written; tells when the log has to be reset."""

    def __init__(self, path: Path, failed: Callable[[str], None]) -> None:
        self._path = path
        self._failed = failed
        self._unchecked_bytes = 0
        self._wake = threading.Event()
        self._stopping = False
        self.reset_due = False
        """The log is above its cap: the writer should call `reset` between two groups."""
        self.log_bytes = 0
        """Size of the log as of the last checkpoint."""
        self._thread = threading.Thread(target=self._run, name="spool-checkpoints", daemon=True)
        self._thread.start()

    def written(self, byte_count: int) -> None:
        """About `byte_count` more bytes lie in the log."""
        self._unchecked_bytes += byte_count
        if self._unchecked_bytes >= EVERY_BYTES:
            self._wake.set()

    def reset(self, connection: sqlite3.Connection) -> None:
        """Finish the checkpoint on the writer's own connection, so that the next commit starts the log anew."""
        connection.execute("PRAGMA busy_timeout = 100")
        busy, pages, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        connection.execute("PRAGMA busy_timeout = 2000")
        self.reset_due = False
        if not busy:
            self.log_bytes = pages * PAGE_SIZE

    def stop(self) -> None:
        """End the thread; a checkpoint under way is finished first."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA busy_timeout = 100")
            while True:
                busy = self._wake.wait(IDLE_SECONDS)
                self._wake.clear()
                if self._stopping:
                    return
                if busy or self._unchecked_bytes:
                    self._unchecked_bytes = 0
                    self._checkpoint(connection, "PASSIVE")
                elif self.log_bytes > EVERY_BYTES:
                    # Nobody writes: a moment's lock is nobody's delay, and the space is given back.
                    self._checkpoint(connection, "TRUNCATE")
        finally:
            connection.close()

    def _checkpoint(self, connection: sqlite3.Connection, mode: str) -> None:
        try:
            _, pages, done = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:
            self._failed(f"a checkpoint failed: {error}")
            return
        self.log_bytes = max(0, pages) * PAGE_SIZE
        self.reset_due = self.log_bytes > CAP_BYTES and done > pages // 2
