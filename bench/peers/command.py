"""`python -m bench peers`: callspool beside what one could use instead, in one run of less than ten minutes."""

import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from bench.environment import describe, on_disk
from bench.peers.contenders import CONTENDERS
from bench.peers.figures import compare
from bench.peers.plan import Plan, measure_all
from bench.peers.report import print_comparison, write_documents
from bench.peers.rounds import PeerRound
from bench.report import print_environment, save
from bench.sizes import SIZES, chosen

_BENCH = Path(__file__).parents[1]
_DOCS = _BENCH.parent / "docs"
_WIDE = 170
FLUENT_BIT = "no package of it is in Debian; its own project has packages"


@click.command(short_help="callspool beside queues that one could use instead.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="How often each is measured.")
@click.option(
    "--seconds", type=click.FloatRange(0.2, 30), default=2.5, show_default=True, help="How long each load lasts."
)
@click.option("--sizes", "size_names", default=",".join(size.name for size in SIZES), show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(0.5, 120), default=9.0, show_default=True, help="After which no other is begun."
)
@click.option("--only", multiple=True, metavar="NAME", help="Measure only these, by the beginning of their names.")
@click.option("--docs", "write_docs", is_flag=True, help="Write the tables and charts into docs/performance.md.")
@click.option("--note", default="", help="A sentence about the machine, for the document.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=_BENCH / "results",
    help="Where queues keep their data meanwhile; must be on a disk.  [default: bench/results]",
)
def peers(
    *,
    rounds: int,
    seconds: float,
    size_names: str,
    minutes: float,
    only: tuple[str, ...],
    write_docs: bool,
    note: str,
    folder: Path,
) -> None:
    """Measure callspool beside the SDK's outbox and the queues that are installed, in turns, to the last delivery."""
    console = _console()
    try:
        sizes = chosen(size_names)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)
    if not on_disk(folder):
        raise click.UsageError(f"{folder} is in memory, where an fsync costs nothing; name a folder on a disk")
    wanted = [one for one in CONTENDERS if not only or any(one.name.lower().startswith(name.lower()) for name in only)]
    absent = {one.name: missing for one in wanted if (missing := one.needs())} | {"Fluent Bit": FLUENT_BIT}
    present = [one for one in wanted if one.name not in absent]
    environment = describe(folder)
    print_environment(console, environment)
    # Told to end, it must end what it started, as it does when it fails.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    measured, syncs = measure_all(Plan(tuple(present), sizes, rounds, seconds, 60 * minutes, folder), console)
    known = {one.contender for one in measured}
    failed = {one.name: "it did not come to an end here" for one in present if one.name not in known}
    comparison = compare(measured, syncs, absent | failed)
    print_comparison(console, comparison)
    result = folder / "peers.json"
    save(result, {"environment": environment, "syncs": syncs, "absent": absent, "rounds": measured})
    console.print(f"All figures: {result}", highlight=False)
    if write_docs:
        about = f"{_rounds(measured)} rounds of {seconds:g} s, in turns. {note}".strip()
        write_documents(comparison, environment, about, _DOCS)


def _console() -> Console:
    """As wide as the tables where no terminal says how wide it is."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def _rounds(measured: Sequence[PeerRound]) -> int:
    """How many rounds there were: fewer than were asked for where time was up."""
    return max(Counter((one.contender, one.size) for one in measured).values(), default=0)
