"""The write-ahead log as a file: whether commits lie behind a place where SQLite stops reading.

SQLite reads the log up to the first frame whose checksum is wrong, for that is how a torn write at the end of it
looks. One commit behind that place is such a write; two are not, for each is synced before the next one begins. Then
the log was damaged, and what was acknowledged lies behind the damage (format: SQLite, "Database File Format", 4).
"""

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
