"""`callspool outbox import FILE`: empty an outbox of the SDK into a running gateway, once."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from config.values import ListenAddress
from gateway.cli import Exit
from gateway.cli.client import asked_at, connect, intake_option, intake_token, tls_context
from gateway.cli.output import Tell, as_json, complain, json_option, output, plain, print_json, progress_bar, table
from gateway.formatting import bytes_text, count_text, counted
from gateway.sdk_outbox.model import OutboxError, Outcome, RefusedRow, RowRefused, Survey
from gateway.sdk_outbox.reader import OutboxReader

_CONNECT_SECONDS = 5.0
SHOWN_REFUSED = 10
_MEANINGS = {
    Outcome.RESCUED: ("rescued: durable in the gateway's spool", "green"),
    Outcome.DUPLICATE: ("already known: the SDK's post had been accepted", ""),
    Outcome.SUPERSEDED: ("recorded, not sent: an end without telemetry, and the call's full end is known", ""),
    Outcome.REFUSED: ("left in the outbox: not a call log", "bold red"),
}


@click.group()
def outbox() -> None:
    """Rescue call logs from the Whispey SDK's outbox file."""


@outbox.command("import", short_help="Empty an outbox file into a running gateway.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would be moved; do not touch the file.")
@click.option(
    "--owner",
    "owners",
    type=click.IntRange(min=0),
    metavar="UID",
    multiple=True,
    help="Also accept a file of this user; yours and root's are accepted anyway.",
)
@json_option
@intake_option
def import_outbox(file: Path, address: ListenAddress, *, owners: tuple[int, ...], dry_run: bool) -> None:
    """Move the rows of an SDK outbox file to a running gateway.

    Each row is deleted once the gateway has stored it durably; a running agent is not disturbed.
    CALLSPOOL_INTAKE_TOKEN: the token of the intake, if it has one. CALLSPOOL_WHISPEY_OUTBOX_TOKEN: the agent's key for
    rows without one.
    """
    chosen = OutboxReader(file.absolute(), owners)
    try:
        survey, refused = asyncio.run(_survey(chosen, examine_rows=dry_run))
        _show(file, survey, refused)
        if dry_run:
            _require_writable(file)
            complain("Nothing was changed.", style="yellow")
            if refused:
                raise SystemExit(Exit.FAILED)
        elif survey.ready:
            _check_gateway(address)
            _import(chosen, address, survey)
    except OutboxError as error:
        complain(f"{file} cannot be used: {error}.", hint="Nothing in it was changed.")
        raise SystemExit(Exit.FAILED) from None


async def _survey(file: OutboxReader, *, examine_rows: bool) -> tuple[Survey, list[RefusedRow]]:
    """What lies in it, found out without changing anything; and which rows the intake would refuse, where asked for."""
    stamp = file.stamp()
    try:
        if not stamp or not await file.open(stamp, to_change=False):
            return Survey(), []
        survey = await file.survey(time.time())
        return survey, await _refused(file, survey) if examine_rows else []
    finally:
        await file.close()


async def _refused(file: OutboxReader, survey: Survey) -> list[RefusedRow]:
    """The rows that hold no call log."""
    from gateway.sdk_outbox.sinks import examine  # noqa: PLC0415  # the other commands load no HTTP client

    refused: list[RefusedRow] = []
    with progress_bar() as tell:
        for done, row in enumerate(survey.rows, 1):
            try:
                await examine(row, file.copy)
            except RowRefused as error:
                refused.append(RefusedRow(row.row_id, str(error)))
            tell("looking at rows", done, len(survey.rows))
    return refused


def _require_writable(file: Path) -> None:
    """Raise `OutboxError` where the rows could not be deleted."""
    if not _may_write(file):
        raise OutboxError("its rows could not be deleted: give this user write access to the file and its folder")


def _may_write(file: Path) -> bool:
    return os.access(file, os.W_OK) and os.access(file.absolute().parent, os.W_OK)


