"""The engines that the conformance suite runs on: a fresh database for each test, whose clock can be moved."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from bench.postgres_server import PostgresServer
from gateway.announcements import AnnouncingStore
from tests.stores.calls import RULE
from uploaders.stores.sqlite.store import SqliteStore


class Engine(Protocol):
    """One database of one engine."""

    def store(self, *, pairs: bool = True, announces: bool = False) -> AnnouncingStore:
        """A store on the database, as each process has one of its own."""
        ...

    def advance(self, milliseconds: int) -> None:
        """Let time pass for the store."""
        ...

    def advance_claims(self, milliseconds: int) -> None:
        """Let time pass for what is claimed of the outbox."""
        ...

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What lies in the database."""
        ...

    def set_schema_version(self, version: int) -> None:
        """Pretend that another callspool has migrated it."""
        ...

    def age(self, milliseconds: int) -> None:
        """Make every part that is there so much older."""
        ...

    def change(self, statement: str) -> None:
        """Change something behind the store's back."""
        ...


class SqliteEngine:
    """A file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "calls" / "store.db"
        self.now = 1_800_000_000_000

    def store(self, *, pairs: bool = True, announces: bool = False) -> AnnouncingStore:
        return SqliteStore(self.path, lambda: self.now, replace(RULE, pairs=pairs), announces=announces)

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds

    advance_claims = advance

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def set_schema_version(self, version: int) -> None:
        self.change(f"PRAGMA user_version = {version}")

    def age(self, milliseconds: int) -> None:
        self.change(f"update call_parts set received_at = received_at - {milliseconds}")

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute(statement)


class PostgresEngine:
    """A schema of its own on a server that runs already: a database takes a tenth of a second to make."""

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.schema = schema
        self.url = f"{server.url()}?options=-csearch_path%3D{schema}"
        self.change(f"create schema {schema}")

    def store(self, *, pairs: bool = True, announces: bool = False) -> AnnouncingStore:
        from uploaders.stores.postgres.store import PostgresStore

        return PostgresStore(self.url, replace(RULE, pairs=pairs), announces=announces)

    def advance(self, milliseconds: int) -> None:
        """The database's clock cannot be moved; what is measured by it can."""
        self.change(f"update calls_complete set due_at = due_at - {milliseconds} * interval '1 millisecond'")

    def advance_claims(self, milliseconds: int) -> None:
        """As `advance`."""
        self.change(f"update completions set claimed_at = claimed_at - {milliseconds} * interval '1 millisecond'")

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement).fetchall()

    def set_schema_version(self, version: int) -> None:
        self.change(f"insert into store_version (version) values ({version})")

    def age(self, milliseconds: int) -> None:
        self.change(f"update call_parts set received_at = received_at - {milliseconds} * interval '1 millisecond'")

    def change(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)
