"""What is made of calls after they ended, by the admin API: `callspool pipeline` and `callspool callbacks`."""

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.calls import tenant_option
from gateway.cli.client import admin_option, ask, explained, tell
from gateway.cli.output import Responsive, json_option, output, plain, result, table, with_lines
from gateway.formatting import count_text, counted
from gateway.operations.pipeline import CallbackDone, CallbackList, NumberDone, PipelineDocument, RedoDone
from uploaders.stores.pipeline import CallbackState, JobState, Step

_encode = msgspec.json.Encoder().encode
_decode_status = msgspec.json.Decoder(PipelineDocument).decode
_decode_done = msgspec.json.Decoder(RedoDone).decode


@click.group(short_help="Show the work on calls; do some of it anew.")
def pipeline() -> None:
    """Show the work on calls after they ended, and redo it."""


@pipeline.command(short_help="Show the queue, and why calls wait.")
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API unchanged.")
def status(address: ListenAddress, *, as_json: bool) -> None:
    """Show how many calls are in which state, where summaries came from, and why calls wait or were skipped."""
    with explained():
        body = ask(address, "api", "pipeline")
        if as_json:
            click.echo(body.decode())
            return
        found = _decode_status(body)
        shown = table("", "", "Calls", numbers=("Calls",))
        shown.show_header = False
        for name, counts in (("jobs", found.jobs), ("summaries", found.summaries), ("callbacks", found.callbacks)):
            for word, count in counts.items():
                shown.add_row(plain(name, "bold"), plain(word), plain(count_text(count)))
        for reason, count in found.reasons.items():
            shown.add_row(plain("because", "bold"), plain(reason), plain(count_text(count)))
        output().print(plain(f"pipeline {found.name}", "bold"), shown, sep="\n")
        if found.oldest_queued is not None:
            output().print(plain(f"The oldest call in the queue came at {found.oldest_queued}."))
        if found.obstacle is not None:
            output().print(plain(f"It waits: {found.obstacle}", "yellow"))


@pipeline.command(short_help="Queue calls again.")
@admin_option
@click.option("--step", type=click.Choice([step.value for step in Step]), default="summary", show_default=True,
              help="The first step to redo.")  # fmt: skip
@click.option("--since", metavar="TIME", help="Only calls received at or after this time (ISO 8601 or Unix).")
@click.option("--tenant", metavar="NAME", help="Only calls of this tenant.")
@click.option("--state", type=click.Choice([state.name.lower() for state in JobState if state is not JobState.QUEUED]),
              help="Only calls in this state.")  # fmt: skip
