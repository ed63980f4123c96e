"""`SalvageService`: imports what is in quarantine, or what a gateway left that will not come back; `Spool.salvage`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spool.directory import (
    DATABASE_NAME,
    IMPORTED_NAME,
    LOCK_NAME,
    DirectoryLock,
    fingerprint,
    finish_quarantines,
    quarantine,
    was_imported,
)
from spool.errors import UnsuitableDirectory
from spool.ownership import SpoolDirectory
from spool.salvage.importer import Importer, ImportTarget, Step
from spool.salvage.model import Tally
from spool.stats import QuarantinedDatabase


@dataclass(frozen=True, slots=True)
class Task:
    """What to import: the database in `directory`, which is another gateway's with `adopt`."""

    directory: Path
    adopt: bool
    dry_run: bool


class SalvageService:
    """For the event loop; one at a time."""

    def __init__(self, target: ImportTarget, directory: SpoolDirectory) -> None:
        self._target = target
        self._directory = directory
        self._one_at_a_time = asyncio.Lock()

    @property
    def waiting(self) -> tuple[QuarantinedDatabase, ...]:
        """The databases in quarantine whose records were not imported yet, as far as marks say."""
        return tuple(one for one in self._directory.quarantined if not one.imported)

    async def carry_out(self, task: Task, supersedes: Mapping[str, str]) -> AsyncGenerator[Step | Tally, None]:
        """Import what can be read, and report how far it is; the tally comes last.

        `supersedes` says of an event after which other event of its call it is not sent any more. A repetition imports
        what is not here yet, whatever a mark in the directory says, which was true when it was written. Raises
        `UnsuitableDirectory`, `SpoolLocked`, `SchemaTooNew`, `CorruptDatabase`, and `SpoolFull`: what was imported
        until then stays, and a repetition continues.
        """
        async with self._one_at_a_time:
            with self._held(task):
                before = fingerprint(task.directory)
                importer = Importer(self._target, task.directory, supersedes, dry_run=task.dry_run)
                async for step in importer.steps():
                    yield step
                importer.tally.unchanged = fingerprint(task.directory) == before
                if not task.dry_run:
                    await asyncio.to_thread(self._mark, task, importer.tally)
                    self._directory.refresh()
            yield importer.tally

    @contextmanager
    def _held(self, task: Task) -> Iterator[None]:
        """Nobody else uses the directory meanwhile. Raises `SpoolLocked` while a gateway runs there.

        This gateway's own database is refused before anything of it is opened: closing it again would drop the locks
        by which other processes see that it is in use, and the next one to look would remove its log.
        """
        self._refuse_own(task.directory)
        if not task.directory.is_dir():
            raise UnsuitableDirectory(f"{task.directory} is no directory")
        if not (task.directory / LOCK_NAME).exists():
            _require_database(task.directory)  # a lock would make a spool of any directory
            if not task.adopt:  # a copy, or a database in quarantine: no gateway ever lived there
                yield
                return
        lock = DirectoryLock(task.directory)
        lock.acquire(0.0)
        try:
            if task.adopt:
                finish_quarantines(task.directory)
            _require_database(task.directory)
            yield
        finally:
            lock.release()

    def _refuse_own(self, directory: Path) -> None:
        """Raise `UnsuitableDirectory` where this gateway's database lies, whatever its path is called there."""
        for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm"):
            with suppress(OSError):  # one of the two is not there
                if (directory / name).samefile(self._directory.path / name):
                    raise UnsuitableDirectory(
                        f"{directory / name} is the database that this gateway uses: nothing there needs to be imported"
                    )

    def _mark(self, task: Task, tally: Tally) -> None:
        """Write down that it is done. What was adopted goes into quarantine, so that no gateway delivers it again."""
        now, spool_id = self._target.clock(), self._target.destinations.spool_id
        directory = task.directory
        if task.adopt:
            directory = quarantine(directory, f"adopted by the spool {spool_id}", now)
        done = {
            "at": datetime.fromtimestamp(now / 1000, UTC).isoformat(),
            "into": spool_id,
            "records": {outcome.value: count for outcome, count in tally.outcomes.items()},
            "files": fingerprint(directory),
        }
        (directory / IMPORTED_NAME).write_text(json.dumps(done) + "\n", encoding="utf-8")


def _require_database(directory: Path) -> None:
    """Raise `UnsuitableDirectory` where no database lies, and say so if that was adopted."""
    if (directory / DATABASE_NAME).exists():
        return
    adopted = [folder for folder in sorted(directory.iterdir()) if folder.is_dir() and was_imported(folder)]
    hint = f"it was adopted before, see {adopted[-1]}" if adopted else f"{DATABASE_NAME} is missing"
    raise UnsuitableDirectory(f"there is no spool in {directory}: {hint}")
