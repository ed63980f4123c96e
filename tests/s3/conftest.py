"""A real spool with something to deliver, and uploaders of it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.s3.stored_objects import Heard, Store, opened_store
from uploaders.s3.options import S3Options
from uploaders.s3.uploader import S3Uploader


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def made(store: Store, heard: Heard, credentials: None) -> AsyncIterator[Callable[[S3Options], S3Uploader]]:
    """Makes uploaders over the store, and closes them."""
    uploaders = []

    def make(chosen: S3Options) -> S3Uploader:
        uploaders.append(S3Uploader(chosen, store.spool, store.spool.uploader_state, heard))
        return uploaders[-1]

    yield make
    for one in uploaders:
        await one.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path / "spool") as store:
        yield store
