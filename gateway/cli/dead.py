"""`callspool dead`: look at dead letters, send them again, give them up."""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec

from config.addresses import ListenAddress
from gateway.cli.admin_client import admin_option, ask, download
from gateway.cli.asking import explained
from gateway.cli.dead_export import export
from gateway.cli.dead_import import import_
from gateway.cli.exits import Exit
from gateway.cli.listing import SHOWN, dead_letters, list_entries, story
from gateway.cli.ordering import Wording, give, ordering, require_selection
from gateway.cli.output import complain, output
from gateway.cli.selecting import entries, select_by, selecting
from gateway.humane import bytes_text, count_text
from gateway.orders.documents import DeliveryEntry, DeliveryStory, OrderName, OrderRequest
from uploaders.durable_file import DurableFile

_LETTERS = ("dead letter", "dead letters")
_SHOWN_STORIES = 10
_SOME_STATE = ("dead", "queued")

_decode_story = msgspec.json.Decoder(DeliveryStory).decode


@click.group(short_help="Look at dead letters, send them again, give them up.")
def dead() -> None:
    """Dead letters: deliveries that are not tried again by themselves. They keep their payload and their reason."""


@dead.command("list", short_help="List dead letters.")
@selecting
@click.option("--limit", type=click.IntRange(min=1), help=f"The most to list; a table shows {SHOWN} unless told.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for all of them.")
@admin_option
def list_(address: ListenAddress, *, limit: int | None, as_json: bool, **selection: Any) -> None:
    """List dead letters, the oldest call logs first, and what to do about them."""
    list_entries(
        address, select_by(("dead",), **selection), dead_letters, "No dead letters.", limit=limit, as_json=as_json
    )


@dead.command(short_help="Show the whole story of a dead letter.")
@click.argument("target", metavar="RECORD_ID|CALL_ID")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--payload",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write what would be sent into a file instead; - is standard output.",
)
@admin_option
def show(target: str, address: ListenAddress, *, as_json: bool, file: Path | None) -> None:
    """Show why a delivery is a dead letter, what to do about it, and how its document begins."""
    with explained():
        found = _named(address, target)
        if file is not None:
            _write(address, found, file)
            return
        for one in found[:_SHOWN_STORIES]:
            body = ask(address, "api", "deliveries", *one.key.split("/", 2))
            if as_json:
                click.echo(body.decode())
            else:
                output().print(story(_decode_story(body)))
        if len(found) > _SHOWN_STORIES:
            complain(f"{count_text(len(found) - _SHOWN_STORIES)} more are like that: name one by its key.", style="dim")


@dead.command(short_help="Send dead letters again.")
@selecting
@ordering
@admin_option
def replay(address: ListenAddress, *, everything: bool, dry_run: bool, yes: bool, **selection: Any) -> None:
    """Put dead letters back into the queue, in the order of their calls and with their idempotency keys."""
    selects = select_by(("dead",), **selection)
    require_selection(selects, everything=everything)
    requests = [OrderRequest(select=select) for select in selects]
    give(address, OrderName.REPLAY, requests, Wording("replay", "Replayed", _LETTERS), dry_run=dry_run, yes=yes)


@dead.command(short_help="Give dead letters up.")
@selecting
@ordering
@admin_option
def discard(address: ListenAddress, *, everything: bool, dry_run: bool, yes: bool, **selection: Any) -> None:
    """Give dead letters up, for good: their payloads go, and what is held with a core goes with it."""
    selects = select_by(("dead",), **selection)
    require_selection(selects, everything=everything)
    requests = [OrderRequest(select=select) for select in selects]
    wording = Wording("discard", "Discarded", ("delivery", "deliveries"))
    give(address, OrderName.DISCARD, requests, wording, dry_run=dry_run, yes=yes)


def _named(address: ListenAddress, target: str) -> list[DeliveryEntry]:
    """The dead letters that a target names; where it names none, what is queued of it, by its key."""
    for states in (("dead",), _SOME_STATE):
        (select,) = select_by(
            states, targets=(target,), destination=None, form=None, reason=None, older_than=None, newer_than=None
        )
        found = list(islice(entries(address, select), 1000))
        if found:
            return found
    complain(f"No delivery of {target!r} is a dead letter or queued.", hint="`callspool show CALL_ID` tells its trace.")
    raise SystemExit(Exit.UNKNOWN_CALL)


def _write(address: ListenAddress, found: list[DeliveryEntry], file: Path) -> None:
    """What one delivery carries, as JSON; a file appears only when it is whole."""
    if len(found) != 1:
        keys = ", ".join(one.key for one in found[:_SHOWN_STORIES])
        raise click.UsageError(f"--payload is for one delivery. Name it by its key: {keys}")
    blocks = download(address, "api", "documents", *found[0].key.split("/", 2))
    if str(file) == "-":
        for block in blocks:
            sys.stdout.buffer.write(block)
        return
    written, target = 0, DurableFile(file.absolute().parent, file.absolute())
    try:
        target.open()
        for block in blocks:
            target.write(block)
            written += len(block)
        target.commit()
    except OSError as error:
        complain(f"{file} cannot be written: {error.strerror or error}.")
        raise SystemExit(Exit.FAILED) from None
    finally:
        target.discard()
    complain(f"{file}: {bytes_text(written)}", style="green")


for _command in (export, import_):
    dead.add_command(_command)
