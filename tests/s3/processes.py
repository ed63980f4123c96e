"""Runs `tests.s3.draining` in a process of its own, and reads what it says."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

DEADLINE_SECONDS = 120


@asynccontextmanager
async def draining(spool: Path, endpoint: str, bucket: str, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The running process; killed at the end, if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.s3.draining", str(spool), endpoint, bucket, *more,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def finished(process: asyncio.subprocess.Process) -> list[str]:
    """The lines that it printed, once it ended well."""
    output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    assert process.returncode == 0, output
    return output.decode().splitlines()
