"""A transaction as operations see it: reading, writing, rows that are written together, and the books."""

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from spool import statements
from spool.accounting import CounterBook
from spool.endings import Endings
from spool.inserts import Inserts
from spool.lookups import LookUps
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
        self.endings = Endings()
        self.known = LookUps()
        self._gathered = (self.chunks, self.records, self.deliveries, self.endings)
        row = connection.execute(statements.LAST_RECORD).fetchone()
        self._last_record_id = int(row[0]) if row else 0
        self._before = (0, 0)
        self.pages, self.free_pages = 0, 0
        """How many the database has, as of the last commit."""
        self.count_pages()

    @property
    def changed_something(self) -> bool:
        """Whether anything was written since `begin`; maintenance often finds nothing to do.

        SQLite counts changed rows, and not the pages that are given back.
        """
        return (self.connection.total_changes, self.pages) != self._before

    def begin(self, calls: Iterable[str] = (), records: Iterable[int] = ()) -> None:
        """Take the write lock at once: a transaction that began by reading could not always become a writing one.

        `calls` and `records` are those that the operations of this transaction are about, looked up together.
        """
        self._before = (self.connection.total_changes, self.pages)
        self.connection.execute("BEGIN IMMEDIATE")
        self.known.begin(self.connection, calls, records)

    def execute(self, statement: str, parameters: Row | Mapping[str, object] = ()) -> sqlite3.Cursor:
        """Run one statement, after what was gathered so far."""
        self._flush()
        before = self.connection.total_changes
        cursor = self.connection.execute(statement, parameters)
        if self.connection.total_changes != before:
            self.known.forget_open()
        return cursor

    def new_record_id(self) -> int:
        """An id that no record ever had."""
        self._last_record_id += 1
        return self._last_record_id

    def commit(self) -> None:
        """Write what was gathered and the books, and make all of it durable."""
        self._flush()
        self.counters.flush(self.connection)
        self.tokens.flush(self.connection)
        self.count_pages()
        self.connection.execute("COMMIT")
        self.counters.committed()
        self.tokens.committed()

    def count_pages(self) -> None:
        """See how many pages there are."""
        (self.pages,) = self.connection.execute(statements.PAGE_COUNT).fetchone()
        (self.free_pages,) = self.connection.execute(statements.FREE_PAGES).fetchone()

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
