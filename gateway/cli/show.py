"""`callspool show CALL_ID`: what came of a call."""

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from config.addresses import ListenAddress
from gateway.cli.admin_client import admin_option, ask
from gateway.cli.asking import explained
from gateway.cli.output import output, plain, table
from gateway.humane import bytes_text
from gateway.trace import CallTrace, RecordTrace, Stage

_decode = msgspec.json.Decoder(CallTrace).decode

_STYLES = {
    Stage.DELIVERED: "green",
    Stage.QUEUED: "yellow",
    Stage.CORE_SENT: "yellow",
    Stage.HELD: "yellow",
    Stage.DEAD: "bold red",
    Stage.GIVEN_UP: "red",
    Stage.SUPERSEDED: "dim",
}


@click.command(short_help="Show what came of a call.")
@click.argument("call_id")
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API as it came.")
def show(call_id: str, address: ListenAddress, *, as_json: bool) -> None:
    """Show what came of a call: accepted, core sent, detail sent, where it is now."""
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
    shown.add_row(plain("now", "bold"), plain(record.where, _STYLES[record.stage]))
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
            plain(each.next_attempt_at or "-"),
            plain(each.settled_at or "-"),
            plain(each.error or "-"),
        )
    return shown
