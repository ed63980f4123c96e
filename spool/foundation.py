"""What a spool stands on: the directory, the database in it, and the connections; laid in order, or not at all."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from spool.commit_observer import CommitObserver
from spool.custody import Custody
from spool.database import translated
from spool.directory import DATABASE_NAME
from spool.disk_space import DiskSpace, headroom_bytes, make_room_to_open
from spool.opening import Start, open_or_replace
from spool.options import SpoolOptions
from spool.reading import Reader
from spool.writer import Writer


@dataclass(frozen=True, slots=True)
class Foundation:
    """The parts, open."""

    custody: Custody
    start: Start
    reader: Reader
    writer: Writer

    @classmethod
    async def lay(
        cls, options: SpoolOptions, destinations: tuple[str, ...], clock: Callable[[], int], observer: CommitObserver
    ) -> "Foundation":
        """Take the directory, open the database or make a new one, and connect; see `Spool.open` for the errors."""
        directory = options.directory
        path = directory / DATABASE_NAME
        custody = await Custody.take(directory, options.lock_timeout)
        try:
            make_room_to_open(directory)
            start = await asyncio.to_thread(open_or_replace, path, options.max_bytes, destinations, clock())
            custody.look()
            reader = await Reader.open(path, start.names, custody.damage)
            try:
                with translated(f"opening the spool {path} for writing"):
                    disk = DiskSpace(directory, headroom_bytes(directory, start.limit_bytes))
                    loop = asyncio.get_running_loop()
                    writer = Writer(
                        path, loop, observer, disk, custody.damage, options.compression_level, start.log_cap_bytes
                    )
            except BaseException:
                await reader.close()
                raise
        except BaseException:
            await custody.give_back(clock())
            raise
        return cls(custody, start, reader, writer)
