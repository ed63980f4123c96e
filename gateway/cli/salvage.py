"""Long work on the records of a spool, done by the gateway that runs or, where none does, here.

`callspool salvage` and `adopt` import what another database holds; `rekey` brings all under the current key.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from config.values import ListenAddress
from gateway.cli import Exit
from gateway.cli.client import (
    NO_LAST_LINE,
    BrokenOff,
    NoGateway,
    admin_address,
    asked_of_this_machine,
    converse,
    explained,
)
from gateway.cli.options import loaded_or_exit, spool_option
from gateway.cli.output import Tell, complain, output, plain, progress_bar, table
from gateway.formatting import bytes_text, count_text, counted
from gateway.operations.salvage import (
    Failed,
    Line,
    NothingToDo,
    Progress,
    RekeyFailed,
    RekeyLine,
    RekeyReport,
    Report,
    SalvageOrder,
    carry_out,
)
from gateway.operations.salvage import rekey as carry_out_rekey
from gateway.runtime.options import spool_options
from spool.db.connection import rewrite
from spool.directory import DATABASE_NAME, is_owned
from spool.errors import SpoolError
from spool.salvage.model import Outcome
from spool.store import Spool

_decode = msgspec.json.Decoder(Line).decode

_Line = TypeVar("_Line")

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
    names one of them, or a copy from elsewhere. It may be repeated: nothing is imported twice. Call logs come as they
    were stored: redaction is for what comes in.
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

    It is refused while a gateway runs there. Afterwards the database there is in quarantine: running this again does
    nothing, and a gateway that starts there begins with an empty spool. Call logs are imported as they were stored
    there, without being redacted again.
    """
    _carry_out(SalvageOrder(str(directory.absolute()), True, dry_run), file, address, as_json=as_json)


def _carry_out(order: SalvageOrder, file: Path | None, address: ListenAddress, *, as_json: bool) -> None:
    """At the gateway, if one answers, else in the spool itself; every report is shown as it comes."""
    failed = False
    last: Line | None = None

    def alone() -> Iterator[Line]:
        return in_own_spool(file, lambda spool: carry_out(spool.salvage, order))

    with explained(), progress_bar() as tell:
        for line in _lines(address, msgspec.json.encode(order), "salvage", _decode, file, alone):
            failed = isinstance(line, Failed) or failed
            _show(line, tell, begun=isinstance(last, Progress), as_json=as_json)
            last = line
        if last is None or isinstance(last, Progress):
            raise BrokenOff(NO_LAST_LINE)
    if failed:
        raise SystemExit(Exit.FAILED)


def _lines(
    address: ListenAddress,
    order: bytes,
    path: str,
    decode: Callable[[bytes], _Line],
    file: Path | None,
    alone: Callable[[], Iterator[_Line]],
) -> Iterator[_Line]:
    """The lines of the gateway's answer, or those of `alone` where no process has the configured spool.

    Another gateway that was asked for, or one that stops in the middle, is not stood in for.
    """
    try:
        for raw in converse(address, order, "api", path):
            if raw.strip():
                yield decode(raw)
    except BrokenOff:
        raise
    except NoGateway:
        spool = _spool_directory(file)
        try:
            if not asked_of_this_machine(click.get_current_context()) or is_owned(spool):
                raise
        except SpoolError as error:
            complain(f"{error}.")
            raise SystemExit(Exit.FAILED) from None
        if not (spool / DATABASE_NAME).exists():
            complain(
                f"No gateway runs, and there is no spool in {spool}: {DATABASE_NAME} is missing.",
                hint="Name the configuration of the gateway with --config, or start the gateway.",
            )
            raise SystemExit(Exit.USAGE) from None
        yield from alone()


def _spool_directory(file: Path | None) -> Path:
    return loaded_or_exit(file, local=True).settings.spool.dir.absolute()


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


def _show(line: Line, tell: Tell, *, begun: bool, as_json: bool) -> None:
    """A line for people, or as it came; `begun`: something of its directory may have been imported before."""
    match line:
        case Progress():
            tell(line.what, line.done, line.total)
        case Failed():
            where = "" if line.directory in line.reason else f"{line.directory}: "
            complain(
                f"{where}{line.reason}.",
                hint="What was already imported stays, and is not imported twice." if begun else "",
            )
        case NothingToDo() if not as_json:
            complain("No database in quarantine is left to import.", style="green")
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
        console.print(plain(f"open calls: {counted(report.spans, 'span')}; their call logs are made when they end"))
    if report.turns or report.lost_turns:
        lost = f", {count_text(report.lost_turns)} cannot be read" if report.lost_turns else ""
        text = f"live calls: {counted(report.turns, 'turn')}{lost}; an agent that is not heard of here is lost"
        console.print(plain(text))
    if report.lost_span_rows:
        text = f"{counted(report.lost_span_rows, 'row')} of spans of open calls cannot be read"
        console.print(plain(text, "bold red"))
    if report.without_token:
        text = f"sent without their agent's token, which is lost: {counted(report.without_token, 'record')}"
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


# `callspool rekey`: bring all that is in a spool under its current key, in a running gateway or a stopped spool.

_decode_rekey = msgspec.json.Decoder(RekeyLine).decode


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@spool_option
@admin_address
def rekey(file: Path | None, address: ListenAddress, *, as_json: bool) -> None:
    """Wrap all keys of the spool with the current main key, and encrypt what is not encrypted yet.

    A running gateway does this beside its other work. Without one, the command opens the configured spool and rewrites
    its database at the end, so that no plain text is left in gaps of its pages. It may be killed at any time, and
    resumes where it was. Afterwards older keys are no longer needed.
    """
    report: RekeyReport | None = None
    with explained(), progress_bar() as tell:
        for line in _lines(address, b"{}", "rekey", _decode_rekey, file, lambda: _rekey_alone(file)):
            match line:
                case Progress():
                    tell(line.what, line.done, line.total)
                case RekeyFailed():
                    reason = f"{line.reason[:1].upper()}{line.reason[1:]}."
                    complain(
                        reason, hint="Correct that, and run `callspool rekey` again; what is done is not done twice."
                    )
                    raise SystemExit(Exit.FAILED)
                case RekeyReport():
                    report = line
        if report is None:
            raise BrokenOff(NO_LAST_LINE)
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
        return
    parts = (
        f"{counted(report.records, 'call log')}, {counted(report.tokens, 'token')} and {counted(report.spans, 'post')}"
    )
    output().print(plain(f"Everything is under key {report.key_id}.", "bold green"))
    wrapped = counted(report.epochs, "key was", "keys were")
    output().print(plain(f"Encrypted {parts} of spans; {wrapped} wrapped again."))
    output().print(
        plain("Older keys can be taken out of the file of keys, once no copy of this spool needs them.", "dim")
    )


def _rekey_alone(file: Path | None) -> Iterator[RekeyLine]:
    """Rekey the configured spool in this process, and write its database anew."""
    yield from in_own_spool(file, lambda spool: carry_out_rekey(spool.rekeying))
    yield Progress("writing the database anew", 0, 0)
    try:
        rewrite(_spool_directory(file) / DATABASE_NAME)
    except SpoolError as error:
        yield RekeyFailed(str(error))
