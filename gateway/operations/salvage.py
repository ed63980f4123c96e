"""Orders to salvage and to rekey. Both take long: the answer is lines of progress, and the last line is the result."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec

from gateway.live_calls import ENDED, STARTED
from spool.admin.rekey import Rekeyed, Rekeying
from spool.errors import SpoolError
from spool.salvage.model import Tally
from spool.salvage.service import SalvageService, Task


class SalvageOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to import."""

    directory: str | None = None
    """The directory of the database, as the gateway sees it; None: all databases in quarantine."""
    adopt: bool = False
    """Whether it is the spool of a gateway that will not return."""
    dry_run: bool = False
    """Whether to report only what would be imported."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The progress of one step."""

    what: str
    done: int
    total: int
    """0 if not known."""


class UnreadableRecord(msgspec.Struct, frozen=True):
    """A record of which nothing can be imported."""

    record: int
    call_id: str | None
    reason: str


class Report(msgspec.Struct, frozen=True, tag="report", kw_only=True):
    """The result of one directory."""

    directory: str
    adopt: bool
    dry_run: bool
    records: dict[str, int]
    """Counts by outcome (spool.salvage.model.Outcome)."""
    deliveries: dict[str, int]
    """Counts of the imported deliveries, by their new state."""
    payload_bytes: int
    without_token: int
    unreadable: list[UnreadableRecord]
    turns: int = 0
    """Turns of calls that were live."""
    lost_turns: int = 0
    """Those of them that cannot be read."""
    spans: int = 0
    """Spans of calls that had not ended."""
    lost_span_rows: int = 0
    """Rows of such spans that cannot be read."""
    incomplete: bool = False
    """Whether a part of what the directory held is lost."""
    complete: bool = False
    """Whether the directory is no longer needed: all its records are in the spool now, or had ended."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Why one directory was not imported, or not to its end."""

    directory: str
    reason: str


class NothingToDo(msgspec.Struct, frozen=True, tag="nothing"):
    """No database in quarantine is left to import."""


Line = Progress | Report | Failed | NothingToDo


# Carries out an order to salvage, and reports its progress.

SUPERSEDES = {STARTED: ENDED}
"""A start is not delivered after the end of its call, which it would overwrite: the last write wins."""
REPORT_SECONDS = 0.2


async def carry_out(salvage: SalvageService, order: SalvageOrder) -> AsyncGenerator[Line, None]:
    """Import one directory after the other. Where one fails, the others are imported all the same."""
    if order.directory is not None:
        tasks = [Task(Path(order.directory), order.adopt, order.dry_run)]
    else:
        tasks = [Task(one.directory, False, order.dry_run) for one in salvage.waiting]
    if not tasks:
        yield NothingToDo()
    for task in tasks:
        try:
            async with aclosing(_reported(salvage, task)) as lines:
                async for line in lines:
                    yield line
        except (SpoolError, OSError) as error:
            yield Failed(str(task.directory), str(error))


async def _reported(salvage: SalvageService, task: Task) -> AsyncGenerator[Line, None]:
    """The progress of a task, at most once every `REPORT_SECONDS`, and its report."""
    loop = asyncio.get_running_loop()
    reported_at = 0.0
    async with aclosing(salvage.carry_out(task, SUPERSEDES)) as steps:
        async for step in steps:
            if isinstance(step, Tally):
                yield _report(task, step)
            elif loop.time() - reported_at >= REPORT_SECONDS:
                reported_at = loop.time()
                yield Progress(step.what, step.done, step.total)


def _report(task: Task, tally: Tally) -> Report:
    return Report(
        directory=str(task.directory),
        adopt=task.adopt,
        dry_run=task.dry_run,
        records={outcome.value: count for outcome, count in tally.outcomes.items()},
        deliveries={state.name.lower(): count for state, count in tally.deliveries.items()},
        payload_bytes=tally.payload_bytes,
        spans=tally.spans,
        turns=tally.turns,
        lost_turns=tally.lost_turns,
        without_token=tally.without_token,
        incomplete=bool(tally.unreadable or tally.incomplete or tally.lost_span_rows or tally.lost_turns),
        lost_span_rows=tally.lost_span_rows,
        complete=tally.complete and not task.dry_run,
        unreadable=[UnreadableRecord(one.record_id, one.call_id, one.reason) for one in tally.unreadable],
    )


# Rekeying: everything in a spool is brought under its current key.


class RekeyReport(msgspec.Struct, frozen=True, tag="rekeyed"):
    """The result of a rekey: how much was not under the current key before."""

    key_id: str
    """The name of the main key that everything is under now."""
    epochs: int
    """Epoch keys that an older main key had wrapped."""
    records: int
    """Call logs that were not encrypted."""
    tokens: int
    """Tokens that were not encrypted."""
    spans: int
    """Posts of spans that were not encrypted."""


class RekeyFailed(msgspec.Struct, frozen=True, tag="failed"):
    """Why a rekey stopped. What it did before that stays done."""

    reason: str


RekeyLine = Progress | RekeyReport | RekeyFailed


async def rekey(rekeying: Rekeying) -> AsyncGenerator[RekeyLine, None]:
    """Rekey a spool, and report the progress."""
    loop = asyncio.get_running_loop()
    reported_at = 0.0
    try:
        async with aclosing(rekeying.steps()) as steps:
            async for step in steps:
                if isinstance(step, Rekeyed):
                    yield RekeyReport(step.key_id, step.epochs, step.records, step.tokens, step.spans)
                elif loop.time() - reported_at >= REPORT_SECONDS:
                    reported_at = loop.time()
                    yield Progress(step.what, step.done, step.total)
    except SpoolError as error:
        yield RekeyFailed(str(error))
