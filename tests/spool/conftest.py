"""A clock, an observer and an open spool."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spool.db import startup
from spool.db.connection import migrate
from spool.store import Spool
from tests.spool.spool_parts import BUCKET, ENDPOINT, Clock, Commits, opened


@pytest.fixture(autouse=True)
def each_run_of_the_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spool's own tests make each schema as the product does."""
    monkeypatch.setattr(startup, "migrate", migrate)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
async def spool(tmp_path: Path, clock: Clock, commits: Commits) -> AsyncIterator[Spool]:
    async with opened(tmp_path, clock=clock, commits=commits) as spool:
        yield spool


@pytest.fixture
async def order_spool(tmp_path: Path, clock: Clock) -> AsyncIterator[Spool]:
    """A spool that knows a second endpoint."""
    async with opened(tmp_path, clock=clock, destinations=(ENDPOINT, BUCKET, "other")) as spool:
        yield spool
