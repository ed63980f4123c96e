"""What is configured, and whether it can work here: `callspool check-config` and `callspool doctor`."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from config.destinations import KafkaDestination
from config.destinations.base import EndpointTable
from config.destinations.s3 import S3Destination
from config.destinations.stores import StoreTable
from config.loader import DEFAULT, Loaded, effective_settings
from config.settings import Settings
from config.values import ListenAddress
from gateway.cli import Exit, KeyFile
from gateway.cli.client import NoGateway, Refused, admin_address, ask
from gateway.cli.options import addresses_of, configuration_options, findings_of, loaded_or_exit
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, table
from gateway.cli.status import troubles
from gateway.diagnostics.machine import (
    Finding,
    Health,
    about_address,
    about_clock,
    about_commits,
    about_disk,
    about_limits,
    commit_latency,
)
from gateway.formatting import counted
from gateway.operations.schemas import Status
from gateway.runbooks import Runbook
from spool.directory import is_owned, prepare_directory
from spool.errors import SpoolError

_STYLES = {Health.GOOD: "green", Health.DOUBTFUL: "yellow", Health.BAD: "bold red"}
_WORDS = {Health.GOOD: "good", Health.DOUBTFUL: "look", Health.BAD: "bad"}


@click.command()
@configuration_options
@click.option("--probe", "with_probe", is_flag=True, help="Also post marked test records, and write to buckets.")
@json_option
@admin_address
def doctor(file: Path | None, address: ListenAddress, *, local: bool, with_probe: bool) -> None:
    """Check settings, rights, disk, commits, limits, the clock, each destination, and the gateway if one runs.

    Nothing is changed, and no call log is sent without --probe. Exits with 1 where something is bad.
    """
    loaded = loaded_or_exit(file, local=local)
    findings = [*_settings(loaded), *examine(loaded.settings, asked=with_probe), *_gateway(address)]
    probed = not with_probe or _probe(loaded.settings)
    bad = [each for each in findings if each.health is Health.BAD]
    doubtful = [each for each in findings if each.health is Health.DOUBTFUL]
    if as_json():
        print_json({"good": not bad and probed, "findings": findings})
    else:
        _show(findings)
        _say(bad or doubtful, bad=bool(bad), probed=probed, owned=_is_owned(loaded.settings))
    if bad or not probed:
        raise SystemExit(Exit.FAILED)


def examine(settings: Settings, *, asked: bool = False) -> Iterator[Finding]:
    """The machine and the way to the destinations. Those that only a probe looks at are `asked` by one."""
    directory = settings.spool.dir.absolute()
    yield from _directory(directory, settings.spool.max_bytes)
    yield from about_limits(settings.intake.connections_max, settings.intake.memory_budget)
    dates: list[str] = []
    for each in settings.destinations:
        if isinstance(each, EndpointTable):
            finding, reached = about_address(each.name, each.url or "", each.ca_file)
            dates += [reached.date] if reached and reached.date else []
            yield finding
        elif isinstance(each, S3Destination) and each.endpoint_url:
            yield about_address(each.name, each.endpoint_url)[0]
        elif isinstance(each, S3Destination | KafkaDestination | StoreTable) and not asked:
            hint = "`callspool doctor --probe` asks it."
            yield Finding(each.name, Health.GOOD, f"{each.type}, not asked", hint)
    clock = about_clock(dates, time.time())
    if clock is not None:
        yield clock


def _settings(loaded: Loaded) -> Iterator[Finding]:
    errors, warnings = findings_of(loaded, addresses_of)
    if not errors and not warnings:
        yield Finding(
            "settings",
            Health.GOOD,
            f"valid; delivers to {', '.join(each.name for each in loaded.settings.destinations)}",
        )
    yield from (Finding("settings", Health.DOUBTFUL, each, "`callspool check-config`") for each in warnings)
    yield from (Finding("settings", Health.BAD, each, "`callspool check-config`") for each in errors)


def _directory(directory: Path, quota: int | None) -> Iterator[Finding]:
    """Rights, room and commits; of the directory above where that of the spool is not there yet."""
    try:
        there = _nearest(directory)
    except OSError as error:
        text = f"{directory} cannot be looked into: {error.strerror}"
        yield Finding("spool directory", Health.BAD, text, "Run this as the user of the gateway, or choose another.")
        return
    if there == directory:
        try:
            warning = prepare_directory(directory)
        except SpoolError as error:
            yield Finding("spool directory", Health.BAD, str(error), Runbook.NO_START)
            return
        health = Health.GOOD if warning is None else Health.DOUBTFUL
        yield Finding("spool directory", health, warning or f"{directory} is this user's own")
    elif not os.access(there, os.W_OK | os.X_OK):
        text = f"{directory} is not there, and {there} is not this user's to write to"
        yield Finding("spool directory", Health.BAD, text, "Make it, or choose another (CALLSPOOL_SPOOL_DIR).")
        return
    else:
        yield Finding("spool directory", Health.GOOD, f"{directory} will be made at the first start")
    yield about_disk(there, quota)
    try:
        yield about_commits(*commit_latency(there))
    except OSError as error:
        text = f"nothing can be written to {there}: {error.strerror}"
        yield Finding("commit latency", Health.BAD, text, Runbook.DISK_FULL)


def _nearest(directory: Path) -> Path:
    """The directory, or the one above it that is there. Raises `OSError` where that cannot be looked into."""
    for each in (directory, *directory.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            each.stat()
            return each
    return directory


def _is_owned(settings: Settings) -> bool:
    try:
        return is_owned(settings.spool.dir.absolute())
    except SpoolError:
        return False


def _gateway(address: ListenAddress) -> Iterator[Finding]:
    """The gateway that runs, if one does."""
    try:
        status = msgspec.json.decode(ask(address, "api", "status"), type=Status)
    except (NoGateway, Refused, msgspec.DecodeError) as error:
        yield Finding("gateway", Health.GOOD, f"not asked: {error}")
        return
    if status.phase == "stopped":
        yield Finding("gateway", Health.GOOD, "not running; its spool was looked at")
    elif not status.ready:
        reasons = "; ".join(status.reasons)
        yield Finding("gateway", Health.BAD, f"not ready: {reasons}", status.runbook or Runbook.POSTS_REFUSED)
    found = [each for each in troubles(status) if not each.text.startswith("not ready: ")]
    if not found and status.ready:
        yield Finding("gateway", Health.GOOD, f"{status.version}, ready")
    for each in found:
        yield Finding("gateway", Health.DOUBTFUL, each.text, each.runbook)


def _probe(settings: Settings) -> bool:
    """Whether endpoints, clusters and stores take what they are sent, and buckets work."""
    import asyncio  # noqa: PLC0415  # with --probe alone

    from gateway.cli.probing import probe_all  # noqa: PLC0415  # see above
    from gateway.diagnostics.s3 import check  # noqa: PLC0415  # see above
    from gateway.runtime.options import s3_options  # noqa: PLC0415  # see above

    good = probe_all(settings, token=None, agent_id="callspool-probe")
    for bucket in (each for each in settings.destinations if isinstance(each, S3Destination)):
        good = all(step.ok for step in asyncio.run(check(s3_options(bucket)))) and good
    return good


def _show(findings: list[Finding]) -> None:
    shown = table("", "Checked", "Found")
    for each in findings:
        about = plain(each.found)
        if each.advice:
            about.append(f"\n{each.advice}", "dim")
        shown.add_row(plain(_WORDS[each.health], _STYLES[each.health]), plain(each.what, "bold"), about)
    output().print(shown)


def _say(worst: list[Finding], *, bad: bool, probed: bool, owned: bool) -> None:
    """The verdict, and what to do next."""
    if not probed and not bad:
        output().print()
        output().print(plain("A destination does not take what it is sent: the reason stands above.", "bold red"))
        return
    if worst:
        count = f"{counted(len(worst), 'thing is', 'things are')} {'bad' if bad else 'doubtful'}"
        verdict = f"{count}: begin with {worst[0].what}."
    else:
        verdict = "All is well."
    output().print()
    output().print(plain(verdict, "bold red" if bad else "bold yellow" if worst else "bold green"))
    following = "callspool status" if owned else "callspool run"
    output().print(plain(f"  next: {worst[0].advice or following if worst else following}", "dim"))


# `callspool check-config`: the settings in effect, where each comes from, and whether endpoints answer.


@click.command("check-config")
@configuration_options
@click.option(
    "--probe",
    "with_probe",
    is_flag=True,
    help="Post marked test records to HTTP destinations; ask Kafka about topics, stores about missing rights.",
)
@click.option(
    "--probe-token",
    type=KeyFile(),
    metavar="FILE",
    help="File with a token for the probe (- for stdin), for destinations without a token of their own.",
)
@click.option("--probe-agent-id", default="callspool-probe", show_default=True, help="agent_id of the test records.")
@json_option
def check_config(
    file: Path | None, *, local: bool, with_probe: bool, probe_token: str | None, probe_agent_id: str
) -> None:
    """Show the settings in effect and where each comes from. Secrets are masked."""
    loaded = loaded_or_exit(file, local=local)
    _show_settings(loaded)
    errors, warnings = findings_of(loaded, addresses_of)
    for warning in warnings:
        complain(f"warning: {warning}", style="yellow")
    for error in errors:
        complain(f"error: {error}")
    if errors:
        raise SystemExit(Exit.FAILED)
    if with_probe:
        from gateway.cli.probing import probe_all  # noqa: PLC0415  # without --probe no uploader is loaded

        if not probe_all(loaded.settings, token=probe_token, agent_id=probe_agent_id):
            raise SystemExit(Exit.FAILED)


def _show_settings(loaded: Loaded) -> None:
    if as_json():
        settings = [
            {"setting": each.key, "value": each.value, "from": each.origin} for each in effective_settings(loaded)
        ]
        print_json({"settings": settings})
        return
    shown = table("Setting", "Value", "From")
    for each in effective_settings(loaded):
        given = each.origin != DEFAULT
        shown.add_row(
            plain(each.key), plain(each.value, "bold" if given else ""), plain(each.origin, "" if given else "dim")
        )
    output().print(shown)
