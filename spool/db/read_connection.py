"""One reading connection, on a thread of its own: it can change nothing, and each question is a snapshot."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiosqlite

from spool.db.connection import address_of, reader_pragmas, translated
from spool.db.sql import Row
from spool.errors import CorruptDatabase, SpoolUnavailable
from spool.ownership import CorruptionLatch

Value = str | bytes | int | None


class ReadConnection:
    """Runs one statement after the other. Made by `open`."""

    def __init__(self, connection: aiosqlite.Connection, corruption: CorruptionLatch) -> None:
        self._connection = connection
        self._corruption = corruption
        self._closed = False

    @classmethod
    async def open(cls, path: Path, corruption: CorruptionLatch) -> "ReadConnection":
        """Open the database, which must exist; on an error nothing is left open. Reports to `corruption`."""
        with translated("opening the spool for reading"):
            # Not to be cancelled: its thread would open the file nevertheless, and nobody would close it.
            connecting = asyncio.ensure_future(aiosqlite.connect(address_of(path), uri=True, isolation_level=None))
            try:
                connection = await asyncio.shield(connecting)
            except asyncio.CancelledError:
                await (await connecting).close()
                raise
            try:
                for pragma in reader_pragmas():
                    # Not `execute`: while the cursor that it returns is alive, SQLite keeps a closed file open.
                    await connection.execute_fetchall(pragma)
            except BaseException:
                await connection.close()
                raise
        return cls(connection, corruption)

    async def ask(self, statement: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> list[Row]:
        """The rows of one statement; raises the spool's errors."""
        if self._closed:
            raise SpoolUnavailable("the spool is closed")
        try:
            with translated("reading from the spool"):
                return list(await self._connection.execute_fetchall(statement, parameters))
        except CorruptDatabase as error:
            self._corruption.report(str(error))
            raise

    async def close(self) -> None:
        """Finish what was asked, and end the thread."""
        self._closed = True
        await self._connection.close()
