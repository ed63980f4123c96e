"""The engines that the conformance suite runs on: a fresh database for each test, whose clock can be moved."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from tests.stores.calls import RULE
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import Store


class Engine(Protocol):
    """One database of one engine."""

    def store(self) -> Store:
        """A store on the database, as each process has one of its own."""
        ...

    def advance(self, milliseconds: int) -> None:
        """Let time pass for the store."""
        ...

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What lies in the database."""
        ...

    def set_schema_version(self, version: int) -> None:
        """Pretend that another callspool has migrated it."""
        ...


class SqliteEngine:
    """A file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "calls" / "store.db"
        self.now = 1_800_000_000_000

    def store(self) -> Store:
        return SqliteStore(self.path, lambda: self.now, RULE)

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def set_schema_version(self, version: int) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(f"PRAGMA user_version = {version}")
