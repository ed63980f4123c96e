"""The spool directory while this process owns it, and the first sign that its database must be opened anew."""

import asyncio
from contextlib import suppress
from pathlib import Path

from spool.directory import DirectoryLock, prepare_directory, quarantine, quarantined
from spool.errors import CorruptDatabase
from spool.stats import QuarantinedDatabase


class CorruptionLatch:
    """The first sign that the open database must be opened anew; after it, nothing more is written to that.

    Either it is corrupt, and a new one takes its place; or it is sound, but its files were taken away from it. Any
    thread may report; `wait` is for the event loop that was given.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._seen = asyncio.Event()
        self.reason: str | None = None
        """What was seen first of corruption; None while nothing was."""
        self.reopen_reason: str | None = None
        """Why a sound database must be opened anew; None while it need not be."""

    def report(self, reason: str) -> None:
        """Something was seen that only corruption explains. Later reports change nothing."""
        if self.reason is None:
            self.reason = reason
            self._wake()

    def request_reopen(self, reason: str) -> None:
        """The database is sound, but can be written to only once everything that has it open has closed it."""
        if self.reopen_reason is None:
            self.reopen_reason = reason
            self._wake()

    def observe(self, error: Exception) -> None:
        """Report an error if it is one of corruption."""
        if isinstance(error, CorruptDatabase):
            self.report(str(error))

    def error(self) -> CorruptDatabase:
        """The error of whoever would write."""
        return CorruptDatabase(f"the spool's database is corrupt and is being replaced: {self.reason}")

    async def wait(self) -> str:
        """Wait until the database must be opened anew; returns why."""
        await self._seen.wait()
        return self.reason or self.reopen_reason or ""

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the event loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._seen.set)


class SpoolDirectory:
    """The spool directory as this process owns it. Made by `acquire`, ended by `release`, with the database closed."""

    def __init__(self, path: Path, lock: DirectoryLock, warning: str | None, corruption: CorruptionLatch) -> None:
        self.path = path
        self.warning = warning
        """What the operator should know about the directory, if anything."""
        self.corruption = corruption
        self.quarantined: tuple[QuarantinedDatabase, ...] = ()
        """The databases in quarantine, as of the last `refresh`."""
        self._lock = lock

    @classmethod
    async def acquire(cls, path: Path, lock_timeout: float) -> "SpoolDirectory":
        """Own the directory. Raises `UnsuitableDirectory` or `SpoolLocked`."""
        warning = prepare_directory(path)
        lock = DirectoryLock(path)
        await asyncio.to_thread(lock.acquire, lock_timeout)
        return cls(path, lock, warning, CorruptionLatch(asyncio.get_running_loop()))

    def refresh(self) -> None:
        """See which databases are in quarantine now."""
        self.quarantined = quarantined(self.path)

    async def release(self, now: int) -> None:
        """Move a corrupt database into quarantine, so that whoever opens the directory next makes a new one; free it.

        Raises `OSError` where it cannot be moved; the next start meets the corruption again, or finishes the move.
        """
        try:
            if self.corruption.reason is not None:
                await asyncio.to_thread(quarantine, self.path, self.corruption.reason, now)
        finally:
            self._lock.release()
