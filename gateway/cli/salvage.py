"""`callspool salvage` and `callspool adopt`: import what another database holds into a spool, running or stopped."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.client import NoGateway, admin_address, converse, explained
from gateway.cli.exits import Exit
from gateway.cli.options import loaded_or_exit, spool_option
from gateway.cli.output import Tell, complain, output, plain, progress_bar, table
from gateway.formatting import bytes_text, count_text
from gateway.operations.salvage import Failed, Line, NothingToDo, Progress, Report, SalvageOrder, carry_out
from gateway.runtime.options import spool_options
from spool.directory import is_owned
from spool.errors import SpoolError
from spool.salvage.model import Outcome
from spool.store import Spool

_decode = msgspec.json.Decoder(Line).decode

_PATH = click.Path(path_type=Path, file_okay=False, exists=True)


class _NoObserver:
    """Nobody counts the commits of a command."""

    def committed(self, seconds: float, batch: int) -> None:
        """A transaction with `batch` operations took `seconds`."""


@click.command()
@click.argument("directory", required=False, type=_PATH)
@click.option("--dry-run", is_flag=True, help="Only report what would be imported.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON, one a line.")
@spool_option
@admin_address
def salvage(directory: Path | None, file: Path | None, address: ListenAddress, *, dry_run: bool, as_json: bool) -> None:
    """Import every readable record of the databases in quarantine into the present one.

    A running gateway does it itself, and delivers at once; where none runs, the configured spool is opened. DIRECTORY
    names one of them, or a copy from elsewhere. It may be repeated: nothing is imported twice.
    """
    order = SalvageOrder(None if directory is None else str(directory.absolute()), False, dry_run)
    _carry_out(order, file, address, as_json=as_json)


@click.command()
@click.argument("directory", type=_PATH)
@click.option("--dry-run", is_flag=True, help="Only report what would be imported.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@spool_option
@admin_address
def adopt(directory: Path, file: Path | None, address: ListenAddress, *, dry_run: bool, as_json: bool) -> None:
    """Take over the spool in DIRECTORY, dead letters included, from a gateway that will not come back.

    It is refused while a gateway lives there. Afterwards the database there is in quarantine: a repetition does
    nothing, and a gateway that starts there begins with an empty spool.
    """
    _carry_out(SalvageOrder(str(directory.absolute()), True, dry_run), file, address, as_json=as_json)


def _carry_out(order: SalvageOrder, file: Path | None, address: ListenAddress, *, as_json: bool) -> None:
    """At the gateway, if one answers, else in the spool itself; every report is shown as it comes."""
    failed = False
    with explained(), progress_bar() as tell:
        for line in _lines(order, file, address):
            failed = isinstance(line, Failed) or failed
            _show(line, tell, as_json=as_json)
    if failed:
        raise SystemExit(Exit.FAILED)


def _lines(order: SalvageOrder, file: Path | None, address: ListenAddress) -> Iterator[Line]:
    """The lines of the gateway's answer, or of an import in this process."""
    try:
        for raw in converse(address, msgspec.json.encode(order), "api", "salvage"):
            if raw.strip():
                yield _decode(raw)
    except NoGateway:
        settings = loaded_or_exit(file, local=True).settings
        if is_owned(settings.spool.dir.absolute()):
            raise
        yield from in_own_spool(file, lambda spool: carry_out(spool.salvage, order))


_Line = TypeVar("_Line")


def in_own_spool(file: Path | None, work: Callable[[Spool], AsyncGenerator[_Line, None]]) -> Iterator[_Line]:
    """Open the configured spool, and do it in this process."""
    with asyncio.Runner() as runner:
        lines = _in_own_spool(file, work)
        try:
            while (line := runner.run(_next(lines))) is not None:
                yield line
        except SpoolError as error:
            complain(f"{error}.")
            raise SystemExit(Exit.FAILED) from None
        finally:
            runner.run(lines.aclose())


