"""A reading connection, and what is left of one whose opening was cancelled."""

import asyncio
import contextlib
import gc
from pathlib import Path

import pytest

from spool.directory import DATABASE_NAME
from spool.ownership import CorruptionLatch
from spool.queue.reader import ReadConnection
from tests.disks.filesystems import users_of
from tests.spool.spool_parts import opened


@pytest.mark.parametrize("steps", range(8))
def test_an_opening_that_is_cancelled_leaves_nothing_open(tmp_path: Path, steps: int) -> None:
    """Wherever it is cancelled, and though the loop ends right after it, the file is closed."""

    async def make() -> None:
        async with opened(tmp_path):
            pass

    async def open_and_cancel() -> None:
        opening = asyncio.create_task(
            ReadConnection.open(tmp_path / DATABASE_NAME, CorruptionLatch(asyncio.get_running_loop()))
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await opening).close()

    asyncio.run(make())
    gc.disable()
    try:
        asyncio.run(open_and_cancel())
        assert sorted(users_of(tmp_path)) == []
    finally:
        gc.enable()
