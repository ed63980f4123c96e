"""A running gateway, watched: `callspool top`, rates and backlog; `drain`, until all is sent; `tail`, call by call."""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from config.values import ListenAddress
from gateway.cli import Exit, FiniteRange
from gateway.cli.client import NoGateway, Span, admin_option, ask, asks_stopped_spool, explained
from gateway.cli.output import as_json, complain, json_option, output, plain, print_json, progress_bar, result, table
from gateway.cli.status import troubles
from gateway.formatting import age_text, bytes_text, count_text, counted
from gateway.operations.schemas import Status
from gateway.trace_schemas import NewestTraces, NumberedTrace, Stage

WINDOW_SECONDS = 60.0
"""Over which rates are averaged, or over two looks that are further apart."""
LOOK_SECONDS = 1.0
_NUMBERS = ("Backlog", "Size", "Sent /s", "Bytes /s", "Drained in", "Dead")
_decode = msgspec.json.Decoder(Status).decode


@dataclass(frozen=True, slots=True)
class Sample:
    """The status at a moment of a monotonic clock."""

    at: float
    status: Status


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """How one lane of a destination does. Rates are per second, over the last minute."""

    destination: str
    lane: str
    up: bool
    queued: int
    queued_bytes: int
    delivered_per_second: float | None
    bytes_per_second: float | None
    """By which the backlog shrinks; negative while it grows."""
    drained_in_seconds: float | None
    """At this rate; None while it does not shrink."""
    dead: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What `top` shows, for programs."""

    ready: bool
    reasons: tuple[str, ...]
    attention: tuple[str, ...]
    used_bytes: int | None
    limit_bytes: int | None
    full_in_seconds: float | None
    """When the spool is full, if it goes on to grow like this."""
    lanes: tuple[Rate, ...]


def overview(first: Sample, last: Sample) -> Overview:
    """The rates between two samples. Pure."""
    seconds, status = last.at - first.at, last.status
    before = {(each.name, lane.lane): lane for each in first.status.destinations for lane in each.lanes}
    rates = []
    for each in status.destinations:
        for lane in each.lanes:
            old = before.get((each.name, lane.lane), lane)
            known = seconds > 0
            shrinks = (old.queued_bytes - lane.queued_bytes) / seconds if known else None
            fewer = (old.queued - lane.queued) / seconds if known else 0.0
            in_bytes = lane.queued_bytes / shrinks if shrinks and shrinks > 0 else None
            in_count = lane.queued / fewer if fewer > 0 else None
            rates.append(
                Rate(
                    destination=each.name,
                    lane=lane.lane,
                    up=each.up,
                    queued=lane.queued,
                    queued_bytes=lane.queued_bytes,
                    dead=lane.dead,
                    bytes_per_second=shrinks,
                    delivered_per_second=(lane.delivered - old.delivered) / seconds if known else None,
                    drained_in_seconds=0.0 if not lane.queued else in_bytes or in_count,
                )
            )
    spool, earlier = status.spool, first.status.spool
    grows = (spool.used_bytes - earlier.used_bytes) / seconds if spool and earlier and seconds > 0 else 0.0
    return Overview(
        ready=status.ready,
        reasons=status.reasons,
        attention=tuple(each.text for each in troubles(status)),
        used_bytes=spool.used_bytes if spool else None,
        limit_bytes=spool.limit_bytes if spool else None,
        full_in_seconds=(spool.limit_bytes - spool.used_bytes) / grows if spool and grows > 1000 else None,
        lanes=tuple(rates),
    )


@click.command()
@click.option(
    "--interval",
    type=FiniteRange(0.2, 3600),
    default=LOOK_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="COUNT", help="Stop after this many looks.")
@json_option
@admin_option
def top(address: ListenAddress, *, interval: float, count: int | None) -> None:  # fmt: skip
    """Watch a gateway until Ctrl-C: is it accepting, does it keep up, when is the backlog drained, when is it full.

    With --json, one object per look. Without a terminal, one overview after two looks.
    """
    samples: list[Sample] = []
    console = output()
    looks = count or (0 if console.is_terminal or as_json() else 2)
    screen = console.is_terminal and not as_json()
    # Live leaves the last line open where there is no terminal.
    shown = Live(console=console, screen=True, auto_refresh=False) if screen else nullcontext()
    with explained(), shown as live:
        try:
            while True:
                samples.append(Sample(time.monotonic(), _decode(ask(address, "api", "status"))))
                while len(samples) > 2 and samples[-1].at - samples[0].at > WINDOW_SECONDS:
                    samples.pop(0)
                found = overview(samples[0], samples[-1])
                if as_json():
                    print_json(found)
                elif live is not None:
                    live.update(_page(found), refresh=True)
                elif looks <= 1 or asks_stopped_spool():
                    console.print(_page(found))
                looks -= 1
                if looks == 0 or asks_stopped_spool():
                    return
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _page(found: Overview) -> RenderableType:
    """For 80 columns."""
    lines: list[RenderableType] = [_verdict(found)]
    if found.used_bytes is not None and found.limit_bytes is not None:
        full = f", full in {age_text(found.full_in_seconds)}" if found.full_in_seconds is not None else ""
        lines.append(plain(f"spool {bytes_text(found.used_bytes)} of {bytes_text(found.limit_bytes)}{full}"))
    lines += [plain(f"! {each}", "yellow") for each in found.attention]
    shown = table("Destination", "Lane", *_NUMBERS, numbers=_NUMBERS)
    for each in found.lanes:
        style = "" if each.up else "red"
        shown.add_row(
            plain(each.destination, style), plain(each.lane), plain(count_text(each.queued)),
            plain(bytes_text(each.queued_bytes)), plain(_number(each.delivered_per_second)),
            plain(_rate(each.bytes_per_second)), _drained(each),
            plain(count_text(each.dead), "bold red" if each.dead else ""),
        )  # fmt: skip
    return Group(*lines, Text(), shown)


def _verdict(found: Overview) -> Text:
    if not found.ready:
        return plain(f"not accepting: {'; '.join(found.reasons)}", "bold red")
    if any(each.delivered_per_second is None for each in found.lanes):
        return plain("accepting", "bold green")
    behind = [each for each in found.lanes if each.queued and each.drained_in_seconds is None]
    if behind:
        names = ", ".join(dict.fromkeys(each.destination for each in behind))
        return plain("accepting", "bold green").append(f", not keeping up: {names}", "bold yellow")
    return plain("accepting and keeping up", "bold green")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{'+' if value < 0 else ''}{bytes_text(round(abs(value)))}"


def _drained(each: Rate) -> Text:
    if not each.queued:
        return plain("empty", "green")
    if each.delivered_per_second is None:
        return plain("-")
    return plain(age_text(each.drained_in_seconds)) if each.drained_in_seconds is not None else plain("never", "yellow")


# `callspool drain`: for scripts that stop a gateway, and for jobs that empty a volume.


@click.command()
@click.option(
    "--until-empty", is_flag=True, default=True, help="Has no effect: draining always waits until nothing is queued."
)
@click.option(
    "--timeout",
    type=Span(),
    default=600.0,
    show_default="10m",
    metavar="DURATION",
    help="The longest wait, such as 90s or 2h.",
)
@click.option("--destination", metavar="NAME", help="Wait only for this destination.")
@json_option
@admin_option
def drain(address: ListenAddress, *, until_empty: bool, timeout: float, destination: str | None) -> None:  # noqa: ARG001  # fmt: skip
    """Wait until a running gateway has delivered everything that is queued, and show the progress.

    Exits with 1 at the timeout, and says what is left. It does not wait for dead letters, but counts them.
    """
    deadline = time.monotonic() + timeout
    most = 0
    with explained(), progress_bar() as tell:
        while True:
            status = _decode(ask(address, "api", "status"))
            if status.phase == "stopped":
                raise NoGateway("No gateway runs: nothing is being delivered")
            chosen = [each for each in status.destinations if destination in (None, each.name)]
            if destination is not None and not chosen:
                complain(f"There is no destination {destination}.")
                raise SystemExit(Exit.USAGE)
            lanes = [lane for each in chosen for lane in each.lanes]
            queued, size = sum(lane.queued for lane in lanes), sum(lane.queued_bytes for lane in lanes)
            most = max(most, queued)
            tell("delivered", most - queued, most)
            if not queued or time.monotonic() >= deadline:
                break
            time.sleep(min(LOOK_SECONDS, max(0.05, deadline - time.monotonic())))
    dead = sum(lane.dead for lane in lanes)
    if dead:
        complain(
            f"{counted(dead, 'dead letter stays', 'dead letters stay')}.",
            hint="`callspool dead list` says why.",
            style="yellow",
        )
    if queued:
        complain(f"Left after {age_text(timeout)}: {counted(queued, 'delivery', 'deliveries')} ({bytes_text(size)}).")
        raise SystemExit(Exit.FAILED)
    result({"queued": 0, "dead": dead}, "Nothing is queued.")


# `callspool tail`: a line for each thing that happens to a call, as it happens.

_AT_ONCE = 200
"""Records that are followed: what is older and still open is in `callspool deliveries list`."""
_STYLES = {"delivered": "green", "dead": "bold red", "held": "yellow", "given up": "red"}
_decode_tail = msgspec.json.Decoder(NewestTraces).decode


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a call."""

    at: str
    call_id: str
    event: str
    what: str
    """`accepted`, `core sent`, `detail sent`, `delivered`, `held`, `dead` or `given up`."""
    milliseconds: int | None
    """Since it was accepted."""
    bytes: int
    where: str


