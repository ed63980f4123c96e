"""`callspool pipeline status` and `redo`: what is made of calls after they ended, asked through the admin API."""

import click
import msgspec

from config.values import ListenAddress
from gateway.cli.client import admin_option, ask, explained, tell
from gateway.cli.output import output, plain, table
from gateway.formatting import count_text
from gateway.operations.pipeline import PipelineDocument, RedoDone
from uploaders.stores.pipeline import JobState, Step

_encode = msgspec.json.Encoder().encode
_decode_status = msgspec.json.Decoder(PipelineDocument).decode
_decode_done = msgspec.json.Decoder(RedoDone).decode


@click.group(short_help="Show the work on calls; do some of it anew.")
def pipeline() -> None:
    """Show what is made of calls after they ended, and have some of it made anew."""


@pipeline.command(short_help="Show the queue, and what it waits for.")
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API as it came.")
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


@pipeline.command(short_help="Work on calls once more.")
@admin_option
@click.option("--step", type=click.Choice([step.value for step in Step]), default="summary", show_default=True,
              help="From which step on.")  # fmt: skip
@click.option("--since", metavar="TIME", help="Calls that came at or after this time (ISO 8601 or Unix).")
@click.option("--tenant", metavar="NAME", help="Of this tenant.")
@click.option("--state", type=click.Choice([state.name.lower() for state in JobState if state is not JobState.QUEUED]),
              help="In this state.")  # fmt: skip
@click.option("--source", type=click.Choice(["provider", "llm", "extractive"]), help="Whose summary came from here.")
@click.option("--dry-run", is_flag=True, help="Only say what it would cost.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API as it came.")
def redo(
    address: ListenAddress, *, step: str, since: str | None, tenant: str | None, state: str | None,
    source: str | None, dry_run: bool, as_json: bool,
) -> None:  # fmt: skip
    """Queue calls once more, from a step on: after a new model, a new prompt, or a day without one.

    With --dry-run nothing is changed: it says how many answers of models would be paid for.
    """
    given = {"since": since, "project": tenant, "state": state, "source": source}
    order = {"step": step, "dry_run": dry_run, **{name: value for name, value in given.items() if value is not None}}
    with explained():
        body = tell(address, _encode(order), "api", "pipeline", "redo")
        if as_json:
            click.echo(body.decode())
            return
        done = _decode_done(body)
        what = "would be queued" if done.dry_run else "are queued"
        output().print(plain(f"{done.calls} calls {what}; at most {done.paid_answers} answers are paid for."))