@click.option(
    "--source", type=click.Choice(["provider", "llm", "extractive"]), help="Only calls whose summary came from here."
)
@click.option("--dry-run", is_flag=True, help="Only show what it would cost.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API unchanged.")
def redo(
    address: ListenAddress, *, step: str, since: str | None, tenant: str | None, state: str | None,
    source: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Queue calls again, from a given step: after a new model, a new prompt, or a day without a model.

    With --dry-run nothing is changed; it shows how many model calls would be paid for.
    """
    given = {"since": since, "project": tenant, "state": state, "source": source}
    order = {"step": step, "dry_run": dry_run, **{name: value for name, value in given.items() if value is not None}}
    with explained():
        body = tell(address, _encode(order), "api", "pipeline", "redo")
        if as_json:
            click.echo(body.decode())
            return
        done = _decode_done(body)
        calls, answers = counted(done.calls, "call"), counted(done.paid_answers, "answer")
        output().print(plain(f"{'Would queue' if done.dry_run else 'Queued'} {calls}; at most {answers} to pay for."))


# `callspool callbacks`: who is to be called back, what became of it, and whom nobody may call; by the admin API.

_decode_list = msgspec.json.Decoder(CallbackList).decode
_decode_callback = msgspec.json.Decoder(CallbackDone).decode
_decode_number = msgspec.json.Decoder(NumberDone).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@click.group(short_help="List and cancel callbacks; keep the do-not-call list.")
def callbacks() -> None:
    """List, cancel and trigger callbacks; keep the do-not-call list."""


@callbacks.command("list", short_help="List callbacks.")
@admin_option
@tenant_option
@click.option(
    "--state", type=click.Choice([state.value for state in CallbackState]), help="Only callbacks in this state."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of objects.")
def list_(address: ListenAddress, *, tenant: str | None, state: str | None, as_json: bool) -> None:
    """List callbacks, the next ones first."""
    query = {name: value for name, value in {"project": tenant, "state": state}.items() if value is not None}
    with explained():
        body = ask(address, "api", "callbacks", query=query)
        if as_json:
            click.echo(bytes(_decode_members(body)["callbacks"]).decode())
            return
        found = _decode_list(body).callbacks
        wide = table("Call", "Due", "Zone", "Number", "Words", "State", "Because")
        narrow = table("Call", "Due", "State")
        for each in found:
            columns = (each.call_id, each.due_at, each.zone, each.number, each.words, each.state, each.reason or "-")
            wide.add_row(*map(plain, columns))
            lines = (f"{each.number}, {each.zone}", each.words, each.reason)
            narrow.add_row(with_lines(each.call_id, lines), plain(each.due_at), plain(each.state))
        output().print(Responsive(wide, narrow) if found else plain("No callback.", "dim"))


@callbacks.command(short_help="Cancel a callback.")
@click.argument("call_id")
@json_option
@admin_option
@tenant_option
def cancel(call_id: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Cancel the callback of a call, while it is waiting."""
    with explained():
        body = tell(address, _encode({"call_id": call_id, "project": tenant or ""}), "api", "callbacks", "cancel")
        result(_decode_callback(body), f"The callback of call {call_id} is cancelled.", "")


@callbacks.command(short_help="Make a callback due now.")
@click.argument("call_id")
@json_option
@admin_option
@tenant_option
def run(call_id: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Make the callback of a call due now; calling hours, limits and the do-not-call list still apply."""
    with explained():
        body = tell(address, _encode({"call_id": call_id, "project": tenant or ""}), "api", "callbacks", "run")
        result(_decode_callback(body), f"The callback of call {call_id} is due now.", "")


@callbacks.command(short_help="Mark a callback as made by hand.")
@click.argument("call_id")
@json_option
@admin_option
@tenant_option
def done(call_id: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Mark the waiting callback of a call as made by hand."""
    with explained():
        body = tell(address, _encode({"call_id": call_id, "project": tenant or ""}), "api", "callbacks", "done")
        result(_decode_callback(body), f"The callback of call {call_id} is done.", "")


@callbacks.command(short_help="Reopen a callback that was cancelled or done.")
@click.argument("call_id")
@json_option
@admin_option
@tenant_option
def reopen(call_id: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Reopen a callback that was cancelled or made by hand; it keeps its due time."""
    with explained():
        body = tell(address, _encode({"call_id": call_id, "project": tenant or ""}), "api", "callbacks", "reopen")
        result(_decode_callback(body), f"The callback of call {call_id} waits again.", "")


@callbacks.command(short_help="Put a number on the do-not-call list.")
@click.argument("number")
@json_option
@admin_option
@tenant_option
def block(number: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Never call this number back, for one tenant or, without --tenant, for all."""
    _set_blocked(address, number, tenant, blocked=True)


@callbacks.command(short_help="Take a number off the do-not-call list.")
@click.argument("number")
@json_option
@admin_option
@tenant_option
def unblock(number: str, address: ListenAddress, *, tenant: str | None) -> None:
    """Allow callbacks to this number again."""
    _set_blocked(address, number, tenant, blocked=False)


def _set_blocked(address: ListenAddress, number: str, tenant: str | None, *, blocked: bool) -> None:
    order = {"number": number, "project": tenant or "", "blocked": blocked}
    with explained():
        body = tell(address, _encode(order), "api", "do-not-call")
        result(_decode_number(body), f"{number} is {'on' if blocked else 'off'} the do-not-call list.", "")
