"""Fixtures: servers of S3, databases and brokers as in tests/s3, tests/stores and tests/kafka, and a disk."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.clusters import _mock, broker, cluster, failing, mock, real
from tests.s3.conftest import bucket, credentials, weed
from tests.stores.postgres_server import postgres_servers

__all__ = [
    "_mock", "broker", "bucket", "cluster", "credentials", "disk_path", "failing", "mock", "postgres_servers", "real",
    "weed",
]  # fmt: skip


@pytest.fixture
def disk_path(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk. `tmp_path` may lie in memory, and what a process writes there counts as its memory."""
    if not os.environ.get("PYTEST_DEBUG_TEMPROOT"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="callspool-test-") as folder:
        yield Path(folder)
