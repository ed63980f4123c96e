"""The check that runs beside the work: whether the database can still be read, a slice at a time.

It reads what deliveries may not read for a long time, so that damage is found while the records are few that lie in a
damaged database, and not on the day on which they are needed. A fault ends the life of the database: see `Damage`.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from spool.damage import Damage
from spool.errors import CorruptDatabase
from spool.read_connection import ReadConnection

SHARE = 0.02
"""Of the time: 10 GB that are read at 500 MB/s take a thousand seconds."""
EVERY_SECONDS = 3600.0
CHUNKS_PER_SLICE = 8
"""Up to 8 MiB, some 20 ms."""

TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'chunks' ORDER BY name"
# The frames are read and thrown away: only reading a frame shows that its pages are there. Whether it matches its
# checksum is asked when it is delivered, and a bad one is a matter of its record alone.
NEXT_CHUNKS = "SELECT chunk_id, frame FROM chunks WHERE chunk_id > ? ORDER BY chunk_id LIMIT ?"


class BackgroundCheck:
    """Looks at all of the database once an hour, beginning at once. `run` ends only by being cancelled."""

    def __init__(self, path: Path, damage: Damage) -> None:
        self._path = path
        self._damage = damage

    async def run(self) -> None:
        """Round after round, with pauses, until damage was seen."""
        loop = asyncio.get_running_loop()
        connection = await ReadConnection.open(self._path, self._damage)
        try:
            while self._damage.reason is None:
                next_round = loop.time() + EVERY_SECONDS
                async for seconds in self.round(connection):
                    await asyncio.sleep(seconds / SHARE)
                await asyncio.sleep(max(0.0, next_round - loop.time()))
        except CorruptDatabase as error:
            self._damage.report(str(error))
        finally:
            await connection.close()

    async def round(self, connection: ReadConnection) -> AsyncIterator[float]:
        """One slice after the other; gives how many seconds each took. Raises `CorruptDatabase`."""
        loop = asyncio.get_running_loop()
        for (table,) in await connection.ask(TABLES):
            started = loop.time()
            lines = [line for (line,) in await connection.ask(f"PRAGMA quick_check({table})") if line != "ok"]
            if lines:
                raise CorruptDatabase(f"the background check found damage in {table}: {lines[0]}")
            yield loop.time() - started
        last = 0
        while True:
            started = loop.time()
            rows = await connection.ask(NEXT_CHUNKS, (last, CHUNKS_PER_SLICE))
            yield loop.time() - started
            if not rows:
                return
            last = rows[-1][0]
