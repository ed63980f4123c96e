"""Writing for people: tables to standard output, complaints to standard error; with --json, for programs.

Texts from elsewhere (call ids, reasons) are stripped of control characters: they could rewrite a terminal.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.style import Style
from rich.table import Table
from rich.text import Text

from gateway.cli import WITH_JSON, json_line

_NARROW_WIDTH = 140
"""Below it, a table of deliveries with all its columns folds in most of them."""
Tell = Callable[[str, int, int], None]
"""Hears of progress: what is being done, how much of it is done, and how much there is (0: not known)."""
_PIPED_WIDTH = 250
"""Columns where no terminal says how many there are: wide enough that nothing is folded in common cases."""


Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Adds --json to a command, which asks `as_json` for it; complaints follow by themselves."""
    return click.option("--json", is_flag=True, expose_value=False, help="Print JSON, errors included.")(command)


def as_json() -> bool:
    """Whether the command that runs was given --json."""
    context = click.get_current_context(silent=True)
    return context is not None and WITH_JSON in context.meta


def print_json(document: object) -> None:
    """A document to standard output, as one line of JSON."""
    click.echo(msgspec.json.encode(document).decode())


def result(document: object, sentence: str, style: str = "green") -> None:
    """The one result of a command: a sentence for people, a document for programs."""
    if as_json():
        print_json(document)
    else:
        output().print(plain(sentence, style))


def output() -> Console:
    """Where results go."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def complain(sentence: str, *, hint: str = "", runbook: str | None = None, style: str = "red") -> None:
    """Say in one sentence on standard error what is wrong, and below it what to do, and where more of that is.

    With --json it is a line of JSON there; a style other than red tells that the command itself succeeds.
    """
    if as_json():
        click.echo(json_line("error" if style == "red" else "note", sentence, hint, runbook), err=True)
        return
    wraps = sys.stderr.isatty()
    console = Console(file=sys.stderr, soft_wrap=not wraps, highlight=False)
    console.print(plain(sentence, style))
    for more in (hint, f"More: {runbook}" if runbook else ""):
        if more:
            # Padding cuts what is not wrapped.
            console.print(indented(more) if wraps else plain(f"  {more}", "dim"))


def plain(value: object, style: str | Style = "") -> Text:
    """A text without markup and without control characters."""
    return Text("".join(each if each.isprintable() else "?" for each in str(value)), style=style)


def indented(text: str, style: str = "dim") -> RenderableType:
    """A text below another one, all its lines two columns to the right."""
    return Padding(plain(text, style), (0, 0, 0, 2), expand=False)


def with_lines(name: str, lines: Iterable[str | None]) -> RenderableType:
    """For 80 columns: a name, and below it, a line each, what has no column there."""
    return Group(plain(name, "bold"), *[indented(line, "") for line in lines if line])


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `numbers` are aligned to the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    right = set(numbers)
    for column in columns:
        number = column in right
        made.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    return made


class Responsive:
    """Two layouts of the same, for a wide and for a narrow console."""

    def __init__(self, wide: RenderableType, narrow: RenderableType) -> None:
        self._wide = wide
        self._narrow = narrow

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._narrow if options.max_width < _NARROW_WIDTH else self._wide


# A bar on standard error for what takes long; nothing where that is no terminal.


@contextmanager
def progress_bar() -> Iterator[Tell]:
    """Hears how much of what is done: one line for each thing, in the order in which they were begun."""
    console = Console(file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks = {}

        def tell(what: str, done: int, total: int) -> None:
            """So much of it is done; a total of 0 is one that is not known."""
            if what not in tasks:
                tasks[what] = progress.add_task(what)
            progress.update(tasks[what], completed=done, total=total or None)

        yield tell
