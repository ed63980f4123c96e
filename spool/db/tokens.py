"""The agents' own tokens: one table, counted uses, overwritten when nothing needs them any more (promise 9).

A table that fits into one page holds nothing of a deleted row. In a larger one, rows are copied from page to page as
others come and go, and what is left of the copies is cleared by `scrub`, which maintenance calls. Where a key is
configured, the values are encrypted.
"""

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from spool.db import sql
from spool.errors import CorruptPayload
from spool.keys import SpoolKeys, WrappedKey

_KNOWN_TOKENS = 1024
_LONGEST_KNOWN = 2048
"""Characters: 1,024 tokens of this length are 2 MB. Longer ones are looked up each time."""


class TokenStore:
    """Tokens and how many records and upload addresses use each. For the writer's thread, but for `value_of`."""

    def __init__(self, keys: SpoolKeys) -> None:
        self._keys = keys
        self._ids: dict[str, int] = {}
        self._values: dict[int, str] = {}
        """The same the other way round: tokens that something needs, as far as they are remembered."""
        self.changes: dict[int, int] = {}
        """How many uses more or fewer the transaction under way makes of each; often empty."""
        self._deleted = True
        """Whether tokens were deleted since the last scrub; perhaps by the process before."""

    def use(self, connection: sqlite3.Connection, token: str) -> int:
        """One more use of `token`; returns its id."""
        token_id = self._ids.get(token)
        if token_id is None:
            row = connection.execute(sql.USE_TOKEN, (hash_of(token), *self._stored(token))).fetchone()
            token_id = int(row[0])
            if len(token) <= _LONGEST_KNOWN:
                self._remember(token_id, token)
        self.changes[token_id] = self.changes.get(token_id, 0) + 1
        return token_id

    def _stored(self, token: str) -> tuple[str, int | None]:
        """Its value as it is stored, and the epoch by whose key it is encrypted, if it is."""
        if not self._keys.enabled:
            return token, None
        wrapped = self._keys.wrap(token.encode(), token_context(hash_of(token)))
        return base64.b64encode(wrapped.value).decode(), wrapped.epoch

    def value_of(self, token_id: int) -> str | None:
        """A token that this process was given and that something needs still; None: ask the database. For any thread.

        Reading it there took a delivery to another thread and back.
        """
        return self._values.get(token_id)

    def release(self, token_id: int) -> None:
        """One use less."""
        self.changes[token_id] = self.changes.get(token_id, 0) - 1

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write this transaction's changes; a token that nothing uses is overwritten, then deleted."""
        unused = []
        for token_id, change in self.changes.items():
            row = connection.execute(sql.ADD_TOKEN_USES, (change, token_id)).fetchone()
            if row is not None and row[0] <= 0:
                unused.append(token_id)
        if unused:
            self._delete(connection, unused)

    def _delete(self, connection: sqlite3.Connection, unused: list[int]) -> None:
        if self._keys.enabled:
            self._keys.ended([epoch for (epoch,) in connection.execute(sql.EPOCHS_OF_TOKENS)])
        with freed_pages_cleared(connection):
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
        with freed_pages_cleared(connection):
            connection.execute(sql.CLEAR_TOKENS)
        connection.executemany(sql.ADD_TOKEN, rows)
        self._deleted = False

    def must_scrub(self) -> None:
        """Values were replaced: what is left of them in the table is cleared by the next scrub."""
        self._deleted = True

    def committed(self) -> None:
        """The transaction is durable."""
        self.changes.clear()

    def rolled_back(self) -> None:
        """The transaction was rolled back; ids that it gave out are forgotten with it."""
        self.changes.clear()
        self._deleted = True  # perhaps it was cleared by a scrub that was rolled back
        self._forget_all()

    def _remember(self, token_id: int, token: str) -> None:
        if len(self._ids) >= _KNOWN_TOKENS:
            self._forget_all()
        self._ids[token] = token_id
        self._values[token_id] = token

    def _forget(self, token_id: int) -> None:
        token = self._values.pop(token_id, None)
        if token is not None:
            del self._ids[token]

    def _forget_all(self) -> None:
        self._ids.clear()
        self._values.clear()


def hash_of(token: str) -> bytes:
    """What a token is found by; a stored one that does not match it is damaged."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def token_context(token_hash: bytes) -> bytes:
    """What an encrypted token is, to whoever decrypts it."""
    return b"token " + token_hash


def token_in(value: str, token_hash: bytes, epoch: int | None, keys: SpoolKeys) -> str:
    """The token of a row. Raises `CorruptPayload`, which says what of it is wrong."""
    if epoch is not None:
        try:
            value = keys.unwrap(WrappedKey(epoch, base64.b64decode(value)), token_context(token_hash)).decode()
        except ValueError as error:
            raise CorruptPayload("is no base64 of what was encrypted") from error
        except CorruptPayload as error:
            raise CorruptPayload(f"cannot be decrypted: {error}") from error
    if hash_of(value) != token_hash:
        raise CorruptPayload("does not match its hash")
    return value


@contextmanager
def freed_pages_cleared(connection: sqlite3.Connection) -> Iterator[None]:
    """Overwrite whole pages that become free, too; for payloads that would cost as much as writing them."""
    (before,) = connection.execute(sql.CLEARS_FREED_PAGES).fetchone()
    connection.execute(sql.CLEAR_FREED_PAGES)
    try:
        yield
    finally:
        if before != sql.CLEARS_ALL:
            connection.execute(sql.LEAVE_FREED_PAGES)
