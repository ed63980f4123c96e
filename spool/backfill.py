"""Making a checkpoint begin anew: what was copied out of the log before a failed sync cannot be trusted to be on disk.

A checkpoint that does not reach the end of the log copies pages into the database without syncing it, and SQLite notes
how far it came (`nBackfill`, in the index of the log, which all connections map). The next one goes on from there and
syncs. When that sync fails, Linux marks all of the pages clean, the earlier ones too; a checkpoint after it would copy
only the later ones again, sync with success, and let go of a log that held the only good copies. So the note is set
back to 0 after every failed checkpoint, which SQLite allows at any time: it promises less than before.
"""

import mmap
import os
from pathlib import Path

BACKFILLED_AT = 96
"""Where the number of frames stands in the index (https://www.sqlite.org/walformat.html, section 2.3)."""
HEADER_BYTES = 136


class Backfill:
    """The note of how far checkpoints have come. While no checkpoint runs; `close` after the last connection."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name}-shm")
        self._descriptor: int | None = None
        self._header: mmap.mmap | None = None

    def forget(self) -> None:
        """Let the next checkpoint copy the whole log. Raises `OSError` where the index is not there."""
        header = self._header
        if header is None or not self._is_current():
            header = self._open()
        header[BACKFILLED_AT : BACKFILLED_AT + 4] = bytes(4)

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
        self._header = mmap.mmap(self._descriptor, HEADER_BYTES)
        return self._header

    def close(self) -> None:
        """Let go of the index."""
        if self._header is not None:
            self._header.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._header = self._descriptor = None
