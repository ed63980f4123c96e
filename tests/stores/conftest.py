"""The stores of the conformance suite."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.stores.engines import Engine, PostgresEngine, SqliteEngine
from tests.stores.postgres_server import PostgresServer
from uploaders.stores.store import Store

ENGINES = ("sqlite", "postgres-18", "postgres-15")


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[str], PostgresServer]]:
    """Running servers by their version, each started when it is first asked for."""
    servers: dict[str, PostgresServer] = {}

    def server(version: str) -> PostgresServer:
        """The server of this version. Nothing here survives a crash, so nothing needs to be flushed for one."""
        if version not in servers:
            made = PostgresServer(version, "fsync=off", "max_connections=50")
            made.start()
            servers[version] = made
        return servers[version]

    yield server
    for each in servers.values():
        each.stop()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path, postgres_servers: Callable[[str], PostgresServer]) -> Engine:
    """A fresh database."""
    kind, _, version = request.param.partition("-")
    if kind == "sqlite":
        return SqliteEngine(tmp_path)
    return PostgresEngine(postgres_servers(version), f"test_{uuid.uuid4().hex}")


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
