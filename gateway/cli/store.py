"""A store as the configuration names it, with or without a gateway: `callspool store`, `backfill` and `compare`."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.table import Table

from config.destinations.stores import SqliteDestination, StoreTable
from config.settings import Settings
from gateway.cli import Exit, FiniteRange
from gateway.cli.options import chosen_destination, configuration_options, loaded_or_exit
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, progress_bar, result, table
from gateway.formatting import count_text
from gateway.operations.backfill import Backfill, Paused, Yielded, days_between
from gateway.runtime.destinations import store_of
from gateway.runtime.options import completion_rule
from gateway.trace import instant
from spool.records import system_clock
from uploaders.stores.completion import CallState
from uploaders.stores.store import BackfillDay, BackfillStatus, Parity, Store, StoreError, StoreStatus

Command = TypeVar("Command", bound=Callable[..., Any])
Result = TypeVar("Result")


@click.group(short_help="Migrate and check the store of calls.")
def store() -> None:
    """Migrate and check the store, the database of calls."""


def store_options(command: Command) -> Command:
    """Adds --config, --local and --destination to a command."""
    named = click.option("--destination", metavar="NAME", help="The store; needed if there are several.")
    return configuration_options(named(command))


@store.command(short_help="Bring the schema up to date.")
@store_options
@json_option
def migrate(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Bring the schema up to date, as a start does: for when only another role than the gateway's may create tables."""
    status = ask_store(file, destination, lambda opened: opened.status(), local=local, make=True)
    found = {"engine": status.engine, "schema_version": status.schema_version}
    result(found, f"{status.engine}: the schema has version {status.schema_version}")


