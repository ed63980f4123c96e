from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.intake.world import World, running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """An intake with its defaults."""
    async with running(tmp_path) as started:
        yield started
