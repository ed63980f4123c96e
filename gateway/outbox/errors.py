"""What can go wrong with an outbox: with the file as a whole, for a while, or with one row of it."""

import sqlite3

from spool.database import primary_code

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


class TakingLater(Exception):
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
