"""The stores of the conformance suite."""

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bench.postgres_server import PostgresServer
from tests.stores.engines import ClickHouseEngine, Engine, sql_engine
from uploaders.stores.store import Store

CLICKHOUSE = pytest.param("clickhouse", marks=pytest.mark.prove)
"""Its tables take half a second for each test; `test_clickhouse` has some of it in `make test`."""
ENGINES = ("sqlite", "postgres-18", pytest.param("postgres-15", marks=pytest.mark.prove), CLICKHOUSE)
"""Of the older PostgreSQL, `make test` has what writes and reads everything: random parts, against the model."""


@pytest.fixture(params=ENGINES)
def engine(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres_servers: Callable[[str], PostgresServer],
) -> Engine:
    """A fresh database."""
    if request.param == "clickhouse":
        return ClickHouseEngine(request.getfixturevalue("clickhouse_server"), f"test_{uuid.uuid4().hex}")
    return sql_engine(request.param, tmp_path, postgres_servers)


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    """A store on it."""
    made = engine.store()
    yield made
    await made.close()


@pytest.fixture
async def second(engine: Engine) -> AsyncIterator[Store]:
    """Another store on the same database, as another process has it."""
    made = engine.store()
    yield made
    await made.close()
