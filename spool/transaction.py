"""A transaction as operations see it: the connection, and the books that are written with what they change."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from spool.accounting import CounterBook
from spool.tokens import TokenBook

Result = TypeVar("Result")


class Transaction:
    """What an operation may use: the connection and the books that are written with it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.counters = CounterBook(connection)
        self.tokens = TokenBook()

    def begin(self) -> None:
        """Take the write lock at once: a transaction that began by reading could not always become a writing one."""
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Write the books and make all of it durable."""
        self.counters.flush(self.connection)
        self.tokens.flush(self.connection)
        self.execute("COMMIT")
        self.counters.committed()
        self.tokens.committed()

    def roll_back(self) -> None:
        """Undo everything since `begin`."""
        self.counters.rolled_back()
        self.tokens.rolled_back()
        if self.connection.in_transaction:
            self.execute("ROLLBACK")


Operation = Callable[[Transaction], Result]
"""Runs in the writer's thread. It may run again after a rollback, so it changes nothing but the transaction."""
