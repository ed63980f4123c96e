"""`callspool calls list`, `show`, `detail`, `similar` and `search`: what a receiver's store holds, by its admin API.

`callspool calls --live` lists the calls that go on at a gateway.
"""

import sys
from collections.abc import Iterator, Mapping

import click
import msgspec
from rich.console import RenderableType
from rich.text import Text

from config.values import ListenAddress
from gateway.calls import MOST_CALLS, CallEntry, CallList, LiveEntry, LiveList
from gateway.cli.client import Refused, admin_option, ask, download, explained, tell
from gateway.cli.output import Responsive, output, plain, table, with_lines
from gateway.cli.tables import describe
from gateway.formatting import bytes_text, count_text
from gateway.operations.pipeline import InsightList
from gateway.trace_schemas import CallTrace
from uploaders.stores.completion import CallState
from uploaders.stores.spans import without_lone_surrogates

_NOTHING = (b"null", b"[]")
_STYLES = {"open": "yellow", "ended": "yellow", "pending": "yellow", "timed_out": "red", "orphan": "red"}

_encode = msgspec.json.Encoder().encode
_decode_found = msgspec.json.Decoder(InsightList).decode
_decode_live = msgspec.json.Decoder(LiveList).decode
_decode_list = msgspec.json.Decoder(CallList).decode
_decode_entry = msgspec.json.Decoder(CallEntry).decode
_decode_trace = msgspec.json.Decoder(CallTrace).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


tenant_option = click.option("--tenant", metavar="NAME", help="Only calls of this tenant.")


def _of(tenant: str | None) -> dict[str, str]:
    return {} if tenant is None else {"project": tenant}


@click.group(short_help="List and show the calls in the store.", invoke_without_command=True)
@admin_option
@click.option("--live", is_flag=True, help="List the calls in progress, by their heartbeats.")
@click.option("--json", "as_json", is_flag=True, help="With --live: print a JSON list of objects.")
@click.pass_context
def calls(context: click.Context, address: ListenAddress, *, live: bool, as_json: bool) -> None:
    """List and show the calls in the store of this gateway; with --live, the calls in progress."""
    if context.invoked_subcommand is not None:
        if live or as_json:
            raise click.UsageError(f"{'--live' if live else '--json'} takes no command after it.")
        return
    if not live:
        raise click.UsageError(f"Give a command, or --live.\n\n{context.get_help()}")
    with explained():
        body = ask(address, "api", "live-calls")
        if as_json:
            click.echo(bytes(_decode_members(body)["calls"]).decode())
            return
        found = _decode_live(body).calls
        output().print(_live_table(found) if found else plain("No calls in progress.", "dim"))


