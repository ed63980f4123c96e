"""What is known of damage to the database that is open: once something was seen, nothing more is written to it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from spool.errors import CorruptDatabase


class Damage:
    """The first sign of damage. Any thread may report it; `wait` is for the event loop that was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._seen = asyncio.Event()
        self.reason: str | None = None
        """What was seen first; None while nothing was."""

    def report(self, reason: str) -> None:
        """Something that only damage explains was seen. Later reports change nothing."""
        if self.reason is not None:
            return
        self.reason = reason
        self._soon(self._seen.set)

    def look_at(self, error: Exception) -> None:
        """An error was met: report it if it tells of damage."""
        if isinstance(error, CorruptDatabase):
            self.report(str(error))

    def error(self) -> CorruptDatabase:
        """What is said to whoever would write."""
        return CorruptDatabase(f"the spool's database is damaged, and makes way for a new one: {self.reason}")

    async def wait(self) -> str:
        """Wait until damage is seen; returns what it was."""
        await self._seen.wait()
        return self.reason or ""

    def _soon(self, callback: Callable[[], None]) -> None:
        """On the event loop, unless that is closed and nobody waits any more."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)
