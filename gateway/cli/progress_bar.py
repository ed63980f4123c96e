"""A bar on standard error for what takes long; nothing where that is no terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from spool.fsck import Tell


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
