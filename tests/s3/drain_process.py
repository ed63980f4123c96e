"""A process that drains a spool into a bucket.

    python -m tests.s3.drain_process SPOOL ENDPOINT BUCKET [ENCODING [PART_BYTES]]

It prints each outcome, and the most memory that it ever had, in KiB.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from spool.records import Delivery, Lane
from tests.s3.stored_objects import opened_store
from tests.system import preloaded
from tests.system.preloaded import Process
from uploaders.base import Delivered
from uploaders.s3.options import DEFAULT_PART_BYTES, ObjectEncoding, S3Options
from uploaders.s3.uploader import S3Uploader


async def drain(spool: Path, options: S3Options) -> None:
    async with opened_store(spool) as store:
        uploader = S3Uploader(options, store.spool, store.spool.uploader_state)
        due = await store.due(Lane.DETAIL)
        # Two at once, as the detail lane has it.
        slots = asyncio.Semaphore(2)

        async def one(delivery: Delivery) -> None:
            async with slots:
                outcome = await uploader.deliver(delivery)
                if isinstance(outcome, Delivered):
                    await store.delivered(delivery)
                print(outcome, flush=True)  # noqa: T201 - the parent reads it

        await asyncio.gather(*(one(delivery) for delivery in due))
        await uploader.close()
    print("peak", most_memory(), flush=True)  # noqa: T201 - the parent reads it


def most_memory() -> int:
    """In KiB, without the pages of mapped files, such as libraries, which can be reclaimed at any time.

    Not getrusage: that counts what the parent had when it made this process.
    """
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    figures = {name: int(rest[0]) for name, *rest in lines if name in {"VmHWM:", "RssFile:"}}
    return figures["VmHWM:"] - figures["RssFile:"]


DEADLINE_SECONDS = 120
MODULE = "tests.s3.drain_process"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Draining:
    """The process, and what it printed."""

    process: Process
    output: IO[bytes]

    async def finished(self) -> list[str]:
        """The lines that it printed, once it ended well."""
        code = await asyncio.wait_for(self.process.wait(), DEADLINE_SECONDS)
        self.output.seek(0)
        printed = self.output.read().decode()
        assert code == 0, printed
        return printed.splitlines()


@asynccontextmanager
async def draining(spool: Path, endpoint: str, bucket: str, *more: str, forked: bool = True) -> AsyncIterator[Draining]:
    """The running process; killed at the end, if it still runs. One that is not forked has memory of its own alone."""
    arguments = (str(spool), endpoint, bucket, *more)
    with tempfile.TemporaryFile() as output, Path(os.devnull).open("rb") as nothing:
        process: Process
        if forked:
            process = await preloaded.start(
                arguments, environment=os.environ, folder=ROOT, streams=(nothing, output, output), module=MODULE
            )
        else:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", MODULE, *arguments, cwd=ROOT, stdout=output, stderr=output
            )
        try:
            yield Draining(process, output)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    directory, endpoint, bucket, *rest = sys.argv[1:]
    chosen = S3Options(
        bucket=bucket,
        endpoint_url=endpoint,
        region="us-east-1",
        encoding=ObjectEncoding(rest[0]) if rest else ObjectEncoding.ZSTD,
        part_bytes=int(rest[1]) if rest[1:] else DEFAULT_PART_BYTES,
    )
    asyncio.run(drain(Path(directory), chosen))
