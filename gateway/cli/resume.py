"""`callspool resume DESTINATION`: try a destination at once, and say what came of it."""

import time

import click
import msgspec
from rich.text import Text

from config.addresses import ListenAddress
from gateway.admin.resuming import Resumed
from gateway.admin.status import DestinationReport, Status
from gateway.cli.admin_client import admin_option, ask, tell
from gateway.cli.asking import explained
from gateway.cli.exits import Exit
from gateway.cli.output import complain, output, plain
from gateway.humane import count_text

LOOK_SECONDS = 0.2
"""How often the destination is looked at while it is tried."""

_decode = msgspec.json.Decoder(Resumed).decode
_decode_status = msgspec.json.Decoder(Status).decode


@click.command(short_help="Try a destination that is down, at once.")
@click.argument("destination")
@admin_option
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds to wait for what comes of it.",
)
def resume(destination: str, address: ListenAddress, *, wait: float) -> None:
    """End the wait of a destination that is down or refuses a token: one delivery is sent now.

    Its success closes the circuit breaker and wakes everything that waits.
    """
    with explained():
        resumed = _decode(tell(address, b"{}", "api", "destinations", destination, "resume"))
        if not resumed.waited:
            output().print(plain(f"{destination} waits for nothing: it takes deliveries.", "green"))
            return
        report = _tried(address, destination, wait)
        output().print(_told(report))
        if report.refused_tokens or (not report.up and any(lane.queued for lane in report.lanes)):
            hint = "`callspool status` shows when it is tried again, and why it is down."
            complain("Nothing is lost: what is owed to it stays in the spool.", hint=hint, style="yellow")
            raise SystemExit(Exit.FAILED)


def _tried(address: ListenAddress, destination: str, wait: float) -> DestinationReport:
    """How it does once it was tried, or when the wait is over."""
    deadline = time.monotonic() + wait
    while True:
        status = _decode_status(ask(address, "api", "status"))
        report = next(each for each in status.destinations if each.name == destination)
        # Times in ISO 8601 compare like texts: a next try that lies ahead was set after this one failed.
        failed = report.breaker == "open" and report.retry_at is not None and report.retry_at > status.now
        if failed or (report.up and not report.refused_tokens) or time.monotonic() >= deadline:
            return report
        time.sleep(LOOK_SECONDS)


def _told(report: DestinationReport) -> Text:
    """In a line."""
    queued = sum(lane.queued for lane in report.lanes)
    if not report.up and not queued:
        return plain(f"{report.name} was down, and nothing is queued for it: the next delivery tries it.", "yellow")
    if not report.up:
        return plain(f"{report.name} is still down: {report.reason}", "red")
    if report.refused_tokens:
        return plain(f"{report.name} still refuses tokens: {count_text(report.refused_tokens)}", "red")
    return plain(f"{report.name} takes deliveries again; queued: {count_text(queued)}", "green")
