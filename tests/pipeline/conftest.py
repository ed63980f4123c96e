"""Databases, models and a server of models for the tests of the pipeline."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bench.postgres_server import PostgresServer
from tests.pipeline.model_server import ModelServer
from tests.spool.spool_parts import Clock
from tests.stores.engines import SqlEngine, sql_engine
from uploaders.pipeline.local import LocalModels
from uploaders.pipeline.local_main import FromModels, ToModels, answer_to
from uploaders.stores.pipeline import CallbackTables
from uploaders.stores.pipeline_tables import PipelineTables

NOW = 1_800_000_000_000


class LocalModelsHere(LocalModels):
    """The same models without the process around them, which takes a second to start (tests/pipeline/test_local.py)."""

    async def _answer(self, request: ToModels) -> FromModels:
        return answer_to(request)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture(params=["sqlite", "postgres-18", "postgres-15"])
def engine(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres_servers: Callable[[str], PostgresServer],
) -> SqlEngine:
    """A fresh database."""
    return sql_engine(request.param, tmp_path, postgres_servers)


@pytest.fixture
async def tables(engine: SqlEngine, clock: Clock) -> AsyncIterator[PipelineTables]:
    store = engine.store()
    made = PipelineTables(store, clock)
    await made.prepare()
    yield made
    await store.close()


@pytest.fixture
async def callbacks(engine: SqlEngine, clock: Clock) -> AsyncIterator[CallbackTables]:
    store = engine.store()
    yield CallbackTables(store, clock)
    await store.close()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalModels]:
    models = LocalModelsHere(tmp_path)
    yield models
    await models.close()


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as made:
        yield made