def _show(file: Path, survey: Survey, refused: Sequence[RefusedRow]) -> None:
    """Say what lies in it."""
    if as_json():
        counts = msgspec.to_builtins(msgspec.structs.replace(survey, rows=()))
        print_json({"file": str(file), **counts, "refused": msgspec.to_builtins(refused)})
        return
    shown = table("Status", "Event", "Rows", numbers=("Rows",))
    for status, event, count in survey.by_kind:
        shown.add_row(plain(status), plain(event), plain(count_text(count)))
    ready = survey.ready - len(refused)
    summary = f"{file}: {counted(ready, 'row')} to move ({bytes_text(survey.ready_bytes)})"
    in_use = f", {count_text(survey.in_use)} still in use by the SDK" if survey.in_use else ""
    output().print(plain(summary + in_use, "bold"))
    if survey.by_kind:
        output().print(shown)
    if survey.unreadable:
        complain(f"{counted(survey.unreadable, 'row')} cannot be read, and would be left in the outbox.")
    for row in refused[:SHOWN_REFUSED]:
        complain(f"Row {row.row_id} would be left in the outbox: {row.reason}.")
    if len(refused) > SHOWN_REFUSED:
        complain(f"So would {count_text(len(refused) - SHOWN_REFUSED)} more; --json lists them.")


def _check_gateway(address: ListenAddress) -> None:
    """End the command where nothing answers, before any row is claimed."""
    connection = connect(address, "intake", _CONNECT_SECONDS)
    try:
        connection.connect()
    except OSError as error:
        complain(
            f"No gateway answers at {address}: {error.strerror or error}.",
            hint="Start one with `callspool run`, or name its address with --intake HOST:PORT.",
        )
        raise SystemExit(Exit.NO_GATEWAY) from None
    finally:
        connection.close()


class _Tally:
    """Counts rows, and moves the bar. Implements the observer of `gateway.sdk_outbox`."""

    def __init__(self, total: int, tell: Tell) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self._total = total
        self._tell = tell

    def row_settled(self, _path: str, outcome: Outcome, _size: int) -> None:
        """A row was moved or refused."""
        self.outcomes[outcome] += 1
        self._tell("moving rows", self.outcomes.total(), self._total)


def _import(file: OutboxReader, address: ListenAddress, survey: Survey) -> None:
    """Take the rows, with a bar at a terminal, and say what became of them."""
    with progress_bar() as tell:
        tally = _Tally(survey.ready, tell)
        obstacle = asyncio.run(_empty(file, address, tally))
    if as_json():
        print_json({outcome.value: tally.outcomes[outcome] for outcome in _MEANINGS})
    shown = table("Rows", "", numbers=("Rows",))
    for outcome, (meaning, style) in _MEANINGS.items():
        if tally.outcomes[outcome]:
            shown.add_row(plain(count_text(tally.outcomes[outcome]), style), plain(meaning, style))
    if not as_json():
        output().print(shown)
    if obstacle is not None:
        complain(f"Stopped: {obstacle}", hint="Repeat the command for the rest; nothing is moved twice.")
    if obstacle is not None or tally.outcomes[Outcome.REFUSED]:
        raise SystemExit(Exit.FAILED)


async def _empty(file: OutboxReader, address: ListenAddress, tally: _Tally) -> str | None:
    """Take all rows that are free; why it ended early, if it did."""
    # The other commands start without loading an HTTP client.
    import aiohttp  # noqa: PLC0415  # see above

    from gateway.sdk_outbox.rescue import Rescuer  # noqa: PLC0415  # see above
    from gateway.sdk_outbox.sinks import PostSink  # noqa: PLC0415  # see above

    asked, context = asked_at(address), tls_context(address, "intake")
    connector = aiohttp.UnixConnector(str(asked.path)) if asked.path else aiohttp.TCPConnector(ssl=context or True)
    scheme, host = "https" if context else "http", "localhost" if asked.path else asked
    async with aiohttp.ClientSession(connector=connector, trust_env=False) as session:
        token, key = intake_token(), os.environ.get("CALLSPOOL_WHISPEY_OUTBOX_TOKEN")
        sink = PostSink(session, f"{scheme}://{host}/v1/calls", token=token, key=key)
        stamp = file.stamp()
        try:
            if stamp is None or not await file.open(stamp):
                return None
            rescuer = Rescuer(file, sink, lambda: time.time_ns() // 1_000_000, tally)
            return (await rescuer.empty(lambda: True)).obstacle
        finally:
            await file.close()
