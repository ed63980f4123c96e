"""Mending a copy of a write-ahead log: sums are made anew, so that SQLite reads on behind the damage.

A frame that was damaged comes along as it is. What is wrong in it shows where it is read: by the checksum of a payload
or a record, or as a malformed page. A log can also give the database another first page than it has, the one that holds
the schema: that of an empty spool fits, for tables are made in one order, and so lie at the same pages in every spool.
"""

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from spool.database import PAGE_SIZE, connect_writer, log_of, migrate
from spool.log_frames import FRAME, HEADER, add_checksum, frames, page_size_of

_MAGIC, _VERSION, _ORDER = 0x377F0682, 3007000, "<"
"""Of a log whose sums are made of little-endian words."""
_SUMMED_HEADER = 24
_SUMMED_FRAME = 8
_PAGES_AT = 28
"""Where the first page says how many pages the database has."""


def write_mended_log(database: Path, to: Path) -> None:
    """Write the commits in the log of `database` to `to`, as far as its frames follow each other, with right sums."""
    log = log_of(database)
    with to.open("wb") as target:
        mended = _MendedLog(target, _page_size(log))
        for number, size_after, page in _committed(log):
            mended.add(number, size_after, page)


def write_log_with_schema(database: Path, to: Path) -> None:
    """The same, where there is a log, and behind it a commit of a sound first page."""
    log = log_of(database)
    with to.open("wb") as target:
        mended, pages = _MendedLog(target, PAGE_SIZE), database.stat().st_size // PAGE_SIZE
        for number, size_after, page in _committed(log) if _page_size(log) == PAGE_SIZE else ():
            mended.add(number, size_after, page)
            pages = size_after or pages
        mended.add(1, pages, _empty_first_page(pages, to.parent))


class _MendedLog:
    """A log that is being written."""

    def __init__(self, target: BinaryIO, page_size: int) -> None:
        self._target = target
        plain = HEADER.pack(_MAGIC, _VERSION, page_size, 0, 1, 1, 0, 0)[:_SUMMED_HEADER]
        self._sums = add_checksum(plain, _ORDER, (0, 0))
        target.write(HEADER.pack(_MAGIC, _VERSION, page_size, 0, 1, 1, *self._sums))

    def add(self, number: int, size_after: int, page: bytes) -> None:
        """One page; with it a commit ends after which the database has `size_after` pages, if that is not 0."""
        frame = FRAME.pack(number, size_after, 1, 1, 0, 0)
        self._sums = add_checksum(page, _ORDER, add_checksum(frame[:_SUMMED_FRAME], _ORDER, self._sums))
        self._target.write(FRAME.pack(number, size_after, 1, 1, *self._sums) + page)


def _committed(log: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, size of the database after it, and content of each page in the log, up to the last commit."""
    last = max((frame.number for frame in frames(log) if frame.commits), default=0)
    page_size = _page_size(log)
    with log.open("rb") as file:
        file.seek(HEADER.size)
        for _ in range(last):
            number, size_after, *_ = FRAME.unpack(file.read(FRAME.size))
            page = file.read(page_size)
            if len(page) < page_size:
                return
            yield number, size_after, page


def _page_size(log: Path) -> int:
    """The page size that the log's header names; 0 where there is none."""
    try:
        with log.open("rb") as file:
            return page_size_of(file.read(HEADER.size)) or 0
    except FileNotFoundError:
        return 0


def _empty_first_page(pages: int, directory: Path) -> bytes:
    """That of a spool that holds nothing, and has so many pages; it is made in a directory below `directory`."""
    with tempfile.TemporaryDirectory(prefix="empty-", dir=directory) as folder:
        path = Path(folder) / "empty.db"
        path.touch()
        with closing(connect_writer(path)) as connection:
            migrate(connection)
        first = bytearray(path.read_bytes()[:PAGE_SIZE])
    first[_PAGES_AT : _PAGES_AT + 4] = pages.to_bytes(4, "big")
    return bytes(first)
