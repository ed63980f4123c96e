import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.intake.running_intake import RunningIntake, running

_numbers = itertools.count(1)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RunningIntake]:
    """An intake with its defaults."""
    async with running(tmp_path) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningIntake]:
    """One for all tests of a module that ask for it and run on its loop: what a start takes is most of a short test."""
    async with running(tmp_path_factory.mktemp("shared")) as started:
        yield started


@pytest.fixture
def call_id() -> str:
    """One that no other test uses."""
    return f"call-{next(_numbers)}"