@calls.command("list", short_help="List the newest calls.")
@admin_option
@tenant_option
@click.option("--limit", type=click.IntRange(1, MOST_CALLS), default=50, show_default=True, help="How many at most.")
@click.option("--since", metavar="TIME", help="Only calls that began at or after this time (ISO 8601 or Unix).")
@click.option("--until", metavar="TIME", help="Only calls that began before this time.")
@click.option("--agent", metavar="ID", help="Only calls of this agent.")
@click.option("--number", metavar="NUMBER", help="Only calls with this customer number.")
@click.option(
    "--state", type=click.Choice([state.name.lower() for state in CallState]), help="Only calls in this state."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
def list_(
    address: ListenAddress, *, limit: int, since: str | None, until: str | None, agent: str | None,
    number: str | None, state: str | None, tenant: str | None, as_json: bool,
) -> None:  # fmt: skip
    """List the newest calls that match all options."""
    given = {"since": since, "until": until, "agent": agent, "number": number, "state": state, **_of(tenant)}
    query = {"limit": str(limit), **{name: value for name, value in given.items() if value is not None}}
    with explained():
        body = ask(address, "api", "calls", query=query)
        if as_json:
            click.echo(bytes(_decode_members(body)["calls"]).decode())
            return
        found = _decode_list(body).calls
        output().print(_table(found) if found else plain("No calls.", "dim"))


@calls.command(short_help="Show one call with its documents.")
@click.argument("call_id")
@admin_option
@tenant_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API unchanged.")
def show(call_id: str, address: ListenAddress, *, tenant: str | None, as_json: bool) -> None:
    """Show one call: its columns, and its start, end and updates as they were posted."""
    with explained():
        body = ask(address, "api", "calls", call_id, query=_of(tenant))
        if as_json:
            click.echo(body.decode())
        elif "state" in _decode_members(body := _readable(body)):
            for part in _described(body):
                output().print(part, soft_wrap=isinstance(part, Text))
        else:
            output().print(plain("No store has this call (yet). What this gateway knows about it:\n", "yellow"))
            output().print(describe(_decode_trace(body)))


@calls.command(short_help="Print the detail of a call.")
@click.argument("call_id")
@admin_option
@tenant_option
@click.option("--json", "as_json", is_flag=True, help="Has no effect: a detail is always JSON.")
def detail(
    call_id: str,
    address: ListenAddress,
    *,
    tenant: str | None,
    as_json: bool,  # noqa: ARG001  # as the others have it
) -> None:
    """Print the detail of a call as JSON, each value as it was posted."""
    with explained():
        for block in download(address, "api", "calls", call_id, "detail", query=_of(tenant)):
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.write(b"\n")


@calls.command(short_help="Find calls similar to a text or a call.")
@click.argument("text_or_call_id")
@admin_option
@tenant_option
@click.option("--limit", type=click.IntRange(1, 200), default=10, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects, the best first.")
def similar(text_or_call_id: str, address: ListenAddress, *, limit: int, tenant: str | None, as_json: bool) -> None:
    """Find the calls whose summaries are closest in meaning to a text, or to another call (docs/pipeline.md).

    A single word that is the id of a call stands for that call.
    """
    given = {"limit": limit, **_of(tenant)}
    with explained():
        body = b""
        if len(text_or_call_id.split()) == 1:
            try:
                body = tell(address, _encode({"call_id": text_or_call_id, **given}), "api", "calls", "similar")
            except Refused as error:
                if error.code != "unknown_call":
                    raise
        body = body or tell(address, _encode({"text": text_or_call_id, **given}), "api", "calls", "similar")
        _print_found(body, as_json=as_json)


@calls.command(short_help="Find calls by their words.")
@click.argument("words", nargs=-1, required=True)
@admin_option
@tenant_option
@click.option("--limit", type=click.IntRange(1, 200), default=10, show_default=True, help="How many at most.")
@click.option("--agent", metavar="ID", help="Only calls of this agent.")
@click.option("--number", metavar="NUMBER", help="Only calls with this customer number.")
@click.option("--since", metavar="TIME", help="Only calls that began at or after this time (ISO 8601 or Unix).")
@click.option("--until", metavar="TIME", help="Only calls that began before this time.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects, the newest first.")
def search(
    words: tuple[str, ...], address: ListenAddress, *, limit: int, agent: str | None, number: str | None,
    since: str | None, until: str | None, tenant: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Find the newest calls whose transcript or summary contains all of these words."""
    given = {"agent": agent, "number": number, "since": since, "until": until, **_of(tenant)}
    order = {"text": " ".join(words), "limit": limit, **{name: value for name, value in given.items() if value}}
    with explained():
        _print_found(tell(address, _encode(order), "api", "calls", "search"), as_json=as_json)


def _print_found(body: bytes, *, as_json: bool) -> None:
    if as_json:
        click.echo(bytes(_decode_members(body)["calls"]).decode())
        return
    found = _decode_found(body).calls
    wide = table("Call", "Score", "Began", "Agent", "Number", "Summary", numbers=("Score", "Began"))
    narrow = table("Call", "Score", "Began", numbers=("Score", "Began"))
    for each in found:
        score = "-" if isinstance(each.score, msgspec.UnsetType) else f"{each.score:.3f}"
        columns = (each.call_id, score, each.started_at, each.agent_id, each.customer_number, each.summary)
        wide.add_row(*[plain(column or "-") for column in columns])
        lines = (_whose(each.agent_id, each.customer_number), each.summary)
        narrow.add_row(with_lines(each.call_id, lines), plain(score), plain(each.started_at or "-"))
    output().print(Responsive(wide, narrow) if found else plain("No calls.", "dim"))


def _whose(agent_id: str | None, customer_number: str | None) -> str:
    """Agent and caller, as far as they are known."""
    known = ((agent_id, f"agent {agent_id}"), (customer_number, f"number {customer_number}"))
    return ", ".join(words for value, words in known if value)


def _live_table(found: tuple[LiveEntry, ...]) -> RenderableType:
    numbers = ("Silent", "Turns", "Bytes")
    wide = table("Call", "State", "Since", *numbers, "Agent", "Tenant", numbers=numbers)
    narrow = table("Call", "State", *numbers, numbers=numbers)
    for call in found:
        state = plain(call.state, "red" if call.state == "lost" else "green")
        silent = "-" if call.silent_seconds is None else f"{call.silent_seconds:.0f} s"
        figures = [plain(figure) for figure in (silent, count_text(call.turns), bytes_text(call.bytes))]
        whose = [plain(call.agent_id or "-"), plain(call.tenant or "-")]
        wide.add_row(plain(call.call_id), state, plain(call.first_heard_at), *figures, *whose)
        tenant = f"tenant {call.tenant}" if call.tenant else None
        lines = (f"since {call.first_heard_at}", _whose(call.agent_id, None), tenant)
        narrow.add_row(with_lines(call.call_id, lines), state, *figures)
    return Responsive(wide, narrow)


def _table(found: tuple[CallEntry, ...]) -> RenderableType:
    wide = table("Call", "State", "Began", "Seconds", "Agent", "Number", "Turns", "Ended because", numbers=_NUMBERS)
    narrow = table("Call", "State", "Began", numbers=_NUMBERS)
    for call in found:
        began = plain(call.started_at or call.first_part_at)
        seconds = None if call.duration_seconds is None else round(call.duration_seconds)
        turns = (call.summary or {}).get("turns")
        others = (seconds, call.agent_id, call.customer_number, turns, call.reason)
        wide.add_row(plain(call.call_id), _state(call), began, *[plain("-" if v is None else v) for v in others])
        length = [f"{seconds} s"] * (seconds is not None) + [f"{turns} turns"] * (turns is not None)
        lines = (", ".join(length), _whose(call.agent_id, call.customer_number), call.reason)
        narrow.add_row(with_lines(call.call_id, lines), _state(call), began)
    return Responsive(wide, narrow)


_NUMBERS = ("Began", "Seconds", "Turns")


def _state(call: CallEntry) -> RenderableType:
    return plain(f"{call.state} (late)" if call.late else call.state, _STYLES.get(call.state, "green"))


def _readable(body: bytes) -> bytes:
    """Of lone surrogates, which no terminal can show, replacement characters are left."""
    try:
        _decode_members(body)
    except msgspec.DecodeError:
        return without_lone_surrogates(body)
    return body


def _described(body: bytes) -> Iterator[RenderableType]:
    """The columns of a call as a table, and below it its documents as they were posted, on a line each."""
    call = _decode_entry(body)
    shown = table("", "")
    shown.show_header = False
    for name in CallEntry.__struct_fields__:
        value = getattr(call, name)
        if value is not None and name != "call_id":
            shown.add_row(plain(_words(name), "bold"), plain(_said(value)))
    yield plain(f"call {call.call_id}", "bold")
    yield shown
    members = _decode_members(body)
    for name in ("start", "end", "updates", "references"):
        document = bytes(members.get(name, b"null"))
        if document not in _NOTHING:
            yield from (Text(), plain(name, "bold"), plain(document.decode()))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _said(value: object) -> object:
    """A column of a call as people read it."""
    if isinstance(value, bool):
        return ("no", "yes")[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(name)}: {figure:,}" for name, figure in value.items())
    return value
