"""The queue in memory that the dispatcher's tests use keeps the same rules as the spool."""

import pytest

from tests.uploaders.memory_queue import MemoryQueue
from tests.uploaders.queue_conformance import *  # noqa: F403 - the rules, run against the fixture below
from tests.uploaders.queue_conformance import NOW


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue(lambda: NOW)
