"""`Salvages`: bringing what was moved aside, or what a gateway left that will not come back; `Spool.salvages`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from spool.directory import BROUGHT_NAME, DATABASE_NAME, Custody, DirectoryLock, finish_moves, move_aside
from spool.errors import UnsuitableDirectory
from spool.salvage.importer import Salvage, Step, Target
from spool.salvage.model import Tally
from spool.stats import Aside


@dataclass(frozen=True, slots=True)
class Task:
    """What to bring: the database in `directory`, which is another gateway's with `adopt`."""

    directory: Path
    adopt: bool
    dry_run: bool


class Salvages:
    """For the event loop; one at a time."""

    def __init__(self, target: Target, custody: Custody) -> None:
        self._target = target
        self._custody = custody
        self._one_at_a_time = asyncio.Lock()

    @property
    def waiting(self) -> tuple[Aside, ...]:
        """The databases that were moved aside, and whose records were not brought yet."""
        return tuple(aside for aside in self._custody.asides if not aside.brought)

    async def carry_out(self, task: Task, supersedes: Mapping[str, str]) -> AsyncGenerator[Step | Tally, None]:
        """Bring what can be read, telling how far it is; the tally comes last.

        `supersedes` says of an event after which other event of its call it is not sent any more. A directory that was
        done is marked: there is nothing more to do there. Raises `UnsuitableDirectory`, `SpoolLocked`, `SchemaTooNew`,
        `CorruptDatabase`, and `SpoolFull`: what was brought until then stays, and a repetition goes on.
        """
        async with self._one_at_a_time:
            with _owned(task):
                salvage = Salvage(self._target, task.directory, supersedes, dry_run=task.dry_run)
                async for step in salvage.steps():
                    yield step
                if not task.dry_run:
                    await asyncio.to_thread(self._mark, task, salvage.tally)
                    self._custody.look()
            yield salvage.tally

    def _mark(self, task: Task, tally: Tally) -> None:
        """Write down that it is done. What was adopted is moved aside, so that no gateway delivers it once more."""
        now, spool_id = self._target.clock(), self._target.names.spool_id
        directory = task.directory
        if task.adopt:
            directory = move_aside(directory, f"adopted by the spool {spool_id}", now)
        done = {
            "at": datetime.fromtimestamp(now / 1000, UTC).isoformat(),
            "into": spool_id,
            "records": {outcome.value: count for outcome, count in tally.outcomes.items()},
        }
        (directory / BROUGHT_NAME).write_text(json.dumps(done) + "\n", encoding="utf-8")


@contextmanager
def _owned(task: Task) -> Iterator[None]:
    """Nobody else uses the directory meanwhile. Raises `SpoolLocked` while a gateway lives there."""
    if (task.directory / BROUGHT_NAME).exists():
        raise UnsuitableDirectory(f"what lies in {task.directory} was brought already; the directory can be removed")
    if not task.adopt:
        _require(task.directory)
        yield
        return
    if not task.directory.is_dir():
        raise UnsuitableDirectory(f"{task.directory} is no directory")
    lock = DirectoryLock(task.directory)
    lock.acquire(0.0)
    try:
        finish_moves(task.directory)
        _require(task.directory)
        yield
    finally:
        lock.release()


def _require(directory: Path) -> None:
    """Raise `UnsuitableDirectory` where no database lies, and say so if that was adopted."""
    if (directory / DATABASE_NAME).exists():
        return
    adopted = sorted(directory.glob(f"*/{BROUGHT_NAME}"))
    hint = f": it was adopted before, see {adopted[-1]}" if adopted else ""
    raise UnsuitableDirectory(f"there is no spool in {directory}{hint}")
