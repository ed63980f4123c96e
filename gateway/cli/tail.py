"""`callspool tail`: a line for each thing that happens to a call, as it happens."""

import time
from collections.abc import Iterator
from datetime import datetime

import click
import msgspec
from rich.text import Text

from config.values import ListenAddress
from gateway.cli.client import admin_option, ask, asks_stopped_spool, explained
from gateway.cli.output import as_json, json_option, output, plain, print_json
from gateway.formatting import age_text, bytes_text
from gateway.trace import NewestTraces, NumberedTrace, Stage

_AT_ONCE = 200
"""Records that are followed: what is older and still open is in `callspool deliveries list`."""
_STYLES = {"delivered": "green", "dead": "bold red", "held": "yellow", "given up": "red"}
_decode = msgspec.json.Decoder(NewestTraces).decode


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
    help="How many of the newest calls to begin with.",
)
@click.option("--no-follow", is_flag=True, help="Print those and end.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@json_option
@admin_option
def tail(address: ListenAddress, *, last: int, no_follow: bool, interval: float) -> None:  # fmt: skip
    """Follow calls until Ctrl-C: when each was accepted, and after how many ms its core and its detail had arrived.

    What happened between two looks is printed in the order of acceptance. With --json, a line for each thing.
    """
    following = Following()
    with explained():
        try:
            newest = _decode(ask(address, "api", "traces", query={"limit": str(max(1, last))})).records
            following.skip(newest if last == 0 else ())
            _print(following.see(newest if last else ()))
            while not (no_follow or asks_stopped_spool()):
                time.sleep(interval)
                query = {"after": str(following.after), "limit": str(_AT_ONCE)}
                _print(following.see(_decode(ask(address, "api", "traces", query=query)).records))
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
            output().print(line(each))


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
