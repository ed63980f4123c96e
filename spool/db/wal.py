"""The write-ahead log as files: whether commits lie behind a place where SQLite stops reading, and its index.

SQLite reads the log up to the first frame whose checksum is wrong, for that is how a torn write at the end of it
looks. One commit behind that place is such a write; two are not, for each is synced before the next one begins. Then
the log was damaged, and what was acknowledged lies behind the damage (format: SQLite, "Database File Format", 4).
"""

import mmap
import os
import sqlite3
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spool.db.connection import log_of

HEADER = struct.Struct(">8I")
"""Magic, version, page size, checkpoint number, two salts, two sums."""
FRAME = struct.Struct(">6I")
"""Page, size of the database after a commit (else 0), two salts, two sums."""
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
TORN_COMMITS = 1


@dataclass(frozen=True, slots=True)
class LogFrame:
    """The header of one frame of the log."""

    number: int
    """From 1."""
    salts: tuple[int, int]
    commits: bool
    """Whether a commit ends with it."""


def lost_commits(database: Path, *, untouched: bool = False) -> int:
    """How many commits lie in the log of a closed database where SQLite would not read them any more.

    0 for a log that ends in at most one torn commit, or for none. SQLite is asked how far it reads, which leaves an
    index beside the log; with `untouched` nothing is written, and the sums are made here, which takes some seconds
    for a log of 100 MB. Raises `sqlite3.Error` or `OSError` where database or log cannot be opened at all.
    """
    log = log_of(database)
    if not log.exists() or log.stat().st_size <= HEADER.size:
        return 0
    readable = _sound_frames(log) if untouched else _readable_frames(database)
    behind = sum(frame.commits for frame in frames(log) if frame.number > readable)
    return behind if behind > TORN_COMMITS else 0


def frames(log: Path) -> Iterator[LogFrame]:
    """The frames of the log's present generation, as far as they follow each other; contents are not looked at."""
    with log.open("rb") as file:
        header = file.read(HEADER.size)
        page_size = page_size_of(header)
        if page_size is None:
            return
        salts = HEADER.unpack(header)[4:6] if header_is_sound(header) else None
        number = 1
        while len(raw := file.read(FRAME.size)) == FRAME.size:
            _, size_after, *its_salts, _, _ = FRAME.unpack(raw)
            salts = salts or (its_salts[0], its_salts[1])
            if tuple(its_salts) != tuple(salts):
                return
            yield LogFrame(number, (its_salts[0], its_salts[1]), size_after != 0)
            number += 1
            file.seek(page_size, 1)


def page_size_of(header: bytes) -> int | None:
    """The page size that the log's header names; None where that is none."""
    if len(header) < HEADER.size:
        return None
    size: int = HEADER.unpack(header)[2]
    return size if 512 <= size <= 65536 and size & (size - 1) == 0 else None


def header_is_sound(header: bytes) -> bool:
    """Whether the log's header has its own checksum."""
    magic, *_, first, second = HEADER.unpack(header)
    return magic in _MAGIC and add_checksum(header[:24], byte_order(header), (0, 0)) == (first, second)


def byte_order(header: bytes) -> str:
    """The order of bytes in which sums are made, as `struct` writes it."""
    return _MAGIC.get(HEADER.unpack(header)[0], "<" if sys.byteorder == "little" else ">")


def add_checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's running checksum of the log, over `data` after what `sums` stands for."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def _readable_frames(database: Path) -> int:
    """How many frames SQLite reads, as it notes in the log's index: `mxFrame` of the header there.

    A connection that may not write leaves log and database alone when it is closed.
    """
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        index = database.with_name(f"{database.name}-shm").read_bytes()[:20]
    finally:
        connection.close()
    return int.from_bytes(index[16:20], sys.byteorder)


def _sound_frames(log: Path) -> int:
    """How many frames from the first on have their own checksum."""
    with log.open("rb") as file:
        header = file.read(HEADER.size)
        page_size = page_size_of(header)
        if page_size is None or not header_is_sound(header):
            return 0
        order, sums, sound = byte_order(header), HEADER.unpack(header)[6:], 0
        for _ in frames(log):
            frame, page = file.read(FRAME.size), file.read(page_size)
            if len(page) < page_size:
                break
            sums = add_checksum(page, order, add_checksum(frame[:8], order, sums))
            if sums != FRAME.unpack(frame)[4:]:
                break
            sound += 1
        return sound


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
