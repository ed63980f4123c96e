"""Room on the disk: headroom that is given up when the disk is full, and what may be written until it is back.

On a full disk posts are refused, but what leaves the spool must be written down: a settlement that cannot be written
is made again, and a payload that cannot be deleted keeps its room. So some space is allocated beforehand, and given to
the database and its log when a write finds no room. It is taken again as soon as the disk has room for it, by what was
deleted here or by whoever else filled the disk; until then nothing is accepted.
"""

import errno
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

HEADROOM_NAME = "spool.headroom"
LARGEST_HEADROOM_BYTES = 16 << 20
"""A checkpoint every 8 MiB and what is written during one, besides some dozen settlements of 100 KB."""
SMALLEST_HEADROOM_BYTES = 512 << 10
HEADROOM_SHARE = 16
"""Of a small disk or quota, this part."""
OPENING_BYTES = 1 << 20
"""What a start may need: SQLite's shared memory, the first page of a log, a migration."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
PATIENCE_SECONDS = 10.0
"""A quota of the user's or a lack of inodes shows as free space all the same: so long the failure is believed."""


def headroom_bytes(directory: Path, limit_bytes: int) -> int:
    """How much is allocated beforehand for a spool of this quota on this disk."""
    share = min(limit_bytes, shutil.disk_usage(directory).total) // HEADROOM_SHARE
    return max(SMALLEST_HEADROOM_BYTES, min(LARGEST_HEADROOM_BYTES, share))


def make_room_to_open(directory: Path) -> None:
    """Give the headroom up where there is so little room that not even opening the database would succeed."""
    if shutil.disk_usage(directory).free < OPENING_BYTES:
        _shorten(directory / HEADROOM_NAME, 0)


class DiskSpace:
    """The headroom of one spool, and what is known of its disk. For any thread.

    After a large payload found no room, large ones are refused; after a small one did, all are; and when what adds
    nothing to the spool finds none, the headroom is given up for it. All of this is over when there is room again for
    the headroom and as much besides.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.size = size
        """The least headroom."""
        self._directory = directory
        self._path = directory / HEADROOM_NAME
        self._lock = threading.Lock()
        self._held = 0
        self._refuses_all = True
        self._wanted = size
        self._seen_at = time.monotonic() - PATIENCE_SECONDS
        self._free_then = 0
        self.shortage: str | None = f"the disk is full: no room for {self._path}; free space on it"
        """Why not everything can be accepted, if so."""
        self.recover(margin=0)

    def taken_bytes(self, unmoved_bytes: int) -> int:
        """What the headroom takes beside pages of which so many bytes are not in the database's file yet."""
        return max(self.size, self._held - unmoved_bytes)

    def refuses(self, *, large: bool) -> bool:
        """Whether a payload must not be tried; what has none is never refused."""
        return self.shortage is not None and (large or self._refuses_all)

    def keep(self, unmoved_bytes: int) -> None:
        """Have headroom for what the database's file has to grow by when it takes over its log, and `size` besides.

        Where the disk has no room for that, large payloads are refused from now on.
        """
        self._wanted = self.size + unmoved_bytes
        if self._held and not self._wanted <= self._held <= self._wanted + self.size:
            with self._lock:
                self._resize()

    def ran_out(self, reason: str, *, large: bool = False) -> None:
        """A payload found no room; with `large` one that is no measure for small ones."""
        with self._lock:
            self._note(reason)
            self._refuses_all |= not large

    def give_up(self, reason: str) -> None:
        """What must be written to empty the spool found no room: it may have the headroom."""
        with self._lock:
            self._note(reason)
            self._refuses_all = True
            _shorten(self._path, 0)
            self._held = 0

    def recover(self, margin: int | None = None) -> None:
        """Take the headroom again and end the shortage, if there is room for it and `margin` bytes, or as many."""
        with self._lock:
            needed = max(0, self._wanted - self._held) + (self.size if margin is None else margin)
            free = shutil.disk_usage(self._directory).free
            grown = free >= self._free_then + needed
            if free >= needed and (grown or time.monotonic() - self._seen_at >= PATIENCE_SECONDS):
                self.shortage = None
                self._resize()
                self._refuses_all = not self._held

    def _resize(self) -> None:
        """Make the headroom as large as is wanted, or leave it as it is and note that there was no room."""
        size = self._wanted + self.size // 2 if self._wanted > self.size else self.size
        try:
            _take(self._path, size)
        except OSError as error:
            _shorten(self._path, self._held)
            if self._held and error.errno not in _NO_ROOM:
                return  # a disk that fails otherwise is told of by the writes that matter
            self._note(f"the disk is full: no room for {self._path} ({error.strerror}); free space on it")
            return
        self._held = size

    def _note(self, reason: str) -> None:
        """There is a shortage now."""
        self.shortage = reason
        self._seen_at = time.monotonic()
        self._free_then = shutil.disk_usage(self._directory).free


def _take(path: Path, size: int) -> None:
    """Allocate the file, for its owner only. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _shorten(path: Path, size: int) -> None:
    """Let the file system have its blocks. That it cannot be shortened is a failing disk, which other writes tell."""
    with suppress(OSError):
        os.truncate(path, size)
