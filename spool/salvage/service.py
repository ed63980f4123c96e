"""`SalvageService`: imports what is in quarantine, or what a gateway left that will not come back; `Spool.salvage`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spool.directory import (
    DATABASE_NAME,
    IMPORTED_NAME,
    DirectoryLock,
    SpoolDirectory,
    finish_quarantines,
    quarantine,
    was_imported,
)
from spool.errors import UnsuitableDirectory
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
        """The databases in quarantine whose records were not imported yet."""
        return tuple(one for one in self._directory.quarantined if not one.imported)

    async def carry_out(self, task: Task, supersedes: Mapping[str, str]) -> AsyncGenerator[Step | Tally, None]:
        """Import what can be read, and report how far it is; the tally comes last.

        `supersedes` says of an event after which other event of its call it is not sent any more. A directory that was
        done is marked: there is nothing more to do there. Raises `UnsuitableDirectory`, `SpoolLocked`, `SchemaTooNew`,
        `CorruptDatabase`, and `SpoolFull`: what was imported until then stays, and a repetition goes on.
        """
        async with self._one_at_a_time:
            with _owned(task):
                importer = Importer(self._target, task.directory, supersedes, dry_run=task.dry_run)
                async for step in importer.steps():
                    yield step
                if not task.dry_run:
                    await asyncio.to_thread(self._mark, task, importer.tally)
                    self._directory.refresh()
            yield importer.tally

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
        }
        (directory / IMPORTED_NAME).write_text(json.dumps(done) + "\n", encoding="utf-8")


@contextmanager
def _owned(task: Task) -> Iterator[None]:
    """Nobody else uses the directory meanwhile. Raises `SpoolLocked` while a gateway lives there."""
    if was_imported(task.directory):
        raise UnsuitableDirectory(f"what lies in {task.directory} was imported already; the directory can be removed")
    if not task.adopt:
        _require(task.directory)
        yield
        return
    if not task.directory.is_dir():
        raise UnsuitableDirectory(f"{task.directory} is no directory")
    lock = DirectoryLock(task.directory)
    lock.acquire(0.0)
    try:
        finish_quarantines(task.directory)
        _require(task.directory)
        yield
    finally:
        lock.release()


def _require(directory: Path) -> None:
    """Raise `UnsuitableDirectory` where no database lies, and say so if that was adopted."""
    if (directory / DATABASE_NAME).exists():
        return
    adopted = [folder for folder in sorted(directory.iterdir()) if folder.is_dir() and was_imported(folder)]
    hint = f": it was adopted before, see {adopted[-1]}" if adopted else ""
    raise UnsuitableDirectory(f"there is no spool in {directory}{hint}")
