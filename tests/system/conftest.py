"""The databases that receivers and workers write to."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.postgres_server import PostgresServer
from tests.stores.engines import Engine, PostgresEngine, SqliteEngine


@pytest.fixture(params=["sqlite", "postgres"])
def database(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_servers: Callable[[str], PostgresServer]
) -> tuple[str, Engine]:
    """The address of a fresh database, and a way to look inside."""
    if request.param == "sqlite":
        engine = SqliteEngine(tmp_path)
        return f"sqlite:///{engine.path}", engine
    postgres = PostgresEngine(postgres_servers("18"), f"test_{uuid.uuid4().hex}")
    return postgres.url, postgres
