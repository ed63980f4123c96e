"""Open deliveries, as tables and one in full."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import chain, islice

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from config.values import ListenAddress
from gateway.cli import Exit
from gateway.cli.client import Command, Span, admin_option, ask, explained
from gateway.cli.output import Responsive, complain, indented, output, plain, table
from gateway.formatting import age_text, bytes_text, count_text, counted
from gateway.operations.advice import ADVICE, by_kind
from gateway.operations.schemas import DeliveryEntry, DeliveryPage, DeliveryReport, Select, Status
from gateway.runbooks import Runbook
from gateway.trace_schemas import CallTrace, RecordTrace, Stage
from spool.records import Form

SHOWN = 200
"""Rows of a table, unless more are asked for."""

_encode = msgspec.json.Encoder().encode

_STYLES = {"dead": "bold red", "held": "yellow"}


def limit_option(command: Command) -> Command:
    """Adds --limit to a command that lists entries."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        metavar="COUNT",
        help=f"List at most this many.  [default: {SHOWN}; all with --json]",
    )(command)


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
            none_found = True
            for one in islice(found, limit):
                none_found = False
                click.echo(_encode(one).decode())
            if none_found:
                require_known(address, selects)
            return
        shown = tuple(islice(found, limit or SHOWN))
        if not shown:
            require_known(address, selects)
        output().print(table_of(shown) if shown else plain(nothing, "green"))
        if next(found, None) is not None:
            complain(f"Only the first {count_text(len(shown))} are shown; --limit shows more.", style="dim")


def require_known(address: ListenAddress, selects: Sequence[Select]) -> None:
    """Ends the command where a destination that nothing was found for does not exist: that is no all-clear."""
    named = {select.destination for select in selects if select.destination is not None}
    if not named:
        return
    known = [each.name for each in _decode_status(ask(address, "api", "status")).destinations]
    for name in sorted(named - set(known)):
        near = get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(known) or 'none'}."
        complain(f"There is no destination {name}.", hint=hint)
        raise SystemExit(Exit.USAGE)


def dead_letters(letters: Sequence[DeliveryEntry]) -> RenderableType:
    """Dead letters, and below them what to do about each kind of reason."""
    shown = table("Record", "Call", "Destination", "Form", "Age", "Failed", "Size", "Reason", numbers=_NUMBERS)
    for one in letters:
        shown.add_row(*_first_columns(one), plain(one.reason or "-"))
    return Group(Responsive(shown, _narrow(letters)), Text(), *_advice(letters))


def queued(deliveries: Sequence[DeliveryEntry]) -> RenderableType:
    """Deliveries that are still to be made."""
    columns = ("Record", "Call", "Destination", "Form", "Age", "Failed", "Size", "State", "Next try", "Reason")
    shown = table(*columns, numbers=_NUMBERS)
    for one in deliveries:
        state = plain(one.state, _STYLES.get(one.state, ""))
        shown.add_row(*_first_columns(one), state, plain(_next_try(one.next_attempt_at)), plain(one.reason or "-"))
    return Responsive(shown, _narrow(deliveries, with_state=True))


def _next_try(at: str | None) -> str:
    """When; what is due already waits for its turn alone, or for its destination."""
    if at is None:
        return "-"
    return at if datetime.fromisoformat(at) > datetime.now(UTC) else "now"


def _narrow(deliveries: Sequence[DeliveryEntry], *, with_state: bool = False) -> RenderableType:
    """For 80 columns: each delivery by its key, with its state and reason in lines of their own below it."""
    shown = table("Delivery", "Age", "Failed", "Size", numbers=_NUMBERS)
    for one in deliveries:
        about: list[RenderableType] = [plain(one.key, "bold"), indented(f"call {one.call_id}", "")]
        if with_state:
            again = f", next try {_next_try(one.next_attempt_at)}" if one.next_attempt_at else ""
            about.append(Text("  ").append_text(plain(one.state, _STYLES.get(one.state, ""))).append(again))
        if one.reason:
            about.append(indented(one.reason))
        figures = (age_text(one.age_seconds), count_text(one.attempts), bytes_text(one.bytes))
        shown.add_row(Group(*about), *map(plain, figures))
    return shown


def report(found: DeliveryReport, *, with_document: bool = False) -> RenderableType:
    """Everything about one delivery, with the beginning of its document where that was asked for."""
    one = found.delivery
    shown = table("", "")
    shown.show_header = False
    for name, value in _facts(found):
        shown.add_row(plain(name, "bold"), value)
    parts: list[RenderableType] = [plain(f"{one.form} of call {one.call_id}", "bold"), Text(), shown, Text()]
    parts += [deliveries_table(found.record), Text()]
    if found.preview is None:
        parts.append(plain("Its document cannot be read.", "red"))
    elif not with_document:
        parts.append(plain("--document shows how its document begins: what was said, and by whom.", "dim"))
    else:
        rest = (
            "" if found.preview_complete else f", the first {bytes_text(len(found.preview))} of {bytes_text(one.bytes)}"
        )
        parts += [plain(f"document{rest}", "bold"), plain(found.preview)]
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


