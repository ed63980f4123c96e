"""Plain data about an outbox and its rows, and the SQL that reads and changes them.

The conditions are those of `outbox.py` in the SDK 4.2.11, which stays free to claim, send and delete beside us.
"""

import sqlite3
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from spool.db.connection import primary_code

ABANDONED_SECONDS: Final = 300
"""A claim this old belongs to nobody any more: the SDK's own rule."""


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
    """It could not be taken yet; given back."""

    @property
    def done(self) -> bool:
        """Whether the row may be deleted."""
        return self in {Outcome.RESCUED, Outcome.DUPLICATE, Outcome.SUPERSEDED}


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was claimed; `status` and `claimed_at` are what it had before."""

    row_id: int
    call_id: str
    status: str
    claimed_at: float | None
    size: int
    """Bytes of its payload."""
    payload: bytes | None = field(repr=False)
    """The payload, if it is small enough to be held in memory."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in an outbox, looked at without changing anything."""

    ready: int = 0
    """Rows that may be taken."""
    ready_bytes: int = 0
    in_use: int = 0
    """Rows that the SDK is sending, or will soon send again."""
    by_kind: tuple[tuple[str, str, int], ...] = ()
    """Status, event and count."""


COLUMNS: Final = frozenset(
    {"id", "call_id", "event_type", "payload", "status", "created_at", "next_attempt_at", "claimed_at"}
)

_FREE = f"""(
    status = 'dead'
    OR (status = 'pending' AND next_attempt_at <= :now)
    OR (status = 'in_progress' AND coalesce(claimed_at, created_at) <= :now - {ABANDONED_SECONDS})
)"""
_NOT_LEFT_OUT = "id NOT IN (SELECT value FROM json_each(:left_out))"

FREE_ROWS: Final = f"""
    SELECT id, CAST(substr(call_id, 1, 512) AS TEXT), status, claimed_at FROM outbox
    WHERE {_FREE} AND {_NOT_LEFT_OUT} ORDER BY id LIMIT :limit
"""
ANY_FREE_ROW: Final = f"SELECT EXISTS (SELECT 1 FROM outbox WHERE {_FREE} AND {_NOT_LEFT_OUT})"
FREE_IDS: Final = f"SELECT id FROM outbox WHERE {_FREE} ORDER BY id"
CLAIM: Final = "UPDATE outbox SET status = 'in_progress', claimed_at = ? WHERE id = ?"
# Whoever claimed the row since then (after a pause of ours of five minutes) keeps it.
DELETE_CLAIMED: Final = "DELETE FROM outbox WHERE id = ? AND status = 'in_progress' AND claimed_at = ?"
GIVE_BACK: Final = (
    "UPDATE outbox SET status = ?, claimed_at = ? WHERE id = ? AND status = 'in_progress' AND claimed_at = ?"
)
FREE_FROM: Final = f"""
    SELECT min(CASE status WHEN 'pending' THEN next_attempt_at
               ELSE coalesce(claimed_at, created_at) + {ABANDONED_SECONDS} END)
    FROM outbox WHERE status IN ('pending', 'in_progress') AND {_NOT_LEFT_OUT}
"""
COUNT: Final = "SELECT count(*) FROM outbox"
KINDS: Final = "SELECT status, event_type, count(*) FROM outbox GROUP BY 1, 2 ORDER BY 1, 2"


# What can go wrong with an outbox: with the file as a whole, for a while, or with one row of it.

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_NOT_WRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}


class OutboxError(Exception):
    """An outbox file cannot be worked with at the moment."""


class OutboxBusy(OutboxError):
    """Another process holds its lock for longer than the SDK itself would wait: look again later."""


class OutboxUnusable(OutboxError):
    """It is damaged, foreign or closed to this user: nothing in it is touched until it changes."""


class RowRefused(Exception):
    """This row holds no call log that could be taken. It stays where it is, and holds up no other."""


class SinkUnavailable(Exception):
    """Nothing can be taken at the moment: the spool is full, memory is used up, the gateway does not answer."""


def translated(error: sqlite3.Error | UnicodeDecodeError) -> OutboxError:
    """What an error of SQLite means for the outbox."""
    code = primary_code(error)
    if code in _BUSY:
        return OutboxBusy("another process keeps it locked")
    if code in _DAMAGED:
        return OutboxUnusable(f"it is damaged, or no SQLite file ({error}): repair it, or move it away")
    if code in _NOT_WRITABLE:
        return OutboxUnusable(
            f"it cannot be written to ({error}): give this user read and write access to the file and its folder"
        )
    return OutboxUnusable(f"SQLite cannot work with it: {error}")


# How an outbox does: plain data for metrics, the status page and the command line.


class OutboxState(StrEnum):
    """How an outbox does."""

    MISSING = "missing"
    """There is no such file yet, or no table in it; it is taken up when it appears."""
    WATCHED = "watched"
    """What comes in is taken."""
    WAITING = "waiting"
    """Its rows cannot be taken at the moment."""
    UNUSABLE = "unusable"
    """Damaged, foreign or closed to this user."""


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """One outbox at a moment."""

    path: str
    state: OutboxState
    reason: str
    """Why it waits or is unusable; empty otherwise."""
    rows: int
    """Rows that lie in it: in use by the SDK, refused, or still to be taken."""
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    """What became of rows since the start."""
