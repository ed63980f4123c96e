"""Deliveries that have not ended, as tables and as the whole story of one."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from config.addresses import ListenAddress
from gateway.cli.asking import explained
from gateway.cli.output import complain, output, plain, table
from gateway.cli.selecting import entries
from gateway.cli.show import deliveries_table
from gateway.humane import age_text, bytes_text, count_text
from gateway.orders.advice import ADVICE, by_kind
from gateway.orders.documents import DeliveryEntry, DeliveryStory, Select

SHOWN = 200
"""Rows of a table, unless more are asked for."""

_encode = msgspec.json.Encoder().encode

_STYLES = {"dead": "bold red", "held": "yellow"}


def list_entries(
    address: ListenAddress,
    selects: Sequence[Select],
    table_of: Callable[[Sequence[DeliveryEntry]], RenderableType],
    nothing: str,
    *,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print what is selected: as a table that is cut, or as JSON lines that are not, unless `limit` says so."""
    found = chain.from_iterable(entries(address, select) for select in selects)
    with explained():
        if as_json:
            for one in islice(found, limit):
                click.echo(_encode(one).decode())
            return
        shown = tuple(islice(found, limit or SHOWN))
        output().print(table_of(shown) if shown else plain(nothing, "green"))
        if next(found, None) is not None:
            complain(f"These are the first {count_text(len(shown))}; --limit shows more.", style="dim")


def dead_letters(letters: Sequence[DeliveryEntry]) -> RenderableType:
    """Dead letters, and below them what to do about each kind of reason."""
    shown = table("Record", "Call", "Destination", "Form", "Age", "Failed", "Size", "Reason", numbers=_NUMBERS)
    for one in letters:
        shown.add_row(*_first_columns(one), plain(one.reason or "-"))
    return Group(shown, Text(), *_advice(letters))


def queued(deliveries: Sequence[DeliveryEntry]) -> RenderableType:
    """Deliveries that are still to be made."""
    columns = ("Record", "Call", "Destination", "Form", "Age", "Failed", "Size", "State", "Next try", "Reason")
    shown = table(*columns, numbers=_NUMBERS)
    for one in deliveries:
        state = plain(one.state, _STYLES.get(one.state, ""))
        shown.add_row(*_first_columns(one), state, plain(one.next_attempt_at or "-"), plain(one.reason or "-"))
    return shown


def story(told: DeliveryStory) -> RenderableType:
    """Everything about one delivery, with the beginning of its document."""
    one = told.delivery
    shown = table("", "")
    shown.show_header = False
    for name, value in _facts(told):
        shown.add_row(plain(name, "bold"), value)
    parts: list[RenderableType] = [plain(f"{one.form} of call {one.call_id}", "bold"), Text(), shown, Text()]
    parts += [deliveries_table(told.record), Text()]
    if told.preview is None:
        parts.append(plain("Its document cannot be read.", "red"))
    else:
        rest = (
            "" if told.preview_complete else f", the first {bytes_text(len(told.preview))} of {bytes_text(one.bytes)}"
        )
        parts += [plain(f"document{rest}", "bold"), plain(told.preview)]
    return Group(*parts)


_NUMBERS = ("Age", "Failed", "Size")


def _first_columns(one: DeliveryEntry) -> tuple[Text, ...]:
    return (
        plain(one.record_id),
        plain(one.call_id, "bold"),
        plain(one.destination),
        plain(one.form),
        plain(age_text(one.age_seconds)),
        plain(count_text(one.attempts)),
        plain(bytes_text(one.bytes)),
    )


def _facts(told: DeliveryStory) -> Iterable[tuple[str, Text]]:
    one = told.delivery
    since = f", {age_text(one.age_seconds)} ago"
    yield "key", plain(one.key)
    yield "state", plain(one.state, _STYLES.get(one.state, "")).append(f" since {one.since}{since}", "dim")
    yield "reason", plain(one.reason or "-")
    yield "what to do", plain(told.advice, "green")
    yield "destination", plain(f"{one.destination} ({one.lane} lane), {count_text(one.attempts)} failed attempts")
    yield "event", plain(f"{one.event}, accepted {one.accepted_at}")
    yield "agent", plain(f"{one.agent_id or '-'}{f' in {one.environment}' if one.environment else ''}")
    yield "size", plain(f"{bytes_text(one.bytes)} of {bytes_text(told.record.raw_bytes)}")
    yield "idempotency key", plain(one.idempotency_key)


def _advice(letters: Sequence[DeliveryEntry]) -> Iterable[Text]:
    """What to do, a line for each kind of reason, the most frequent first."""
    for one in by_kind([Counter(letter.reason or "" for letter in letters)]):
        yield plain(f"{count_text(one.count)} {one.kind}: ", "bold").append(ADVICE[one.kind], "not bold")
