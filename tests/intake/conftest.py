from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.intake.running_intake import RunningIntake, running


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RunningIntake]:
    """An intake with its defaults."""
    async with running(tmp_path) as started:
        yield started