@click.command()
@click.option(
    "-n",
    "--lines",
    "last",
    type=click.IntRange(0, _AT_ONCE),
    default=10,
    show_default=True,
    help="How many of the newest calls to show first.",
)
@click.option("--no-follow", is_flag=True, help="Print those, then exit.")
@click.option(
    "--interval",
    type=FiniteRange(0.1, 3600),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@json_option
@admin_option
def tail(address: ListenAddress, *, last: int, no_follow: bool, interval: float) -> None:  # fmt: skip
    """Follow calls until Ctrl-C: when each was accepted, and how many ms later its core and its detail were delivered.

    Events between two looks are printed in the order of acceptance. With --json, one object per event.
    """
    following = Following()
    with explained():
        try:
            newest = _decode_tail(ask(address, "api", "traces", query={"limit": str(max(1, last))})).records
            following.skip(newest if last == 0 else ())
            _print(following.see(newest if last else ()))
            while not (no_follow or asks_stopped_spool()):
                time.sleep(interval)
                query = {"after": str(following.after), "limit": str(_AT_ONCE)}
                _print(following.see(_decode_tail(ask(address, "api", "traces", query=query)).records))
        except KeyboardInterrupt:
            return


class Following:
    """What was told of which record. Pure, but for what it remembers."""

    def __init__(self) -> None:
        self._told: dict[int, set[str]] = {}
        self._newest = 0

    @property
    def after(self) -> int:
        """The number behind which records are looked at again: before the oldest that is still open."""
        return min(self._told, default=self._newest + 1) - 1

    def skip(self, records: tuple[NumberedTrace, ...]) -> None:
        """These are known already."""
        self._newest = max([self._newest, *(each.number for each in records)])

    def see(self, records: tuple[NumberedTrace, ...]) -> Iterator[Happening]:
        """What happened since these were seen last."""
        for each in records:
            if each.number <= self._newest and each.number not in self._told:
                continue
            told = self._told.setdefault(each.number, set())
            for happening in happenings(each):
                if happening.what not in told:
                    told.add(happening.what)
                    yield happening
            if each.record.stage in {Stage.DELIVERED, Stage.SUPERSEDED, Stage.GIVEN_UP, Stage.DEAD}:
                del self._told[each.number]
        self.skip(records)
        for number in sorted(self._told)[:-_AT_ONCE]:
            del self._told[number]


def happenings(one: NumberedTrace) -> Iterator[Happening]:
    """What happened to a record so far, in order."""
    record = one.record

    def told(what: str, at: str | None) -> Happening:
        took = None if at is None or at == record.accepted_at else round(1000 * _seconds(record.accepted_at, at))
        return Happening(
            at=at or record.accepted_at, call_id=one.call_id, event=record.event, what=what, milliseconds=took,
            bytes=record.raw_bytes, where=record.where,
        )  # fmt: skip

    yield told("accepted", record.accepted_at)
    if record.upload_method == "two_phase":
        if record.core_sent_at is not None:
            yield told("core sent", record.core_sent_at)
        if record.detail_sent_at is not None:
            yield told("detail sent", record.detail_sent_at)
    elif record.stage is Stage.DELIVERED:
        yield told("delivered", record.core_sent_at or record.detail_sent_at)
    if record.stage in {Stage.HELD, Stage.DEAD, Stage.GIVEN_UP, Stage.SUPERSEDED}:
        yield told(record.stage.value.replace("_", " "), None)


def _seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _print(found: Iterator[Happening]) -> None:
    for each in found:
        if as_json():
            print_json(each)
        else:
            output().print(line(each), soft_wrap=True)


def line(one: Happening) -> Text:
    """`03:45:01.120  call-1  core sent   after 12 ms`."""
    shown = plain(f"{one.at[11:23]}  ", "dim").append_text(plain(one.call_id, "bold")).append("  ", "not bold")
    shown.append(one.what, f"{_STYLES.get(one.what, '')} not dim".strip())
    if one.what == "accepted":
        return shown.append_text(plain(f"  {one.event}, {bytes_text(one.bytes)}", "not bold"))
    if one.milliseconds is None:
        return shown.append_text(plain(f"  {one.where}", "not bold"))
    took = f"{one.milliseconds:,} ms" if one.milliseconds < 10_000 else age_text(one.milliseconds / 1000)
    return shown.append_text(plain(f"  after {took}", "not bold"))
