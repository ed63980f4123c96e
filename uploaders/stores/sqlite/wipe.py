"""Leaves nothing of deleted rows in the files of a store: not in free pages, the full-text index, or the log."""

import time
from typing import Final

from uploaders.stores.sqlite.connection import Connection
from uploaders.stores.store import StoreUnavailable

_FILL_BYTES: Final = 4 << 20
"""Of zeros in one transaction: the log stays small, and writes of others are not held up for long."""
_LOG_SECONDS: Final = 10.0
"""How long readers may keep the log from being emptied."""


def wipe(writing: Connection) -> None:
    """In the connection's thread. Takes as long as writing the free pages once, and the words of all summaries.

    With `secure_delete = FAST` SQLite clears what is deleted inside of pages, but not pages that become free: a table
    of zeros takes all of these, and gives them back. Raises `StoreUnavailable` where readers do not let go of the log.
    """
    if writing.execute("SELECT 1 FROM sqlite_schema WHERE name = 'call_words'"):
        # An index of words only marks what is deleted, until its segments are merged.
        writing.execute("INSERT INTO call_words (call_words) VALUES ('optimize')")
    ((page_bytes,),) = writing.execute("PRAGMA page_size")
    with writing.transaction():
        writing.execute("CREATE TABLE IF NOT EXISTS wiping (zeros BLOB) STRICT")
    while free := writing.execute("PRAGMA freelist_count")[0][0]:
        with writing.transaction():
            # A row of many pages takes them whole; the last ones are taken one by one, each by a row of its own.
            size = min(free * page_bytes, _FILL_BYTES) - 2 * page_bytes
            writing.execute("INSERT INTO wiping VALUES (zeroblob(?))", (max(size, page_bytes // 2),))
    with writing.transaction():
        writing.execute("DROP TABLE wiping")
    deadline = time.monotonic() + _LOG_SECONDS
    while writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
        if time.monotonic() > deadline:
            raise StoreUnavailable("a reader keeps the log of the store from being emptied: erase again")
