"""The agents' own tokens: one table, counted uses, overwritten when nothing needs them any more (promise 9).

A table that fits into one page holds nothing of a deleted row. In a larger one, rows are copied from page to page as
others come and go, and what is left of the copies is cleared by `scrub`, which maintenance calls.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from spool.db import sql

_KNOWN_TOKENS = 1024


class TokenStore:
    """Tokens and how many records and upload addresses use each. For the writer's thread only."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._changes: dict[int, int] = {}
        self._deleted = True
        """Whether tokens were deleted since the last scrub; perhaps by the process before."""

    def use(self, connection: sqlite3.Connection, token: str) -> int:
        """One more use of `token`; returns its id."""
        token_hash = hash_of(token)
        token_id = self._ids.get(token_hash)
        if token_id is None:
            row = connection.execute(sql.USE_TOKEN, (token_hash, token)).fetchone()
            token_id = int(row[0])
            if len(self._ids) >= _KNOWN_TOKENS:
                self._ids.clear()
            self._ids[token_hash] = token_id
        self._changes[token_id] = self._changes.get(token_id, 0) + 1
        return token_id

    def release(self, token_id: int) -> None:
        """One use less."""
        self._changes[token_id] = self._changes.get(token_id, 0) - 1

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write this transaction's changes; a token that nothing uses is overwritten, then deleted."""
        unused = []
        for token_id, change in self._changes.items():
            row = connection.execute(sql.ADD_TOKEN_USES, (change, token_id)).fetchone()
            if row is not None and row[0] <= 0:
                unused.append(token_id)
        if unused:
            self._delete(connection, unused)

    def _delete(self, connection: sqlite3.Connection, unused: list[int]) -> None:
        with _freed_pages_cleared(connection):
            for token_id in unused:
                connection.execute(sql.OVERWRITE_TOKEN, (token_id,))
                connection.execute(sql.DELETE_TOKEN, (token_id,))
                self._forget(token_id)
        self._deleted = True

    def scrub(self, connection: sqlite3.Connection) -> None:
        """Write the table anew, if tokens were deleted since the last time, so that none is left in some gap."""
        if not self._deleted:
            return
        rows = connection.execute(sql.ALL_TOKENS).fetchall()
        with _freed_pages_cleared(connection):
            connection.execute(sql.CLEAR_TOKENS)
        connection.executemany(sql.ADD_TOKEN, rows)
        self._deleted = False

    def committed(self) -> None:
        """The transaction is durable."""
        self._changes.clear()

    def rolled_back(self) -> None:
        """The transaction was rolled back; ids that it gave out are forgotten with it."""
        self._changes.clear()
        self._deleted = True  # perhaps it was cleared by a scrub that was rolled back
        self._ids.clear()

    def _forget(self, token_id: int) -> None:
        self._ids = {token_hash: known for token_hash, known in self._ids.items() if known != token_id}


def hash_of(token: str) -> bytes:
    """What a token is found by; a stored one that does not match it is damaged."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


@contextmanager
def _freed_pages_cleared(connection: sqlite3.Connection) -> Iterator[None]:
    """Overwrite whole pages that become free, too; for payloads that would cost as much as writing them."""
    connection.execute(sql.CLEAR_FREED_PAGES)
    try:
        yield
    finally:
        connection.execute(sql.LEAVE_FREED_PAGES)
