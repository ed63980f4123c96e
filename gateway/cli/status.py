"""How a running gateway is, and what is told to it: `callspool status`, `health`, `resume` and `reload`."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from config.values import ListenAddress
from gateway.cli import Exit, FiniteRange
from gateway.cli.client import NoGateway, Refused, Span, admin_option, ask, asks_stopped_spool, explained, tell
from gateway.cli.output import Responsive, complain, json_option, output, plain, print_json, result, table
from gateway.cli.output import as_json as json_wanted
from gateway.formatting import age_text, bytes_text, count_text, counted
from gateway.operations.schemas import (
    DestinationReport,
    DrainThrottleReport,
    LaneStatus,
    OutboxReport,
    Reloaded,
    Resumed,
    SpoolReport,
    Status,
)
from gateway.runbooks import Runbook

_decode = msgspec.json.Decoder(Status).decode

_OUTBOX_STYLES = {"missing": "dim", "waiting": "yellow", "unusable": "bold red"}
_NUMBERS = ("Backlog", "Size", "Oldest", "In flight", "Held", "Dead", "Delivered")


@click.command()
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the admin API unchanged; errors as JSON.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--interval",
    type=FiniteRange(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two refreshes with --watch.",
)
@click.option("--check", is_flag=True, help="Print a line for each thing that needs attention, for scripts.")
def status(address: ListenAddress, *, as_json: bool, watch: bool, interval: float, check: bool) -> None:
    """Show backlog, destinations and spool of a running gateway.

    Exits with 1 while posts cannot be accepted; with --check also with 5 where something needs attention.
    """
    if as_json + watch + check > 1:
        raise click.UsageError("--json, --watch and --check cannot be combined.")
    with explained():
        if watch:
            _watch(address, interval)
            return
        answer = ask(address, "api", "status")
        found = _decode(answer)
        found_troubles = tuple(troubles(found)) if check else ()
        if as_json:
            click.echo(answer.decode())
        elif check:
            for line in found_troubles:
                output().print(plain(line), soft_wrap=True)
            if not found_troubles:
                output().print(plain("ok", "green"))
        else:
            output().print(describe(found))
    if not found.ready:
        raise SystemExit(Exit.FAILED)
    if found_troubles:
        raise SystemExit(Exit.UNSOUND)


class Trouble(NamedTuple):
    """Something that somebody should look at."""

    text: str
    runbook: str

    def __str__(self) -> str:
        return f"{self.text}  ({self.runbook})"


def troubles(status: Status) -> Iterator[Trouble]:
    """What somebody should look at; nothing where all is well."""
    if not status.ready:
        yield Trouble(f"not ready: {'; '.join(status.reasons)}", status.runbook or Runbook.POSTS_REFUSED)
    elif status.spool is not None and status.spool.full_of_details:
        yield Trouble("large call logs are refused: the spool is full", Runbook.SPOOL_FULL)
    for note in status.attention:
        yield Trouble(note, Runbook.QUARANTINE)
    if status.spool is not None and status.spool.unaccounted:
        text = counted(status.spool.unaccounted, "delivery is unaccounted for", "deliveries are unaccounted for")
        yield Trouble(text, Runbook.UNACCOUNTED)
    for each in status.destinations:
        queued = sum(lane.queued for lane in each.lanes)
        if not each.configured and queued:
            text = f"{each.name}: not configured, {counted(queued, 'delivery is held', 'deliveries are held')}"
            yield Trouble(text, Runbook.NOT_CONFIGURED)
        elif not each.up and each.configured:
            yield Trouble(f"{each.name}: down: {each.reason}", Runbook.DESTINATION_DOWN)
        if each.refused_tokens:
            yield Trouble(f"{each.name}: refuses {counted(each.refused_tokens, 'token')}", Runbook.TOKENS_REFUSED)
        if each.dead:
            yield Trouble(f"{each.name}: {counted(each.dead, 'dead letter')}", Runbook.DEAD_LETTERS)
    for outbox in status.outboxes:
        if outbox.state == "unusable":
            yield Trouble(f"outbox {outbox.path}: {outbox.reason}", Runbook.OUTBOX)


def describe(status: Status) -> RenderableType:
    """The status as a page of text."""
    lines: list[RenderableType] = [_headline(status), _spool_line(status.spool, ready=status.ready)]
    if status.drain_throttle is not None and status.drain_throttle.live_calls:
        lines.append(_calls_line(status.drain_throttle))
    lines += [plain(note, "bold yellow") for note in status.attention]
    lines += [Text(), _destinations(status)]
    lines += [_outbox_line(outbox) for outbox in status.outboxes]
    lines += _dead_letters(status)
    if status.events:
        lines += [Text(), plain("Recent events", "bold")]
        styles = {"warning": "yellow", "error": "red"}
        lines += [plain(f"{event.at}  {event.text}", styles.get(event.level, "")) for event in status.events[:5]]
    return Group(*lines)


def _dead_letters(status: Status) -> list[Text]:
    """Why there are dead letters, and what to do: two lines for each kind of reason."""
    lines: list[Text] = []
    for destination in status.destinations:
        for one in destination.dead_reasons:
            line = plain(f"{count_text(one.count)} {one.kind} ", "bold red").append(f"for {destination.name}: ", "bold")
            lines += [line.append_text(plain(one.example)), plain(f"  {one.advice}", "green")]
    return [Text(), plain("Dead letters", "bold"), *lines] if lines else []


def _watch(address: ListenAddress, interval: float) -> None:
    console: Console = output()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                live.update(describe(_decode(ask(address, "api", "status"))), refresh=True)
                if asks_stopped_spool():
                    return
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _headline(status: Status) -> Text:
    word, style = ("ready", "bold green") if status.ready else (f"not ready ({status.phase})", "bold red")
    headline = plain(f"callspool {status.version}  ").append(word, style)
    if status.reasons:
        headline.append_text(plain(f"  {'; '.join(status.reasons)}", "red"))
    return headline


def _spool_line(spool: SpoolReport | None, *, ready: bool) -> Text:
    if spool is None:
        return plain("spool: not open")
    share = 100 * spool.used_bytes / max(1, spool.limit_bytes)
    style = "red" if share >= 95 else "yellow" if share >= 80 else ""
    line = plain(f"spool: {bytes_text(spool.used_bytes)} of {bytes_text(spool.limit_bytes)} ({share:.1f} %)", style)
    if spool.full_of_details and ready:  # else the headline says that all are refused
        line.append("  large call logs are refused: what is left is kept for cores", "bold yellow")
    if spool.unaccounted:
        held = counted(spool.unaccounted, "delivery is unaccounted for", "deliveries are unaccounted for")
        line.append(f"  {held}", "bold red")
    return line


def _outbox_line(outbox: OutboxReport) -> Text:
    """What was rescued from an outbox of the SDK, and why no more is."""
    line = plain(f"outbox {outbox.path}: ").append(outbox.state, _OUTBOX_STYLES.get(outbox.state, "green"))
    line.append(
        f"  {count_text(outbox.rescued)} rescued, {count_text(outbox.duplicate + outbox.superseded)} known already"
    )
    if outbox.refused:
        line.append(f", {count_text(outbox.refused)} refused", "bold red")
    line.append(f"; {count_text(outbox.rows)} in it" if outbox.rows else "")
    return line.append_text(plain(f"  {outbox.reason}", "red")) if outbox.reason else line


def _calls_line(throttle: DrainThrottleReport) -> Text:
    """How many calls are live, and what details leave them."""
    line = plain(f"live calls: {count_text(throttle.live_calls)}")
    if throttle.throttled:
        rate = throttle.bytes_per_second
        slowly = "a few at once" if rate is None else f"at {bytes_text(round(rate))} a second at most"
        line.append(f"  details go {slowly} until they end", "yellow")
    return line


def _destinations(status: Status) -> RenderableType:
    if not status.destinations:
        return plain("no destinations")
    shown = table("Destination", "State", "Lane", *_NUMBERS, numbers=_NUMBERS)
    for destination in status.destinations:
        for index, lane in enumerate(destination.lanes):
            first = (
                (plain(destination.name, "bold"), _state(destination, status.now)) if index == 0 else (Text(), Text())
            )
            shown.add_row(*first, plain(lane.lane), *_figures(lane))
    return Responsive(shown, Group(*_narrow(status)))


def _narrow(status: Status) -> Iterator[RenderableType]:
    """For 80 columns: each destination in a line of its own, and its lanes below it."""
    for index, destination in enumerate(status.destinations):
        yield plain(f"{destination.name}  ", "bold").append_text(_state(destination, status.now))
        lanes = table("  Lane", *_NUMBERS, numbers=_NUMBERS)
        lanes.show_header = index == 0
        for column, width in zip(lanes.columns, (8, 7, 7, 9, 9, 4, 4, 9), strict=True):
            column.min_width = width
        for lane in destination.lanes:
            lanes.add_row(plain(f"  {lane.lane}"), *_figures(lane))
        yield lanes


def _state(destination: DestinationReport, now: str) -> Text:
    """Whether it is up; if not, since when, why, and when it is retried."""
    if not destination.configured:
        return plain("not configured", "yellow")
    if not destination.up:
        since = f" for {_span(destination.since, now)}" if destination.since else ""
        again = f"; next try in {_span(now, destination.retry_at)}" if destination.retry_at else ""
        again = "; trying now" if destination.breaker == "half_open" else again
        return plain(f"down{since}: {destination.reason}{again}", "red")
    if destination.refused_tokens:
        return plain("up", "green").append(f", tokens refused: {count_text(destination.refused_tokens)}", "yellow")
    return plain("up", "green")


def _span(earlier: str, later: str) -> str:
    """The time between two instants in ISO 8601, never less than none."""
    seconds = (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    return age_text(max(0.0, seconds))


def _figures(lane: LaneStatus) -> tuple[Text, ...]:
    return (
        plain(count_text(lane.queued)),
        plain(bytes_text(lane.queued_bytes)),
        plain(age_text(lane.oldest_seconds)),
        plain(count_text(lane.in_flight) + (f" / {count_text(lane.concurrency)}" if lane.concurrency else "")),
        plain(count_text(lane.held), "yellow" if lane.held else ""),
        plain(count_text(lane.dead), "bold red" if lane.dead else ""),
        plain(count_text(lane.delivered)),
    )


# `callspool resume DESTINATION`: retry a destination now, and report the result.

LOOK_SECONDS = 0.2
"""How often the destination is polled while it is retried."""

_decode_resumed = msgspec.json.Decoder(Resumed).decode


@click.command()
@click.argument("destination")
@admin_option
@click.option(
    "--wait",
    type=FiniteRange(min=0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the result.",
)
@json_option
def resume(destination: str, address: ListenAddress, *, wait: float) -> None:
    """Retry a destination that is down or refuses a token: send one delivery now.

    If that succeeds, the circuit breaker closes and all waiting deliveries are sent.
    """
    with explained():
        resumed = _decode_resumed(tell(address, b"{}", "api", "destinations", destination, "resume"))
        if not resumed.waited:
            result(resumed, f"{destination} is up: nothing to resume.")
            return
        report = _tried(address, destination, wait)
        if json_wanted():
            print_json(report)
        else:
            output().print(_result(report))
        if report.refused_tokens or (not report.up and any(lane.queued for lane in report.lanes)):
            hint = "`callspool status` shows the reason and the time of the next attempt."
            complain("Nothing is lost: its deliveries stay in the spool.", hint=hint, style="yellow")
            raise SystemExit(Exit.FAILED)


def _tried(address: ListenAddress, destination: str, wait: float) -> DestinationReport:
    """Its state once it was retried, or when the wait is over."""
    deadline = time.monotonic() + wait
    while True:
        status = _decode(ask(address, "api", "status"))
        report = next((each for each in status.destinations if each.name == destination), None)
        if report is None:  # a reload took it away
            raise Refused("unknown_destination", f"There is no destination {destination} any more.", "")
        # Times in ISO 8601 compare like texts: a next try that lies ahead was set after this one failed.
        failed = report.breaker == "open" and report.retry_at is not None and report.retry_at > status.now
        if failed or (report.up and not report.refused_tokens) or time.monotonic() >= deadline:
            return report
        time.sleep(LOOK_SECONDS)


def _result(report: DestinationReport) -> Text:
    """In a line."""
    queued = sum(lane.queued for lane in report.lanes)
    if not report.up and not queued:
        return plain(f"{report.name} was down, and nothing is queued: the next delivery is an attempt.", "yellow")
    if not report.up:
        return plain(f"{report.name} is still down: {report.reason}", "red")
    if report.refused_tokens:
        return plain(f"{report.name} still refuses tokens: {count_text(report.refused_tokens)}", "red")
    up = plain(f"{report.name} is up again; queued: {count_text(queued)}", "green")
    return up.append(f"; dead letters: {count_text(report.dead)}", "red") if report.dead else up


# `callspool health`: whether a gateway lives or is ready, for the probes of containers and scripts.


@click.command()
@click.option("--ready", is_flag=True, help="Ask whether posts can be accepted, not only whether the process lives.")
@click.option(
    "--wait", type=Span(), default=0.0, metavar="DURATION", help="Keep asking for at most this long, such as 30s."
)
@json_option
@admin_option
def health(address: ListenAddress, *, ready: bool, wait: float) -> None:
    """Ask the admin listener for /healthz, or with --ready for /readyz.

    Exits with 0 if it answers well, with 1 if it is not ready, with 3 if nothing answers. It finds the listener as all
    commands do, over TLS or a Unix socket too, so that a probe needs no address.
    """
    deadline = time.monotonic() + wait
    with explained():
        while True:
            try:
                ask(address, "healthz")
                status = _decode(ask(address, "api", "status")) if ready else None
                if status is None or status.ready or time.monotonic() >= deadline:
                    break
            except NoGateway:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_WAIT_STEP_SECONDS)
    if status is not None and not status.ready:
        complain(f"not ready: {'; '.join(status.reasons)}")
        raise SystemExit(Exit.FAILED)
    word = "ready" if ready else "ok"
    result({"status": word}, word)


_WAIT_STEP_SECONDS = 0.1


# `callspool reload`: a running gateway reads its settings again.


@click.command(short_help="Apply changed settings to a running gateway.")
@json_option
@admin_option
def reload(address: ListenAddress) -> None:
    """Make the running gateway read its file, its environment and the files of its secrets again.

    The settings are checked first, and applied all or not at all. It names those that need a restart.
    """
    with explained():
        reloaded = msgspec.json.decode(tell(address, b"{}", "api", "reload"), type=Reloaded)
    for problem in reloaded.problems:
        complain(problem)
    for name in reloaded.needs_restart:
        complain(f"{name} changed, which only a restart applies.", style="yellow")
    if not reloaded.applied:
        complain("Nothing was applied; the gateway keeps the settings that it has.", style="")
        raise SystemExit(Exit.FAILED)
    result(reloaded, "The settings are valid and are being applied.")
