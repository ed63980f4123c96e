"""Carries an order to salvage out, and tells how it goes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from gateway.intake.calls import ENDED, STARTED
from gateway.salvage.documents import Failed, Line, NothingToDo, Progress, Report, SalvageOrder, UnreadableRecord
from spool.errors import SpoolError
from spool.salvage.desk import Salvages, Task
from spool.salvage.found import Tally
from spool.salvage.run import Step

SUPERSEDES = {STARTED: ENDED}
"""The start of a call is of no use after its end: the last write would win."""
TELL_SECONDS = 0.2


async def carry_out(salvages: Salvages, order: SalvageOrder) -> AsyncGenerator[Line, None]:
    """Bring one directory after the other; what fails for one keeps no other from being brought."""
    if order.directory is not None:
        tasks = [Task(Path(order.directory), order.adopt, order.dry_run)]
    else:
        tasks = [Task(aside.directory, False, order.dry_run) for aside in salvages.waiting]
    if not tasks:
        yield NothingToDo()
    for task in tasks:
        try:
            async with aclosing(_told(salvages, task)) as lines:
                async for line in lines:
                    yield line
        except (SpoolError, OSError) as error:
            yield Failed(str(task.directory), str(error))


async def _told(salvages: Salvages, task: Task) -> AsyncGenerator[Line, None]:
    """Its steps, not all of them, and its report."""
    loop = asyncio.get_running_loop()
    told_at = 0.0
    async with aclosing(salvages.carry_out(task, SUPERSEDES)) as steps:
        async for step in steps:
            if isinstance(step, Tally):
                yield _report(task, step)
            elif loop.time() - told_at >= TELL_SECONDS:
                told_at = loop.time()
                yield _progress(step)


def _progress(step: Step) -> Progress:
    """As it is told."""
    return Progress(step.what, step.done, step.total)


def _report(task: Task, tally: Tally) -> Report:
    """As it is told."""
    return Report(
        directory=str(task.directory),
        adopt=task.adopt,
        dry_run=task.dry_run,
        records={outcome.value: count for outcome, count in tally.outcomes.items()},
        deliveries={state.name.lower(): count for state, count in tally.deliveries.items()},
        payload_bytes=tally.payload_bytes,
        without_token=tally.without_token,
        unreadable=[UnreadableRecord(one.record_id, one.call_id, one.reason) for one in tally.unreadable],
    )
