"""The database as its writer has it open: the connection that writes, the log behind it, and its checkpoints.

After a failure of the disk nothing that SQLite believes about its files is relied on: `reopen` opens them anew, and
only what the log itself says counts.
"""

import time
from contextlib import suppress
from pathlib import Path

from spool.checkpoints import CAP_BYTES, Checkpointer
from spool.damage import Damage
from spool.database import PAGE_SIZE, SQLITE_ERRORS, connect_writer, distrusts_disk, translate
from spool.disk_space import DiskSpace
from spool.errors import SpoolError
from spool.sizes import Sizes
from spool.transaction import Transaction
from spool.write_points import WritePoint, reach

PAGES_PER_GROUP = 12
"""About how many pages a group of small records writes besides payloads; for the pace of checkpoints only."""
REOPEN_SECONDS = 1.0


class OpenDatabase:
    """Opens it at once. For the writer's thread, which calls `finish` at the end; its figures are for any thread."""

    def __init__(self, path: Path, disk: DiskSpace, damage: Damage, log_cap_bytes: int = CAP_BYTES) -> None:
        self._path = path
        self._disk = disk
        self._damage = damage
        self._last_reopen = 0.0
        self.failure: str | None = None
        """Why nothing can be written at the moment, if so."""
        self.sizes = Sizes(path)
        self.transaction = Transaction(connect_writer(path))
        self.measure()
        self._checkpointer = Checkpointer(
            path,
            failed=self._checkpoint_failed,
            ran_out=self._checkpoint_ran_out,
            trusted=lambda: self.failure is None,
            cap_bytes=log_cap_bytes,
        )

    def measure(self) -> str | None:
        """See how much room is in use; returns why what was just committed cannot be relied on, if so."""
        return self.sizes.measure(self.transaction)

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
            return False
        try:
            self._checkpointer.distrust()
            self.failure = None  # so that what the checkpoints say from now on stays
            self.transaction.connection.close()
            self.sizes.closed()
            self.transaction = Transaction(connect_writer(self._path))
            finished = self._checkpointer.finish(self.transaction.connection)
        except (*SQLITE_ERRORS, OSError) as error:
            self.failure = f"the spool's database does not open: {error} (at first: {before})"
            self._damage.look_at(translate(error, "opening the spool anew"))
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
            if self._damage.reason is None:
                self.transaction.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with suppress(*SQLITE_ERRORS):
            self.transaction.connection.close()
        self._checkpointer.close()

    def _checkpoint_failed(self, error: SpoolError) -> None:
        self.failure = str(error)
        self._damage.look_at(error)

    def _checkpoint_ran_out(self, reason: str) -> None:
        """The log is as good, and whatever finds no room in it gives the headroom up; but it must not get longer."""
        self._disk.ran_out(reason, large=True)