@store.command(short_help="Show how many calls are in which state.")
@store_options
@json_option
def status(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Show the engine, the version of the schema, and how many calls are in which state."""
    found: StoreStatus = ask_store(file, destination, lambda opened: opened.status(), local=local)
    if as_json():
        calls = {state.name.lower(): found.calls.get(state, 0) for state in CallState}
        print_json({"engine": found.engine, "schema_version": found.schema_version, "calls": calls})
        return
    shown = table("State", "Calls", numbers=("Calls",))
    for state in CallState:
        shown.add_row(plain(state.name.lower()), plain(count_text(found.calls.get(state, 0))))
    heading = plain(f"{found.engine}, schema version {found.schema_version}", "bold")
    output().print(heading, shown, sep="\n")


@store.command(short_help="Check that every call has its parts.")
@store_options
@json_option
def check(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Check that parts, calls and details belong together. Reads every row; exit code 5 if something is missing."""
    findings = ask_store(file, destination, lambda opened: opened.check(), local=local)
    for finding in findings:
        complain(finding)
    if findings:
        raise SystemExit(Exit.UNSOUND)
    result({"sound": True}, "Every call has its parts, and every part its call.")


def settings_or_exit(file: Path | None, *, local: bool) -> Settings:
    """The settings; ends the command where they are wrong."""
    return loaded_or_exit(file, local=local).settings


def ask_store(
    file: Path | None, name: str | None, ask: Callable[[Store], Awaitable[Result]], *, local: bool, make: bool = False
) -> Result:
    """What a store answers; ends the command where there is none, unless it may `make` one, or it does not work."""
    settings = settings_or_exit(file, local=local)
    stores = {each.name: each for each in settings.destinations if isinstance(each, StoreTable)}
    how = "Set CALLSPOOL_DATABASE_URL, or add one to the file."
    chosen = chosen_destination(stores, "store", name, how)
    if isinstance(chosen, SqliteDestination) and not make and _is_missing(chosen.path):
        complain(
            f"{chosen.name}: there is no store at {chosen.path}.",
            hint="`callspool store migrate` makes one, and so does a gateway that starts.",
        )
        raise SystemExit(Exit.FAILED)

    async def asked() -> Result:
        opened = store_of(chosen, completion_rule(settings.completion), system_clock)
        try:
            return await ask(opened)
        finally:
            await opened.close()

    try:
        return asyncio.run(asked())
    except StoreError as error:
        complain(f"{chosen.name}: {error}.")
        raise SystemExit(Exit.FAILED) from None


def _is_missing(path: Path) -> bool:
    """Whether nothing is there. Where it cannot be looked at, opening it says why."""
    try:
        path.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


# `callspool backfill run`, `status` and `pause`, and `callspool compare`: moving a store to its new path.

_DAY = click.DateTime(formats=["%Y-%m-%d"])
_COUNTS = ("Calls", "Written", "End only", "Differing")


@click.group(short_help="Bring calls_complete up to date from call_parts.")
def backfill() -> None:
    """Bring `calls_complete` up to date from `call_parts`, a day at a time (docs/migration.md)."""


@backfill.command(short_help="Write the rows that are missing, from the cutoff backwards.")
@store_options
@click.option("--from", "first", type=_DAY, metavar="DATE", help="The oldest day.  [default: that of the oldest part]")
@click.option("--to", "last", type=_DAY, metavar="DATE", help="The newest day.  [default: before completion.cutoff]")
@click.option("--rows-per-second", type=FiniteRange(1), help="At most this many calls a second.")
@click.option("--page-rows", type=click.IntRange(1), help="Calls in one transaction.  [default: suits the engine]")
@click.option("--dry-run", is_flag=True, help="Only count what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each day.")
def run(
    file: Path | None, *, local: bool, destination: str | None, first: datetime | None, last: datetime | None,
    rows_per_second: float | None, page_rows: int | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the rows that are missing, the newest day first. It may be killed at any time, and resumes where it was.

    Exit code 5 if a day still differs afterwards, 1 if it was paused.
    """
    newest = _last_day(last, settings_or_exit(file, local=local).completion.cutoff)
    if first is not None and first.date() > newest:
        raise click.UsageError(f"--from is after {newest.isoformat()}, the newest day.")
    if dry_run:
        found = ask_store(file, destination, lambda store: _parities(store, first, newest), local=local)
        _print([_unwritten(day, parity) for day, parity in found], ("Calls", "Missing", "Wrong"), as_json=as_json)
        return

    async def filled(store: Store) -> tuple[dict[date, BackfillDay], bool]:
        filling = Backfill(store, rows_per_second=rows_per_second, page_rows=page_rows)
        return await _fill(filling, await _days(store, first, newest))

    done, paused = ask_store(file, destination, filled, local=local)
    _print([_shown(each) for each in done.values()], _COUNTS, as_json=as_json)
    if paused:
        complain("Paused. `callspool backfill run` resumes it.", style="yellow")
        raise SystemExit(Exit.FAILED)
    if any(each.status is BackfillStatus.DIFFERING for each in done.values()):
        complain("Some days do not agree: run it again, and see `callspool compare`.")
        raise SystemExit(Exit.UNSOUND)


@backfill.command("status", short_help="Show what has been done, day by day.")
@store_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each day.")
def backfill_status(file: Path | None, *, local: bool, destination: str | None, as_json: bool) -> None:
    """Show what has been done, day by day."""
    days = ask_store(file, destination, lambda store: store.backfill_days(), local=local)
    _print([_shown(each) for each in days], _COUNTS, as_json=as_json)


@backfill.command(short_help="Stop a backfill after its page.")
@store_options
@json_option
def pause(file: Path | None, *, local: bool, destination: str | None) -> None:
    """Stop the backfill of this store, wherever it runs, after its page; `run` resumes it."""
    ask_store(file, destination, lambda store: store.pause_backfills(pause=True), local=local)
    result({"pausing": True}, "A backfill that is running stops after its page.")


@click.command(short_help="Compare both paths of a store, day by day.")
@store_options
@click.option("--day", type=_DAY, metavar="DATE", help="The newest day.  [default: yesterday]")
@click.option(
    "--days", type=click.IntRange(1, 3660), default=1, show_default=True, help="How many days, back from there."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each day.")
def compare(
    file: Path | None, *, local: bool, destination: str | None, day: datetime | None, days: int, as_json: bool
) -> None:
    """Compare `calls_merged` with `calls_complete` by counts and digests; exit code 5 if they differ."""
    newest = _today() - timedelta(days=1) if day is None else day.date()
    if newest > _today():
        complain(f"{newest.isoformat()} has not begun (in UTC): there is nothing to compare.")
        raise SystemExit(Exit.USAGE)
    first = date.fromordinal(max(1, newest.toordinal() - days + 1))

    async def compared(store: Store) -> list[tuple[date, Parity]]:
        return [(each, await store.parity(each)) for each in days_between(first, newest)]

    found = ask_store(file, destination, compared, local=local)
    _print([_unwritten(day, parity) for day, parity in found], ("Calls", "Missing", "Wrong"), as_json=as_json)
    if not all(parity.agrees for _, parity in found):
        raise SystemExit(Exit.UNSOUND)


async def _fill(filling: Backfill, days: list[date]) -> tuple[dict[date, BackfillDay], bool]:
    """What was done of each day, and whether somebody paused it."""
    done: dict[date, BackfillDay] = {}
    with progress_bar() as tell:
        async with aclosing(filling.run(days)) as steps:
            async for step in steps:
                match step:
                    case BackfillDay():
                        done[step.day] = step
                        ended = sum(each.status is not BackfillStatus.RUNNING for each in done.values())
                        calls = sum(each.calls for each in done.values())
                        tell(f"backfill: {step.day.isoformat()}", step.calls, 0)
                        tell("days", ended, len(days))
                        tell("calls", calls, 0)
                    case Yielded():
                        complain(
                            f"Live writes take {1000 * step.commit_seconds:.0f} ms: waiting {step.wait_seconds:g} s.",
                            style="yellow",
                        )
                    case Paused():
                        return done, True
    return done, False


async def _days(store: Store, first: datetime | None, last: date) -> list[date]:
    oldest = await store.oldest_day()
    if oldest is None:
        return []
    return days_between(max(oldest, first.date()) if first else oldest, last)


async def _parities(store: Store, first: datetime | None, last: date) -> list[tuple[date, Parity]]:
    return [(day, await store.parity(day)) for day in await _days(store, first, last)]


def _last_day(last: datetime | None, cutoff: date | None) -> date:
    """The newest day of a backfill; ends the command where none is known, or where it is not over."""
    if last is None and cutoff is None:
        complain("No newest day is known.", hint="Set completion.cutoff, or give --to DATE.")
        raise SystemExit(Exit.USAGE)
    newest = last.date() if last else (cutoff or date.max) - timedelta(days=1)
    if newest >= _today():
        complain(f"{newest.isoformat()} is not over (in UTC): parts of it may still come.")
        raise SystemExit(Exit.USAGE)
    return newest


def _today() -> date:
    return datetime.now(UTC).date()


Row = dict[str, str | int]


def _shown(day: BackfillDay) -> Row:
    return {
        "day": day.day.isoformat(),
        "status": day.status.value,
        "calls": day.calls,
        "written": day.written,
        "end_only": day.end_only,
        "differing": day.differing,
        "updated_at": instant(day.updated_at),
    }


def _unwritten(day: date, parity: Parity) -> Row:
    return {
        "day": day.isoformat(),
        "status": "agrees" if parity.agrees else "differs",
        "calls": parity.calls,
        "missing": parity.calls - parity.rows,
        "wrong": parity.differing,
        "end_only": parity.end_only,
    }


def _print(rows: list[Row], counts: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row).decode())
        return
    if not rows:
        output().print(plain("No days to show.", "dim"))
        return
    shown: Table = table("Day", "Status", *counts, numbers=counts)
    for row in rows:
        cells = [count_text(int(row[name.lower().replace(" ", "_")])) for name in counts]
        style = {"differing": "red", "differs": "red", "running": "yellow"}.get(str(row["status"]), "green")
        shown.add_row(plain(row["day"]), plain(row["status"], style), *map(plain, cells))
    output().print(shown)
