"""The engines that the conformance suite runs on: a fresh database for each test, whose clock can be moved."""

import json
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench.clickhouse_server import ClickHouseServer
from bench.postgres_server import PostgresServer
from tests.stores.calls import RULE
from uploaders.stores.sqlite.store import SqliteStore
from uploaders.stores.store import Store

if TYPE_CHECKING:
    from uploaders.stores.clickhouse.store import ClickHouseStore
    from uploaders.stores.postgres.store import PostgresStore


class Engine(Protocol):
    """One database of one engine."""

    transactional: bool
    """Whether two writers at once count a completion once; otherwise both may."""
    package: str
    """Where its migrations are."""

    def store(self, *, pairs: bool = True, announces: bool = False) -> Store:
        """A store on the database, as each process has one of its own."""

    def advance(self, milliseconds: int) -> None:
        """Let time pass for the store."""

    def advance_claims(self, milliseconds: int) -> None:
        """Let time pass for what is claimed of the outbox."""

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """What lies in the database."""

    def set_schema_version(self, version: int) -> None:
        """Pretend that another callspool has migrated it."""

    def age(self, milliseconds: int) -> None:
        """Make every part that is there so much older."""

    def change(self, statement: str) -> None:
        """Change something behind the store's back."""


class SqliteEngine:
    """A file."""

    transactional = True
    package = "uploaders.stores.sqlite"

    def __init__(self, directory: Path) -> None:
        self.path = directory / "calls" / "store.db"
        self.now = 1_800_000_000_000

    def store(self, *, pairs: bool = True, announces: bool = False) -> SqliteStore:
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

    transactional = True
    package = "uploaders.stores.postgres"

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.schema = schema
        self.url = f"{server.url()}?options=-csearch_path%3D{schema}"
        self.change(f"create schema {schema}")

    def store(self, *, pairs: bool = True, announces: bool = False) -> "PostgresStore":
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


SqlEngine = SqliteEngine | PostgresEngine


def sql_engine(kind: str, folder: Path, postgres_servers: Callable[[str], PostgresServer]) -> SqlEngine:
    """A fresh database: `sqlite`, or `postgres-` with the version of the server."""
    if kind == "sqlite":
        return SqliteEngine(folder)
    return PostgresEngine(postgres_servers(kind.removeprefix("postgres-")), f"test_{uuid.uuid4().hex}")


class ClickHouseEngine:
    """A database of its own on a server that runs already."""

    transactional = False
    package = "uploaders.stores.clickhouse"

    def __init__(self, server: ClickHouseServer, database: str) -> None:
        self._server = server
        self._database = database
        self.url = server.url(database)
        self.now = 1_800_000_000_000
        server.query(f"create database {database}")

    def store(self, *, pairs: bool = True, announces: bool = False) -> "ClickHouseStore":
        from uploaders.stores.clickhouse.store import ClickHouseStore

        return ClickHouseStore(self.url, lambda: self.now, replace(RULE, pairs=pairs), announces=announces)

    def advance(self, milliseconds: int) -> None:
        self.now += milliseconds

    advance_claims = advance

    def age(self, milliseconds: int) -> None:
        """By the clock of the store, which is this one, what is there is older once it has moved on."""
        self.advance(milliseconds)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        options = {"database": self._database, "default_format": "JSONCompact", "final": "1"}
        answer = json.loads(self._server.query(statement, **options, output_format_json_quote_64bit_integers="0"))
        return [tuple(row) for row in answer["data"]]

    def set_schema_version(self, version: int) -> None:
        self.change(f"insert into store_version (version) values ({version})")

    def change(self, statement: str) -> None:
        self._server.query(statement, database=self._database)
