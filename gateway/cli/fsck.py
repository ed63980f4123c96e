"""`callspool fsck`: whether everything in a spool is as it should be."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import click
import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from gateway.cli import Exit
from gateway.cli.options import spool_directory, spool_option
from gateway.cli.output import complain, output, plain, progress_bar, table
from gateway.formatting import counted
from spool.directory import is_owned
from spool.errors import SpoolError, SpoolLocked
from spool.fsck import Finding, Severity, check
from spool.fsck.repair import repair
from spool.records import system_clock

SHOWN_OF_A_KIND = 10
"""More of the same are counted, and listed with --json."""

_STYLES = {Severity.NOTE: "dim", Severity.WARNING: "yellow", Severity.ERROR: "bold red"}
_WORST_FIRST = list(reversed(Severity))


class FindingReport(msgspec.Struct, frozen=True):
    """A finding as JSON."""

    severity: str
    kind: str
    where: str
    text: str
    advice: str


class Report(msgspec.Struct, frozen=True):
    """All of a check as JSON."""

    directory: str
    gateway_running: bool
    sound: bool
    """Whether nothing needs attention: notes may be there."""
    findings: tuple[FindingReport, ...]


@click.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
@spool_option
@click.option("--json", "as_json", is_flag=True, help="Print all findings as JSON.")
@click.option(
    "--repair", "with_repair", is_flag=True, help="Repair what can be repaired; no gateway may use the spool."
)
def fsck(directory: Path | None, file: Path | None, *, as_json: bool, with_repair: bool) -> None:
    """Check a spool: files, pages, payloads, deliveries, their order, and the counters.

    Without --repair nothing is changed, and a gateway may be running. DIRECTORY defaults to the configured spool.
    """
    spool = spool_directory(directory, file)
    try:
        if with_repair:
            count = repair(spool, system_clock())
            complain(f"{counted(count, 'finding was', 'findings were')} repaired.", style="green")
        live = is_owned(spool)
        with progress_bar() as tell:
            findings = check(spool, tell)
    except SpoolLocked:
        hint = "Stop it, run this again, and start it; without --repair, a spool is checked beside its gateway."
        complain(f"A gateway is running in {spool}: a spool in use cannot be repaired.", hint=hint)
        raise SystemExit(Exit.USAGE) from None
    except SpoolError as error:
        text = str(error)
        complain(f"{text[:1].upper()}{text[1:]}.")
        raise SystemExit(Exit.USAGE) from None
    sound = all(finding.severity is Severity.NOTE for finding in findings)
    if as_json:
        click.echo(_as_json(spool, findings, live=live, sound=sound))
    else:
        output().print(describe(spool, findings, live=live))
    if not sound:
        raise SystemExit(Exit.UNSOUND)


def describe(directory: Path, findings: Sequence[Finding], *, live: bool) -> RenderableType:
    """The findings as a table, the worst first, and below it what to do about each kind."""
    headline = plain(f"{directory}  ", "bold").append(*_verdict(findings))
    if live:
        headline.append("  (a gateway is running)", "dim")
    if not findings:
        return headline
    ordered = sorted(findings, key=lambda each: (_WORST_FIRST.index(each.severity), each.kind))
    shown = table("How bad", "What", "Where", "Finding")
    advised = table("What", "What to do")
    for kind, group in groupby(ordered, key=lambda each: each.kind):
        alike = list(group)
        style = _STYLES[alike[0].severity]
        for each in alike[:SHOWN_OF_A_KIND]:
            shown.add_row(plain(each.severity, style), plain(kind, style), plain(each.where), plain(each.text))
        if len(alike) > SHOWN_OF_A_KIND:
            left = plain(f"and {len(alike) - SHOWN_OF_A_KIND:,} more like these", "dim")
            shown.add_row(plain(alike[0].severity, style), plain(kind, style), left, Text())
        advised.add_row(plain(kind, style), plain(alike[0].advice))
    return Group(headline, Text(), shown, Text(), advised)


def _verdict(findings: Sequence[Finding]) -> tuple[str, str]:
    errors = sum(each.severity is Severity.ERROR for each in findings)
    warnings = sum(each.severity is Severity.WARNING for each in findings)
    if errors:
        return f"not sound: {counted(errors, 'error')}", "bold red"
    if warnings:
        return f"needs attention: {counted(warnings, 'warning')}", "bold yellow"
    return "sound", "bold green"


def _as_json(directory: Path, findings: Sequence[Finding], *, live: bool, sound: bool) -> str:
    reports = tuple(
        FindingReport(each.severity.value, each.kind.value, each.where, each.text, each.advice) for each in findings
    )
    return msgspec.json.format(msgspec.json.encode(Report(str(directory), live, sound, reports))).decode()
