"""The stores of the conformance suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.stores.engines import Engine, SqliteEngine
from uploaders.stores.store import Store

ENGINES = ("sqlite",)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Engine:
    """A fresh database."""
    return SqliteEngine(tmp_path)


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
