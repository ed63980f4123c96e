"""The report of a salvage as people read it."""

from gateway.cli.output import output, plain, table
from gateway.humane import bytes_text, count_text
from gateway.salvage.documents import Report
from spool.salvage.found import Outcome

SHOWN_UNREADABLE = 20
"""More are in the JSON."""

_STYLES = {
    Outcome.BROUGHT: "green",
    Outcome.DAMAGED: "yellow",
    Outcome.UNREADABLE: "bold red",
}


def describe(report: Report) -> None:
    """Print what came of the records, which cannot be read, and what to do with the directory."""
    console = output()
    verb = "would be brought" if report.dry_run else "adopted" if report.adopt else "salvaged"
    console.print(plain(f"{report.directory}  ", "bold").append(verb, "bold green"))
    shown = table("Records", "", numbers=("Records",))
    for outcome in Outcome:
        if outcome in report.records:
            shown.add_row(plain(count_text(report.records[outcome])), plain(outcome, _STYLES.get(outcome, "dim")))
    console.print(shown)
    if report.deliveries:
        states = ", ".join(f"{count_text(count)} {state}" for state, count in sorted(report.deliveries.items()))
        console.print(plain(f"deliveries: {states}; payload: {bytes_text(report.payload_bytes)}"))
    if report.without_token:
        text = f"{count_text(report.without_token)} records lost their agent's token: they are sent without it"
        console.print(plain(text, "yellow"))
    _unreadable(report)
    if not report.dry_run:
        console.print(plain(_what_now(report), "dim"))


def _unreadable(report: Report) -> None:
    """The records that are lost, by their calls."""
    if not report.unreadable:
        return
    console = output()
    lost = table("Lost record", "Call", "Why", numbers=("Lost record",))
    for one in report.unreadable[:SHOWN_UNREADABLE]:
        lost.add_row(plain(one.record), plain(one.call_id or "unknown"), plain(one.reason))
    console.print(lost)
    if len(report.unreadable) > SHOWN_UNREADABLE:
        console.print(plain(f"and {len(report.unreadable) - SHOWN_UNREADABLE:,} more: see --json", "dim"))


def _what_now(report: Report) -> str:
    if report.adopt:
        return f"The database there was moved aside, and is not needed any more: {report.directory} can be removed."
    if report.unreadable:
        return f"Keep {report.directory} if the lost records matter: a copy may be read elsewhere. Else remove it."
    return f"Nothing in {report.directory} is needed any more: it can be removed."
