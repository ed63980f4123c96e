"""`callspool deliveries`: look at what is queued, and try it now, elsewhere, or with another key."""

from typing import Any, TextIO

import click

from config.addresses import ListenAddress
from gateway.cli.admin_client import admin_option
from gateway.cli.listing import SHOWN, list_entries, queued
from gateway.cli.ordering import Wording, give, is_a_terminal, ordering, require_selection
from gateway.cli.selecting import select_by, selecting
from gateway.orders.documents import OrderName, OrderRequest

_THINGS = ("delivery", "deliveries")
_STATES = click.Choice(["ready", "waiting", "held", "queued", "dead"])
_OPEN = ("dead", "queued")


@click.group(short_help="Look at what is queued; try it now, elsewhere, or with another key.")
def deliveries() -> None:
    """Deliveries that have not ended: ready to be sent, waiting for others, held, or dead letters."""


@deliveries.command("list", short_help="List what is still to be delivered.")
@selecting
@click.option("--state", "states", type=_STATES, multiple=True, help="Only those in this state; by default queued.")
@click.option("--limit", type=click.IntRange(min=1), help=f"The most to list; a table shows {SHOWN} unless told.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for all of them.")
@admin_option
def list_(
    address: ListenAddress, *, states: tuple[str, ...], limit: int | None, as_json: bool, **selection: Any
) -> None:
    """List what is still to be delivered, the oldest call logs first."""
    selects = select_by(states or ("queued",), **selection)
    list_entries(address, selects, queued, "Nothing is queued.", limit=limit, as_json=as_json)


@deliveries.command(short_help="Try now what was to be tried later.")
@selecting
@ordering
@admin_option
def retry(address: ListenAddress, *, everything: bool, dry_run: bool, yes: bool, **selection: Any) -> None:
    """Try now what was to be tried later, in the order of the calls.

    Of what is held for a refused token one delivery is sent; when it is taken, all go.
    """
    selects = select_by(("queued",), **selection)
    require_selection(selects, everything=everything)
    passed_over = "they are due already, wait for an earlier delivery, or are held with a dead letter"
    wording = Wording("retry", "Due now:", _THINGS, passed_over)
    give(address, OrderName.RETRY, [OrderRequest(select=one) for one in selects], wording, dry_run=dry_run, yes=yes)


@deliveries.command(short_help="Move deliveries to another destination.")
@selecting
@click.option("--to", required=True, metavar="NAME", help="The destination of the configuration to move them to.")
@click.option("--state", "states", type=_STATES, multiple=True, help="Only those in this state; by default all open.")
@ordering
@admin_option
def reroute(
    address: ListenAddress,
    *,
    to: str,
    states: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    **selection: Any,
) -> None:
    """Move what is queued or dead to another destination, also of one that the configuration no longer has.

    What one call log still owes to a destination moves together, with its idempotency keys.
    """
    selects = select_by(states or _OPEN, **selection)
    require_selection(selects, everything=everything)
    requests = [OrderRequest(select=select, to=to) for select in selects]
    passed_over = f"{to} takes nothing of their form, was owed it before, or is where they are"
    wording = Wording(f"move to {to}", f"Moved to {to}:", _THINGS, passed_over)
    give(address, OrderName.REROUTE, requests, wording, dry_run=dry_run, yes=yes)


@deliveries.command(short_help="Send with another key.")
@selecting
@click.option(
    "--key",
    "file",
    type=click.File(),
    metavar="FILE",
    help="Where the new key stands; - is standard input. Without it you are asked, at a terminal.",
)
@click.option("--state", "states", type=_STATES, multiple=True, help="Only those in this state; by default all open.")
@ordering
@admin_option
def retoken(
    address: ListenAddress,
    *,
    file: TextIO | None,
    states: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    **selection: Any,
) -> None:
    """Send with another key instead of the agent's own, where a destination forwards that.

    The key belongs to the call log: all its deliveries use the new one. What was held for the old one is sent.
    """
    selects = select_by(states or _OPEN, **selection)
    require_selection(selects, everything=everything)
    key = _key(file)
    requests = [OrderRequest(select=select, token=key) for select in selects]
    wording = Wording("give another key to", "Another key was given to", _THINGS)
    give(address, OrderName.RETOKEN, requests, wording, dry_run=dry_run, yes=yes)


def _key(file: TextIO | None) -> str:
    """The new key, which never stands on a command line: every process sees those."""
    if file is not None:
        return file.read().strip()
    if is_a_terminal():
        return str(click.prompt("New key", hide_input=True, err=True))
    raise click.UsageError("Say where the new key stands: --key FILE, or --key - for standard input.")
