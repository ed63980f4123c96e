"""A transaction as operations see it: reading, writing, rows that are written together, and the books."""

import sqlite3
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from spool import statements
from spool.accounting import CounterBook
from spool.inserts import LARGEST_STEP, Inserts
from spool.rows import Row
from spool.tokens import TokenBook

Result = TypeVar("Result")


class Transaction:
    """What an operation may use. Whatever is executed sees the rows that were added before it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.counters = CounterBook(connection)
        self.tokens = TokenBook()
        self.chunks = Inserts("chunks", statements.CHUNK_COLUMNS)
        self.records = Inserts("records", statements.NEW_RECORD_COLUMNS)
        self.deliveries = Inserts("deliveries", statements.NEW_DELIVERY_COLUMNS)
        self._gathered = (self.chunks, self.records, self.deliveries)
        self._new_calls: set[str] = set()
        row = connection.execute(statements.LAST_RECORD).fetchone()
        self._last_record_id = int(row[0]) if row else 0
        self._changes_before = 0

    @property
    def changed_something(self) -> bool:
        """Whether anything was written since `begin`; maintenance often finds nothing to do."""
        return self.connection.total_changes != self._changes_before

    def begin(self, calls: Collection[str] = ()) -> None:
        """Take the write lock at once: a transaction that began by reading could not always become a writing one.

        `calls` are those that the operations of this transaction are about, looked up together.
        """
        self._changes_before = self.connection.total_changes
        self.connection.execute("BEGIN IMMEDIATE")
        self._new_calls = set(calls)
        asked = list(self._new_calls)
        for start in range(0, len(asked), LARGEST_STEP):
            self._new_calls.difference_update(_known(self.connection, asked[start : start + LARGEST_STEP]))

    def execute(self, statement: str, parameters: Row | Mapping[str, object] = ()) -> sqlite3.Cursor:
        """Run one statement, after the rows that were added so far."""
        self._flush()
        return self.connection.execute(statement, parameters)

    def begins_call(self, call_id: str) -> bool:
        """Whether no record of this call is known; true once for a call, for whoever asks adds one."""
        new = call_id in self._new_calls
        self._new_calls.discard(call_id)
        return new

    def new_record_id(self) -> int:
        """An id that no record ever had."""
        self._last_record_id += 1
        return self._last_record_id

    def commit(self) -> None:
        """Write what was gathered and the books, and make all of it durable."""
        self._flush()
        self.counters.flush(self.connection)
        self.tokens.flush(self.connection)
        self.connection.execute("COMMIT")
        self.counters.committed()
        self.tokens.committed()

    def roll_back(self) -> None:
        """Undo everything since `begin`."""
        for rows in self._gathered:
            rows.clear()
        self.counters.rolled_back()
        self.tokens.rolled_back()
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _flush(self) -> None:
        for rows in self._gathered:
            if rows:
                rows.flush(self.connection)


Operation = Callable[[Transaction], Result]
"""Runs in the writer's thread. It may run again after a rollback, so it changes nothing but the transaction."""


def _known(connection: sqlite3.Connection, calls: list[str]) -> list[str]:
    """Those of these calls that have a record."""
    rows = 1 << (len(calls) - 1).bit_length()
    # Filled up with a call that is asked for anyway, so that few different statements have to be prepared.
    asked = (*calls, *calls[:1] * (rows - len(calls)))
    return [call_id for (call_id,) in connection.execute(statements.known_calls(rows), asked)]
