"""Gives an order to a running gateway: says what it is about, asks back, and carries it out with a progress bar."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
import msgspec

from config.addresses import ListenAddress
from gateway.cli.admin_client import tell
from gateway.cli.asking import explained
from gateway.cli.exits import Exit
from gateway.cli.output import complain, output, plain
from gateway.cli.progress_bar import progress_bar
from gateway.humane import bytes_text, count_text
from gateway.orders.documents import OrderName, OrderRequest, OrderStep, Select

Command = TypeVar("Command", bound=Callable[..., Any])

_decode = msgspec.json.Decoder(OrderStep).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Wording:
    """How an order is spoken of: `verb` is what is done to `things`, `done` what was."""

    verb: str
    done: str
    things: tuple[str, str]
    """One, and several."""
    passed_over: str = "nothing was to be done"
    """Why some of the selected may have been passed over."""

    def count(self, count: int) -> str:
        """So many of them."""
        return f"{count_text(count)} {self.things[count != 1]}"


def ordering(command: Command) -> Command:
    """Adds what every order has to a command: --all, --dry-run and --yes."""
    for option in (
        click.option("--yes", "-y", is_flag=True, help="Do not ask back."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing."),
        click.option("--all", "everything", is_flag=True, help="Mean all of them, where nothing selects some."),
    ):
        command = option(command)
    return command


def require_selection(selects: Sequence[Select], *, everything: bool) -> None:
    """Ends the command where nothing says which deliveries are meant."""
    filtered = any(select != Select(states=select.states) for select in selects)
    if not filtered and not everything:
        raise click.UsageError("Say which: name calls or records, use the filters, or say --all.")


def give(
    address: ListenAddress,
    name: OrderName,
    requests: Sequence[OrderRequest],
    wording: Wording,
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    """Give an order, one request for each selection; what breaks off is told with how far it came."""
    with explained():
        matched, matched_bytes = count_of(address, name, requests)
        found = f"{wording.count(matched)}, {bytes_text(matched_bytes)}"
        if not matched:
            complain(f"There is nothing to {wording.verb}: no {wording.things[0]} is like that.", style="yellow")
        elif dry_run:
            output().print(plain(f"Would {wording.verb} {found}. Nothing was changed."))
        elif yes or not is_a_terminal() or click.confirm(f"{wording.verb.capitalize()} {found}?", err=True):
            _carry_out(address, name, requests, wording, matched)
        else:
            complain("Nothing was changed.", style="yellow")


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
        complain(f"It broke off after {wording.count(done)}. The same command goes on with the rest.")
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(Exit.FAILED) from None
        raise
    output().print(plain(f"{wording.done} {wording.count(done)}.", "green"))
    if done < matched:
        complain(
            f"{count_text(matched - done)} of the selected were passed over: {wording.passed_over}.", style="yellow"
        )


def _steps(address: ListenAddress, name: OrderName, request: OrderRequest) -> Iterator[OrderStep]:
    """The steps of one order, to its end."""
    while True:
        step = _decode(tell(address, _encode(request), "api", "orders", name.value))
        yield step
        if step.cursor is None:
            return
        request = msgspec.structs.replace(request, cursor=step.cursor)
