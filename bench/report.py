"""The tables that a person reads, and the JSON document that holds everything."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.drain_s3 import DrainComparison
from bench.environment import Environment
from bench.figures import DeliveryComparison, Figure, IntakeComparison, IntakeFigures
from bench.memory import Memory

_MEBIBYTE = 2**20


def print_environment(console: Console, environment: Environment) -> None:
    """One line that says where the figures come from."""
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items())
    console.print(
        f"Python {environment.python} ({environment.event_loop}) on {environment.processors} processors, "
        f"spool on {environment.file_system} (fsync {number(environment.fsync_ms)} ms); {packages}; "
        f"commit {environment.commit}",
        style="dim",
        highlight=False,
    )


def print_intake(console: Console, comparisons: Sequence[IntakeComparison]) -> None:
    """Durable posts beside posts that a bare handler reads and forgets, and beside the work itself in one thread."""
    table = _table("Acknowledged posts (callspool: each one on disk)", "call log", "server")
    for heading in ("posts/s", "MB/s", "ack p50", "p99 ms", "MiB", "anon.", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in comparisons:
        table.add_row(one.size, "callspool", *_cells(one.callspool), _percent(one.ratio))
        table.add_row("", "bare", *_cells(one.bare), "", style="dim")
        table.add_row("", "work", *_cells(one.work), "", style="dim", end_section=True)
    console.print(table)
    for one in comparisons:
        refused = one.callspool.refused + one.bare.refused
        if refused:
            console.print(f"{one.size}: {refused} posts were refused; see the statuses in the JSON", style="red")


def print_delivery(console: Console, delivery: DeliveryComparison) -> None:
    """How soon a call is known at the endpoint while a backlog drains, and how fast it drains."""
    table = _table("While a backlog of 15 MB call logs drains to the endpoint", "call log")
    for heading in ("posts", "ack p50", "p99 ms", "at endpoint p50", "p99 ms", "direct p50", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for core in delivery.cores:
        durations = (core.ack_p50, core.ack_p99, core.callspool_p50, core.callspool_p99)
        straight = (core.direct_p50, core.direct_p99)
        table.add_row(core.size, str(core.posts), *map(number, durations), *map(number, straight))
    console.print(table)
    resident, anonymous = memory(delivery.peak)
    console.print(
        f"Drained {with_spread(delivery.callspool_megabytes_per_second)} MB/s of raw details, "
        f"{_percent(delivery.ratio)} of a sender that has everything encoded beforehand "
        f"({with_spread(delivery.direct_megabytes_per_second)} MB/s); memory {resident} MiB, {anonymous} anonymous",
        highlight=False,
    )
    if delivery.missing:
        console.print(f"{delivery.missing} acknowledged posts did not arrive", style="bold red")


def print_buckets(console: Console, comparisons: Sequence[DrainComparison]) -> None:
    """Draining to a bucket beside the S3 library's own upload of the same stored bytes."""
    table = _table("Drained to a bucket, MB/s of stored bytes", "call log")
    for heading in ("callspool", "upload_fileobj", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in comparisons:
        table.add_row(one.size, with_spread(one.callspool), with_spread(one.upload_fileobj), _percent(one.ratio))
    console.print(table)


def save(path: Path, content: dict[str, object]) -> None:
    """Write the document; dataclasses become objects, figures that are not known become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def number(value: float) -> str:
    """A figure with three digits that mean something; a dash where it is not known."""
    if math.isnan(value):
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_spread(figure: Figure) -> str:
    """The median, and by how many percent of it the rounds lay apart from their middle."""
    if figure.low == figure.high or math.isnan(figure.median) or not figure.median:
        return number(figure.median)
    return f"{number(figure.median)} [dim]±{(figure.high - figure.low) / 2 / figure.median:.0%}[/dim]"


def memory(value: Memory) -> tuple[str, str]:
    """Resident and anonymous memory in MiB."""
    anonymous = math.nan if value.anonymous is None else value.anonymous / _MEBIBYTE
    return number(value.resident / _MEBIBYTE or math.nan), number(anonymous)


def _cells(figures: IntakeFigures) -> tuple[str, ...]:
    others = (figures.megabytes_per_second, figures.ack_p50, figures.ack_p99)
    medians = (number(figure.median) for figure in others)
    return (with_spread(figures.posts_per_second), *medians, *memory(figures.peak))


def _table(title: str, *words: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in words:
        table.add_column(heading, no_wrap=True)
    return table


def _percent(ratio: Figure) -> str:
    return "-" if math.isnan(ratio.median) else f"{ratio.median:.0%}"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)
