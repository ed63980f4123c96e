"""The spool keeps the promises of the Queue protocol, by the suite that every queue runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.spool.spool_parts import Clock, opened
from tests.uploaders.queue_conformance import *  # noqa: F403  # the suite is made to be imported whole
from tests.uploaders.queue_conformance import AcceptingQueue


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[AcceptingQueue]:
    async with opened(tmp_path, clock=Clock()) as spool:
        yield spool
