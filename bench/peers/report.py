"""What a run is told in: tables for the terminal, and for docs/performance.md a section with its charts."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.environment import Environment
from bench.figures import Figure
from bench.peers.charts import Bar, Panel, bar_chart
from bench.peers.figures import Comparison, PeerFigures, durable
from bench.report import number, with_spread

OURS = ("callspool", "callspool, zstd")
BEGIN, END = "<!-- peers: begin (written by the benchmark) -->", "<!-- peers: end -->"
_COLUMNS: tuple[tuple[str, Callable[[PeerFigures], Figure]], ...] = (
    ("acked/s", lambda one: one.acked),
    ("delivered/s", lambda one: one.delivered),
    ("ack p50 ms", lambda one: one.ack_p50),
    ("ack p99 ms", lambda one: one.ack_p99),
    ("first part p50 ms", lambda one: one.first_part_p50),
    ("at sink p50 ms", lambda one: one.end_to_end_p50),
    ("at sink p99 ms", lambda one: one.end_to_end_p99),
    ("CPU s per 1,000", lambda one: one.cpu),
    ("peak MB", lambda one: one.peak),
)
_NOTES = {"yes": "", "no": "not fsynced", "?": ""}
_CHARTS: tuple[tuple[str, str, str, Callable[[PeerFigures], Figure]], ...] = (
    ("acked", "Acknowledged call logs a second", "more is better", lambda one: one.acked),
    ("delivered", "Delivered call logs a second, to the end", "more is better", lambda one: one.delivered),
    ("cpu", "CPU seconds for 1,000 call logs", "less is better", lambda one: one.cpu),
    ("memory", "Peak memory of all processes, MB", "less is better", lambda one: one.peak),
)


def print_comparison(console: Console, comparison: Comparison) -> None:
    """A table for each size."""
    for size in comparison.sizes:
        table = Table(title=f"Call logs of {size}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("")
        for heading in ("fsynced", *(heading for heading, _ in _COLUMNS)):
            table.add_column(heading, justify="right")
        for contender in comparison.contenders:
            figures = comparison.figures[contender, size]
            cells = (with_spread(figure(figures)) for _, figure in _COLUMNS)
            style = "bold" if contender in OURS else ""
            table.add_row(contender, _durable(comparison, contender), *cells, style=style)
        console.print(table)
    for sentence in _defects(comparison):
        console.print(sentence, style="bold red", highlight=False)
    for name, missing in comparison.absent.items():
        console.print(f"Not measured: {name}: {missing}", style="yellow", highlight=False)


def charts(comparison: Comparison) -> dict[str, str]:
    """The SVG documents by their names."""
    return {
        f"peers-{name}.svg": bar_chart(title, explanation, [_panel(comparison, size, of) for size in comparison.sizes])
        for name, title, explanation, of in _CHARTS
    }


def section(comparison: Comparison, environment: Environment, about: str) -> str:
    """The section as Markdown, between its marks."""
    lines = [
        BEGIN,
        "",
        f"{about} Python {environment.python}, {environment.processors} processors, {environment.file_system} "
        f"(an fsync takes {number(environment.fsync_ms)} ms), commit {environment.commit}. Medians; ± is half the "
        "spread of the rounds.",
        "",
        *(f"![{title}](pictures/peers-{name}.svg)\n" for name, title, _, _ in _CHARTS),
    ]
    for size in comparison.sizes:
        lines += [*_markdown_table(comparison, size), ""]
    lines += [f"Syncs of a file for one post, counted: {_syncs(comparison)}.", ""]
    lines += [f"- Not measured: {name}: {missing}." for name, missing in comparison.absent.items()]
    lines += [f"- **{sentence}**" for sentence in _defects(comparison)]
    return "\n".join([*lines, "", END])


def write_documents(comparison: Comparison, environment: Environment, about: str, docs: Path) -> None:
    """Put the section between its marks in `performance.md`, and the charts beside the other pictures."""
    page = docs / "performance.md"
    text = page.read_text(encoding="utf-8")
    written = section(comparison, environment, about)
    replaced, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: written, text, flags=re.DOTALL)
    if not count:
        message = f"{page} has no place for the section: it needs the lines {BEGIN} and {END}"
        raise ValueError(message)
    page.write_text(replaced, encoding="utf-8")
    for name, drawing in charts(comparison).items():
        (docs / "pictures" / name).write_text(drawing, encoding="utf-8")


def _panel(comparison: Comparison, size: str, of: Callable[[PeerFigures], Figure]) -> Panel:
    """The bars of one size."""
    bars = (
        Bar(one, of(comparison.figures[one, size]), ours=one in OURS, note=_NOTES[_durable(comparison, one)])
        for one in comparison.contenders
    )
    return Panel(f"call logs of {size}", tuple(bars))


def _markdown_table(comparison: Comparison, size: str) -> Iterable[str]:
    """The table of one size."""
    yield f"| {size} | fsynced | {' | '.join(heading for heading, _ in _COLUMNS)} |"
    yield f"|---|---|{'---:|' * len(_COLUMNS)}"
    for contender in comparison.contenders:
        figures = comparison.figures[contender, size]
        cells = (_cell(figure(figures)) for _, figure in _COLUMNS)
        name = f"**{contender}**" if contender in OURS else contender
        yield f"| {name} | {_durable(comparison, contender)} | {' | '.join(cells)} |"


def _cell(figure: Figure) -> str:
    """A figure with its spread, without the marks of the terminal."""
    return re.sub(r"\[/?dim\]", "", with_spread(figure))


def _durable(comparison: Comparison, contender: str) -> str:
    """Whether its answers mean that the disk has it."""
    return durable(comparison.syncs.get(contender))


def _syncs(comparison: Comparison) -> str:
    """What was counted, in one line."""
    known = {name: count for name, count in comparison.syncs.items() if count is not None}
    return ", ".join(f"{name} {number(count)}" for name, count in known.items()) or "not here, for want of strace"


def _defects(comparison: Comparison) -> Iterable[str]:
    """What must not be overlooked."""
    for (contender, size), one in comparison.figures.items():
        if one.missing:
            yield f"{contender}, {size}: {one.missing} acknowledged call logs were not delivered within the time given"
        if one.refused:
            yield f"{contender}, {size}: {one.refused} posts were refused"