async def _in_own_spool(
    file: Path | None, work: Callable[[Spool], AsyncGenerator[_Line, None]]
) -> AsyncGenerator[_Line, None]:
    options = spool_options(loaded_or_exit(file, local=True).settings)
    spool = await Spool.open(options, (), lambda: time.time_ns() // 1_000_000, _NoObserver())
    try:
        async with aclosing(work(spool)) as lines:
            async for line in lines:
                yield line
    finally:
        await spool.close()


async def _next(lines: AsyncIterator[_Line]) -> _Line | None:
    """The next line; None after the last."""
    return await anext(lines, None)


def _show(line: Line, tell: Tell, *, as_json: bool) -> None:
    """A line for people, or as it came."""
    match line:
        case Progress():
            tell(line.what, line.done, line.total)
        case Failed():
            complain(
                f"{line.directory}: {line.reason}.", hint="What was imported before stays, and is not imported twice."
            )
        case NothingToDo() if not as_json:
            complain("No database is in quarantine that was not imported already.", style="green")
        case Report() if not as_json:
            describe(line)
        case _:
            click.echo(msgspec.json.encode(line).decode())


# The report of a salvage as people read it.

SHOWN_UNREADABLE = 20
"""More are in the JSON."""

_STYLES = {
    Outcome.IMPORTED: "green",
    Outcome.DAMAGED: "yellow",
    Outcome.UNREADABLE: "bold red",
}


def describe(report: Report) -> None:
    """Print the outcome of the records, those that cannot be read, and what to do with the directory."""
    console = output()
    verb = "would be imported" if report.dry_run else "adopted" if report.adopt else "salvaged"
    console.print(plain(f"{report.directory}  ", "bold").append(verb, "bold green"))
    shown = table("Records", "", numbers=("Records",))
    for outcome in Outcome:
        if outcome in report.records:
            shown.add_row(plain(count_text(report.records[outcome])), plain(outcome, _STYLES.get(outcome, "dim")))
    console.print(shown)
    if report.deliveries:
        states = ", ".join(f"{count_text(count)} {state}" for state, count in sorted(report.deliveries.items()))
        console.print(plain(f"deliveries: {states}; payload: {bytes_text(report.payload_bytes)}"))
    if report.spans:
        console.print(plain(f"open calls: {count_text(report.spans)} spans; their call logs are made when they end"))
    if report.turns or report.lost_turns:
        lost = f", {count_text(report.lost_turns)} cannot be read" if report.lost_turns else ""
        text = f"live calls: {count_text(report.turns)} turns{lost}; an agent that is not heard of here is lost"
        console.print(plain(text))
    if report.lost_span_rows:
        text = f"{count_text(report.lost_span_rows)} rows of spans of open calls cannot be read"
        console.print(plain(text, "bold red"))
    if report.without_token:
        text = f"{count_text(report.without_token)} records lost their agent's token: they are sent without it"
        console.print(plain(text, "yellow"))
    _unreadable(report)
    if not report.dry_run:
        console.print(plain(_what_now(report), "dim"))


def _unreadable(report: Report) -> None:
    """The records that are lost, by their calls."""
    if not report.unreadable:
        return
    console = output()
    lost = table("Lost record", "Call", "Why", numbers=("Lost record",))
    for one in report.unreadable[:SHOWN_UNREADABLE]:
        lost.add_row(plain(one.record), plain(one.call_id or "unknown"), plain(one.reason))
    console.print(lost)
    if len(report.unreadable) > SHOWN_UNREADABLE:
        console.print(plain(f"and {len(report.unreadable) - SHOWN_UNREADABLE:,} more: see --json", "dim"))


def _what_now(report: Report) -> str:
    """What to do with the directory: it can be removed only where this very run saw that nothing of it is missing."""
    if report.complete and report.adopt:
        return f"Everything in {report.directory} is in this spool now, or had ended. The directory can be removed."
    if report.complete:
        return (
            f"Everything in {report.directory} is in this spool now, or had ended. The directory can be removed; "
            "do not start a gateway there, which would deliver it all a second time."
        )
    if report.incomplete:
        return f"Keep {report.directory} if what was lost matters: a copy may be read elsewhere."
    return f"Keep {report.directory}: it was changed meanwhile. Run this again to import the rest."
