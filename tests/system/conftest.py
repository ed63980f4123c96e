"""Fixtures: the S3 servers, buckets and credentials of tests/s3, the database servers of tests/stores, and a disk."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3.conftest import bucket, credentials, weed
from tests.stores.postgres_server import postgres_servers

__all__ = ["bucket", "credentials", "disk_path", "postgres_servers", "weed"]


@pytest.fixture
def disk_path(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk. `tmp_path` may lie in memory, and what a process writes there counts as its memory."""
    if not os.environ.get("PYTEST_DEBUG_TEMPROOT"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="callspool-test-") as folder:
        yield Path(folder)
