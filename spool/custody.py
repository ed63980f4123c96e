"""The spool directory as this process holds it: its lock, what damage was seen, and what was moved aside."""

import asyncio
from pathlib import Path

from spool.aside import asides, move_aside
from spool.damage import Damage
from spool.directory import DirectoryLock, prepare_directory
from spool.figures import Aside


class Custody:
    """Made by `take`, ended by `give_back`, when nothing of the database is open any more."""

    def __init__(self, directory: Path, lock: DirectoryLock, warning: str | None, damage: Damage) -> None:
        self.directory = directory
        self.warning = warning
        """What the operator should know about the directory, if anything."""
        self.damage = damage
        """What damage was seen to the database that is open."""
        self.asides: tuple[Aside, ...] = ()
        """The damaged databases that were moved aside, as of the last `look`."""
        self._lock = lock

    @classmethod
    async def take(cls, directory: Path, lock_timeout: float) -> "Custody":
        """Own the directory. Raises `UnsuitableDirectory` or `SpoolLocked`."""
        warning = prepare_directory(directory)
        lock = DirectoryLock(directory)
        await asyncio.to_thread(lock.acquire, lock_timeout)
        return cls(directory, lock, warning, Damage(asyncio.get_running_loop()))

    def look(self) -> None:
        """See what lies aside."""
        self.asides = asides(self.directory)

    async def give_back(self, now: int) -> None:
        """Move a damaged database aside, so that whoever opens the directory next makes a new one; free the directory.

        Raises `OSError` where it cannot be moved; the next start meets the damage again, or finishes the move.
        """
        try:
            if self.damage.reason is not None:
                await asyncio.to_thread(move_aside, self.directory, self.damage.reason, now)
        finally:
            self._lock.release()
