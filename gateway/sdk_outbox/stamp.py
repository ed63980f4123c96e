"""An outbox file from outside: by what a change is seen, what it is and to whom it belongs. Nothing is opened here."""

import os
import stat
from collections.abc import Collection
from pathlib import Path

import msgspec

from gateway.sdk_outbox.rows import OutboxUnusable


class Stamp(msgspec.Struct, frozen=True):
    """By which a change of the file, or of the log beside it, is seen without opening either."""

    identity: tuple[int, int]
    size: int
    changed_at: int
    log_size: int
    log_changed_at: int

    def replaces(self, earlier: "Stamp") -> bool:
        """Whether another file lies there now. One that shrank is another, too: numbers of deleted files are given to
        new ones, and an outbox only grows.
        """
        return self.identity != earlier.identity or self.size < earlier.size


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of an outbox; None where there is no file yet. Follows no link. Raises `OutboxUnusable`."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutboxUnusable(f"it cannot be looked at: {error.strerror}") from error
    require_file(found)
    try:
        log = beside(path, "wal").lstat()
    except OSError:
        return Stamp((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns, 0, 0)
    return Stamp((found.st_dev, found.st_ino), found.st_size, found.st_mtime_ns, log.st_size, log.st_mtime_ns)


def beside(path: Path, kind: str) -> Path:
    """SQLite's `wal`, `shm` or `journal` of a file."""
    return path.with_name(f"{path.name}-{kind}")


def require_file(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OutboxUnusable("it is a symbolic link: name the file itself")
    if not stat.S_ISREG(found.st_mode):
        raise OutboxUnusable("it is not a file")


def require_trusted_owner(path: Path, found: os.stat_result, owners: Collection[int]) -> None:
    """Raise `OutboxUnusable` unless the file belongs to one of `owners` (user ids), and not everybody may write it."""
    if found.st_uid not in owners:
        raise OutboxUnusable(
            f"it belongs to user {found.st_uid}: run callspool as that user, or name it in whispey.outbox_owners"
        )
    if found.st_mode & stat.S_IWOTH:
        raise OutboxUnusable(f"every user may write to it: take that right away with `chmod o-w {path}`")
    if found.st_nlink > 1:
        raise OutboxUnusable("it has a second name (a hard link): remove that, or copy the file")
