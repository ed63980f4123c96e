"""An outbox as plain data: its rows, its file as seen from outside, and what can go wrong with either."""

import os
import stat
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path

import msgspec


class Outcome(StrEnum):
    """What became of a row."""

    RESCUED = "rescued"
    """A new record of the spool; deleted here."""
    DUPLICATE = "duplicate"
    """Its post had been accepted before; deleted here."""
    SUPERSEDED = "superseded"
    """An end without telemetry of a call whose end is known: recorded, sent to nobody, deleted here."""
    REFUSED = "refused"
    """It holds no call log; left here."""
    LATER = "later"
    """It could not be accepted yet; given back."""

    @property
    def done(self) -> bool:
        """Whether the row may be deleted."""
        return self in {Outcome.RESCUED, Outcome.DUPLICATE, Outcome.SUPERSEDED}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may be taken; `status` and `claimed_at` are what it had before it was claimed."""

    row_id: int
    call_id: str
    status: str
    claimed_at: float | None
    size: int
    """Bytes of its payload."""
    claimed: bool
    """False for a row that is too large to be rewritten with a claim: it is deleted only while it is unchanged."""
    payload: bytes | None = None
    """The payload, if it is small enough to be held in memory."""

    def __repr__(self) -> str:  # never a payload in a log
        return f"Row({self.row_id}, {self.call_id!r}, {self.size} bytes)"


class RefusedRow(msgspec.Struct, frozen=True):
    """A row that holds nothing that could be a call log: its payload is NULL or a number, say."""

    row_id: int
    reason: str


class Batch(msgspec.Struct, frozen=True):
    """The next rows of an outbox. There are no more where both are empty."""

    rows: tuple[Row, ...]
    refused: tuple[RefusedRow, ...]


class Survey(msgspec.Struct, frozen=True):
    """What lies in an outbox, looked at without changing anything."""

    ready: int = 0
    """Rows that may be taken."""
    ready_bytes: int = 0
    in_use: int = 0
    """Rows that the SDK is sending, or will soon send again."""
    by_kind: tuple[tuple[str, str, int], ...] = ()
    """Status, event and count."""
    unreadable: int = 0
    """Rows that hold no call log, or cannot be read."""
    rows: tuple[Row, ...] = ()
    """The first 10,000 of those that may be taken, without their payloads."""


class OutboxError(Exception):
    """An outbox file cannot be worked with at the moment."""


class OutboxBusy(OutboxError):
    """Another process holds its lock for longer than the SDK itself would wait: look again later."""


class OutboxUnusable(OutboxError):
    """It is damaged, foreign or closed to this user: nothing in it is touched until it changes."""


class RowRefused(Exception):
    """This row holds no call log that could be taken. It stays where it is, and holds up no other."""


class SinkUnavailable(Exception):
    """Nothing can be accepted at the moment: the spool is full, memory is used up, the gateway does not answer."""


class OutboxState(StrEnum):
    """How an outbox does."""

    MISSING = "missing"
    """There is no such file yet, or no table in it; it is watched until it appears."""
    WATCHED = "watched"
    """New rows are taken."""
    WAITING = "waiting"
    """Its rows cannot be taken at the moment."""
    UNUSABLE = "unusable"
    """Damaged, foreign, unsafe or closed to this user."""


class OutboxStatus(msgspec.Struct, frozen=True):
    """One outbox at a moment: plain data for metrics, the status page and the command line."""

    path: str
    state: OutboxState
    reason: str
    """Why it waits or is unusable; empty otherwise."""
    rows: int
    """Rows that lie in it: in use by the SDK, refused, or still to be taken."""
    outcomes: dict[Outcome, int] = {}
    """What became of rows since the start."""


# The file from outside: by what a change is seen, what it is and to whom it belongs. Nothing is opened here.


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
