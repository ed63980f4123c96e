"""The index of the write-ahead log (the `-shm` file), where SQLite must not go on believing it after a disk failed.

Two things in it can be wrong then, and both live as long as any connection does, for all of them map it:

- How far checkpoints have come (`nBackfill`). A checkpoint that does not reach the end of the log copies pages into the
  database without syncing it; the next one goes on from there and syncs. When that sync fails, Linux marks all of the
  pages clean, the earlier ones too; a checkpoint after it would copy only the later ones again, sync with success, and
  let go of a log that held the only good copies. So the note is set back to 0 after every failed checkpoint, which
  SQLite allows at any time: it promises less than before.
- Where the log ends and which page lies where. A mapped page that could not be written back is clean as well, and
  may be read from the disk again as it was earlier: a commit would then write over acknowledged ones. So the header
  is taken away before the database is opened anew, and SQLite makes the index anew, from the log alone.
"""

import mmap
import os
from pathlib import Path

BACKFILLED_AT = 96
"""Where the number of frames stands (https://www.sqlite.org/walformat.html, section 2.3); before it, two headers."""
HEADER_BYTES = 136


class LogIndex:
    """Takes back what the index says. While no checkpoint runs; `close` after the last connection."""

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
        self._header = mmap.mmap(self._descriptor, HEADER_BYTES)
        return self._header

    def close(self) -> None:
        """Let go of the index."""
        if self._header is not None:
            self._header.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._header = self._descriptor = None
