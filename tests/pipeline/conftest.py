"""Databases, models and a server of models for the tests of the pipeline."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.postgres_server import PostgresServer
from tests.pipeline.model_server import ModelServer
from tests.pipeline.runner_stage import NOW, RULE, Begin, Heard, Stage
from tests.spool.spool_parts import Clock
from tests.stores.engines import SqlEngine, sql_engine
from uploaders.pipeline.local import BundledEmbedding, LocalModels
from uploaders.pipeline.local_main import FromModels, ToModels, answer_to
from uploaders.pipeline.models import OpenAiChat, OpenAiEmbedding
from uploaders.pipeline.options import ServerOptions
from uploaders.pipeline.runner import Models, PipelineRunner, RunnerRule
from uploaders.pipeline.vectors import SqliteVectors
from uploaders.stores.pipeline import CallbackTables
from uploaders.stores.pipeline_tables import PipelineTables


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


@pytest.fixture
async def begin(
    tables: PipelineTables, engine: Any, local: LocalModels, server: ModelServer, clock: Clock
) -> AsyncIterator[Begin]:
    """Starts a runner by its rule; `chat` and `embed` say whether the server has these models."""
    store = engine.store()

    @asynccontextmanager
    async def begun(rule: RunnerRule = RULE, *, chat: bool = True, embed: bool = True) -> AsyncIterator[Stage]:
        options = ServerOptions(server.url, "secret-key", 5.0)
        embedding = OpenAiEmbedding(options, "embedder", 8) if embed else BundledEmbedding(local)
        models = Models(local, embedding, OpenAiChat(options, "chatter") if chat else None)
        heard = Heard()
        found = SqliteVectors(store, engine.path, local, embedding.name)
        runner = PipelineRunner(tables, models, found, rule, heard, clock, time.monotonic)
        runner.start()
        try:
            yield Stage(tables, runner, heard)
        finally:
            await runner.stop(1.0)
            await models.embedding.close()
            if models.chat is not None:
                await models.chat.close()

    yield begun
    await store.close()
