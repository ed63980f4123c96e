"""The options and arguments that select deliveries, and what they are told to the gateway as."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
import msgspec

from config.addresses import ListenAddress
from config.units import parse_duration
from gateway.cli.admin_client import ask
from gateway.orders.documents import DeliveryEntry, DeliveryPage, Select
from spool.records import Form

Command = TypeVar("Command", bound=Callable[..., Any])

_decode = msgspec.json.Decoder(DeliveryPage).decode


class Span(click.ParamType[float]):
    """A span of time as people write it, in seconds."""

    name = "DURATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds that were typed; ends the command where they are none."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_OPTIONS = (
    click.argument("targets", metavar="[RECORD_ID|CALL_ID]...", nargs=-1),
    click.option("--destination", metavar="NAME", help="Only those for this destination."),
    click.option("--form", type=click.Choice([form.value for form in Form]), help="Only those of this form."),
    click.option("--reason", metavar="TEXT", help="Only those whose reason holds this text, in capitals or not."),
    click.option("--older-than", type=Span(), help="Only those at least so old, such as 90s, 2h or 7d."),
    click.option("--newer-than", type=Span(), help="Only those at most so old."),
)


def selecting(command: Command) -> Command:
    """Adds what selects deliveries to a command, which gets it as `select_by(**selection)`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def select_by(
    states: tuple[str, ...],
    *,
    targets: tuple[str, ...],
    destination: str | None,
    form: str | None,
    reason: str | None,
    older_than: float | None,
    newer_than: float | None,
) -> tuple[Select, ...]:
    """The selections that together stand for what was typed: one for each target, or one without."""
    return tuple(
        Select(
            states=states,
            destination=destination,
            form=form,
            reason=reason,
            older_than=older_than,
            newer_than=newer_than,
            target=target,
        )
        for target in dict.fromkeys(targets or (None,))
    )


def entries(address: ListenAddress, select: Select) -> Iterator[DeliveryEntry]:
    """All deliveries that are selected, page by page. Raises like `ask`."""
    query = _query(select)
    while True:
        page = _decode(ask(address, "api", "deliveries", query=query))
        yield from page.deliveries
        if page.cursor is None:
            return
        query = {**query, "cursor": page.cursor}


def _query(select: Select) -> dict[str, str | tuple[str, ...]]:
    """A selection as the query of an address."""
    named = {name: getattr(select, name) for name in select.__struct_fields__ if name != "states"}
    query: dict[str, str | tuple[str, ...]] = {name: str(value) for name, value in named.items() if value is not None}
    return {**query, "state": select.states}