def _facts(found: DeliveryReport) -> Iterable[tuple[str, Text]]:
    one = found.delivery
    since = f", {age_text(one.age_seconds)} ago"
    yield "key", plain(one.key)
    yield "state", plain(one.state, _STYLES.get(one.state, "")).append(f" since {one.since}{since}", "dim")
    yield "reason", plain(one.reason or "-")
    yield "what to do", plain(found.advice, "green")
    yield "destination", plain(f"{one.destination} ({one.lane} lane), {counted(one.attempts, 'failed attempt')}")
    yield "event", plain(f"{one.event}, accepted {one.accepted_at}")
    yield "agent", plain(f"{one.agent_id or '-'}{f' in {one.environment}' if one.environment else ''}")
    yield "size", plain(f"{bytes_text(one.bytes)} of {bytes_text(found.record.raw_bytes)}")
    yield "idempotency key", plain(one.idempotency_key)


def _advice(letters: Sequence[DeliveryEntry]) -> Iterable[Text]:
    """What to do, a line for each kind of reason, the most frequent first."""
    for one in by_kind([Counter(letter.reason or "" for letter in letters)]):
        yield plain(f"{count_text(one.count)} {one.kind}: ", "bold").append(ADVICE[one.kind], "not bold")
    yield plain(f"More: {Runbook.DEAD_LETTERS}", "dim")


# `callspool show CALL_ID`: where a call is.

_decode = msgspec.json.Decoder(CallTrace).decode

_STAGE_STYLES = {
    Stage.DELIVERED: "green",
    Stage.QUEUED: "yellow",
    Stage.CORE_SENT: "yellow",
    Stage.HELD: "yellow",
    Stage.DEAD: "bold red",
    Stage.GIVEN_UP: "red",
    Stage.SUPERSEDED: "dim",
}


@click.command()
@click.argument("call_id")
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API unchanged.")
def show(call_id: str, address: ListenAddress, *, as_json: bool) -> None:
    """Show where a call is: when it was accepted, its core and detail sent, and what is left."""
    with explained():
        body = ask(address, "api", "calls", call_id)
        if as_json:
            click.echo(body.decode())
        else:
            output().print(describe(_decode(body)))


def describe(trace: CallTrace) -> RenderableType:
    """The trace as tables, one for each record of the call."""
    parts: list[RenderableType] = [plain(f"call {trace.call_id}", "bold")]
    for record in trace.records:
        parts += [Text(), _summary(record)]
        if record.deliveries:
            parts += [Text(), deliveries_table(record)]
    return Group(*parts)


def _summary(record: RecordTrace) -> RenderableType:
    shown = table("", "")
    shown.show_header = False
    size = f"{bytes_text(record.raw_bytes)} ({bytes_text(record.stored_bytes)} stored)"
    shown.add_row(plain("event", "bold"), plain(f"{record.event}, {size}"))
    shown.add_row(plain("accepted", "bold"), plain(record.accepted_at))
    shown.add_row(plain("core sent", "bold"), plain(record.core_sent_at or "not yet"))
    if record.upload_method == "two_phase":
        shown.add_row(plain("detail sent", "bold"), plain(record.detail_sent_at or "not yet"))
    shown.add_row(plain("now", "bold"), plain(record.where, _STAGE_STYLES[record.stage]))
    return shown


def deliveries_table(record: RecordTrace) -> RenderableType:
    """How each delivery of a record stands."""
    shown = table("Destination", "Form", "State", "Failed", "Next try", "Ended", "Reason", numbers=("Failed",))
    for each in record.deliveries:
        shown.add_row(
            plain(each.destination),
            plain(each.form),
            plain(each.state),
            plain(each.attempts),
            plain(_next_try(each.next_attempt_at)),
            plain(each.settled_at or "-"),
            plain(each.error or "-"),
        )
    return Responsive(shown, _narrow_deliveries(record))


def _narrow_deliveries(record: RecordTrace) -> RenderableType:
    """For 80 columns: what is said of a delivery stands in a line of its own below it."""
    shown = table("Delivery", "State", "Failed", numbers=("Failed",))
    for each in record.deliveries:
        about: list[RenderableType] = [plain(f"{each.form} to {each.destination}", "bold")]
        if each.next_attempt_at:
            about.append(indented(f"next try {_next_try(each.next_attempt_at)}", ""))
        if each.settled_at:
            about.append(indented(f"ended {each.settled_at}", ""))
        if each.error:
            about.append(indented(each.error))
        shown.add_row(Group(*about), plain(each.state, _STYLES.get(each.state, "")), plain(count_text(each.attempts)))
    return shown


# The options and arguments that select deliveries, and the query that they become.

_decode_page = msgspec.json.Decoder(DeliveryPage).decode
_decode_status = msgspec.json.Decoder(Status).decode


_OPTIONS = (
    click.argument("targets", metavar="[RECORD_ID|CALL_ID]...", nargs=-1),
    click.option("--destination", metavar="NAME", help="Only for this destination."),
    click.option(
        "--form",
        type=click.Choice([form.value for form in Form]),
        metavar="FORM",
        help="Only of this form: whole, core, detail, reduced or notice.",
    ),
    click.option("--reason", metavar="TEXT", help="Only with this text in the reason; case is ignored."),
    click.option("--older-than", type=Span(), help="Only older than this, such as 90s, 2h or 7d."),
    click.option("--newer-than", type=Span(), help="Only newer than this."),
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
        page = _decode_page(ask(address, "api", "deliveries", query=query))
        yield from page.deliveries
        if page.cursor is None:
            return
        query = {**query, "cursor": page.cursor}


def _query(select: Select) -> dict[str, str | tuple[str, ...]]:
    """A selection as the query of an address."""
    named = {name: getattr(select, name) for name in select.__struct_fields__ if name not in {"states", "keys"}}
    query: dict[str, str | tuple[str, ...]] = {name: str(value) for name, value in named.items() if value is not None}
    return {**query, "state": select.states}
