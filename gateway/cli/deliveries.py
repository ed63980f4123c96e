"""`callspool deliveries`: look at what is queued, and try it now, elsewhere, or with another key."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from config.values import ListenAddress
from gateway.cli import Exit, KeyFile
from gateway.cli.client import Command, admin_option, explained, tell
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, progress_bar
from gateway.cli.tables import limit_option, list_entries, queued, require_known, select_by, selecting
from gateway.formatting import bytes_text, count_text
from gateway.operations.schemas import OrderName, OrderRequest, OrderStep, Select

# Gives an order to a running gateway: counts what it selects, asks for confirmation, and shows progress.

_decode = msgspec.json.Decoder(OrderStep).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Wording:
    """How an order is spoken of: `verb` is what is done to `things`, `done` what was."""

    verb: str
    done: str
    things: tuple[str, str]
    """One, and several."""
    passed_over: str = "there was nothing to do"
    """Why some of the selected may have been skipped."""

    def count(self, count: int) -> str:
        """So many of them."""
        return f"{count_text(count)} {self.things[count != 1]}"


def ordering(command: Command) -> Command:
    """Adds what every order has to a command: --all, --dry-run, --yes and --json."""
    for option in (
        json_option,
        click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation."),
        click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing."),
        click.option("--all", "everything", is_flag=True, help="Select all; required without a filter."),
    ):
        command = option(command)
    return command


def require_selection(selects: Sequence[Select], *, everything: bool) -> None:
    """Ends the command where nothing selects deliveries."""
    filtered = any(select != Select(states=select.states) for select in selects)
    if not filtered and not everything:
        raise click.UsageError("Nothing selected: name calls or records, use a filter, or pass --all.")


def give(
    address: ListenAddress,
    name: OrderName,
    requests: Sequence[OrderRequest],
    wording: Wording,
    *,
    dry_run: bool,
    yes: bool,
    final: bool = False,
) -> bool:
    """Give an order, one request for each selection; whether it was carried out.

    An interruption is reported with what was done. A `final` order, which cannot be undone, is confirmed: at a
    terminal, or by --yes.
    """
    with explained():
        matched, matched_bytes = count_of(address, name, requests)
        found = f"{wording.count(matched)}, {bytes_text(matched_bytes)}"
        if not matched:
            require_known(address, [request.select for request in requests])
            if as_json():
                _report(name, requests, matched=0, done=0, dry_run=dry_run)
            else:
                complain(f"Nothing to {wording.verb}: no {wording.things[0]} matches.", style="yellow")
        elif dry_run:
            if as_json():
                _report(name, requests, matched=matched, done=0, dry_run=True)
            else:
                output().print(plain(f"Would {wording.verb} {found}. Nothing was changed."))
        elif final and not yes and not is_a_terminal():
            raise click.UsageError(f"There is no terminal to ask at: pass --yes to {wording.verb} {found}.")
        elif yes or not is_a_terminal() or click.confirm(f"{wording.verb.capitalize()} {found}?", err=True):
            _carry_out(address, name, requests, wording, matched)
            return True
        else:
            complain("Nothing was changed.", style="yellow")
    return False


def is_a_terminal() -> bool:
    """Whether a person can be asked back."""
    return sys.stdin.isatty()


def count_of(address: ListenAddress, name: OrderName, requests: Sequence[OrderRequest]) -> tuple[int, int]:
    """How many deliveries an order is about, and what they take."""
    matched = matched_bytes = 0
    for request in requests:
        for step in _steps(address, name, msgspec.structs.replace(request, dry_run=True)):
            matched += step.matched
            matched_bytes += step.matched_bytes
    return matched, matched_bytes


def _carry_out(
    address: ListenAddress, name: OrderName, requests: Sequence[OrderRequest], wording: Wording, expected: int
) -> None:
    done = matched = 0
    try:
        with progress_bar() as tell_progress:
            for request in requests:
                for step in _steps(address, name, request):
                    done += step.done
                    matched += step.matched
                    tell_progress(wording.verb, matched, max(expected, matched))
    except BaseException as error:
        complain(f"Interrupted after {wording.count(done)}. Repeat the command for the rest.")
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(Exit.FAILED) from None
        raise
    if as_json():
        _report(name, requests, matched=matched, done=done, dry_run=False)
        return
    output().print(plain(f"{wording.done} {wording.count(done)}.", "green"))
    if done < matched:
        complain(f"Skipped {count_text(matched - done)} of the selected: {wording.passed_over}.", style="yellow")


def _report(name: OrderName, requests: Sequence[OrderRequest], *, matched: int, done: int, dry_run: bool) -> None:
    """What came of an order, for programs."""
    to = requests[0].to if requests else None
    print_json({"order": name.value, "matched": matched, "done": done, "dry_run": dry_run, "to": to})


def _steps(address: ListenAddress, name: OrderName, request: OrderRequest) -> Iterator[OrderStep]:
    """The steps of one order, to its end."""
    while True:
        step = _decode(tell(address, _encode(request), "api", "orders", name.value))
        yield step
        if step.cursor is None:
            return
        request = msgspec.structs.replace(request, cursor=step.cursor)


_THINGS = ("delivery", "deliveries")
_OPEN = ("dead", "queued")


def _state_option(default: str) -> Callable[[Command], Command]:
    return click.option(
        "--state",
        "states",
        type=click.Choice(["ready", "waiting", "held", "queued", "dead"]),
        multiple=True,
        metavar="STATE",
        help=f"Only in this state: ready, waiting, held, queued or dead.  [default: {default}]",
    )


@click.group()
def deliveries() -> None:
    """Open deliveries: ready to be sent, waiting for an earlier one, held, or dead letters."""


@deliveries.command("list", short_help="List queued deliveries.")
@selecting
@_state_option("queued")
@limit_option
@click.option("--json", "lines", is_flag=True, help="Print JSON, one object per line.")
@admin_option
def list_(address: ListenAddress, *, states: tuple[str, ...], limit: int | None, lines: bool, **selection: Any) -> None:
    """List queued deliveries, oldest call logs first."""
    selects = select_by(states or ("queued",), **selection)
    list_entries(address, selects, queued, "Nothing is queued.", limit=limit, as_json=lines)


@deliveries.command(short_help="Retry now, without waiting for the back-off.")
@selecting
@ordering
@admin_option
def retry(address: ListenAddress, *, everything: bool, dry_run: bool, yes: bool, **selection: Any) -> None:
    """Retry queued deliveries now, without waiting for their back-off, in the order of their calls.

    Of the deliveries held for a refused token one is sent; if it is accepted, all are.
    """
    selects = select_by(("queued",), **selection)
    require_selection(selects, everything=everything)
    passed_over = "already due, waiting for an earlier delivery, or held with a dead letter"
    wording = Wording("retry", "Due now:", _THINGS, passed_over)
    give(address, OrderName.RETRY, [OrderRequest(select=one) for one in selects], wording, dry_run=dry_run, yes=yes)


@deliveries.command(short_help="Move deliveries to another destination.")
@selecting
@click.option("--to", required=True, metavar="NAME", help="Configured destination to move them to.")
@_state_option("all")
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
    """Move queued deliveries and dead letters to another destination.

    This also works for destinations that are no longer configured. All that one call log still owes to a destination
    moves together and keeps its idempotency keys.
    """
    selects = select_by(states or _OPEN, **selection)
    require_selection(selects, everything=everything)
    requests = [OrderRequest(select=select, to=to) for select in selects]
    passed_over = f"{to} does not accept their form, was owed it before, or is where they are"
    wording = Wording(f"move to {to}", f"Moved to {to}:", _THINGS, passed_over)
    give(address, OrderName.REROUTE, requests, wording, dry_run=dry_run, yes=yes)


@deliveries.command(short_help="Send with another key than the agent's.")
@selecting
@click.option(
    "--key",
    type=KeyFile(),
    metavar="FILE",
    help="File with the new key (- for stdin); at a terminal you are asked.",
)
@_state_option("all")
@ordering
@admin_option
def replace_token(
    address: ListenAddress,
    *,
    key: str | None,
    states: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    yes: bool,
    **selection: Any,
) -> None:
    """Replace the agent's own key, where a destination forwards that.

    The key belongs to the call log: all its deliveries use the new one. Deliveries held for the old one are sent.
    """
    selects = select_by(states or _OPEN, **selection)
    require_selection(selects, everything=everything)
    token = _asked_for() if key is None else key
    requests = [OrderRequest(select=select, token=token) for select in selects]
    wording = Wording("give another key to", "Another key was given to", _THINGS)
    give(address, OrderName.REPLACE_TOKEN, requests, wording, dry_run=dry_run, yes=yes)


def _asked_for() -> str:
    """The new key, which never stands on a command line: every process sees those."""
    if is_a_terminal():
        return str(click.prompt("New key", hide_input=True, err=True))
    raise click.UsageError("No new key: pass --key FILE, or --key - for standard input.")
