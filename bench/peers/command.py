"""`python -m bench peers`: callspool beside what one could use instead, in one run of less than ten minutes."""

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.environment import describe, on_disk
from bench.peers.contenders import CONTENDERS, Contender
from bench.peers.figures import compare
from bench.peers.report import print_comparison, write_documents
from bench.peers.rounds import PeerRound, count_syncs, measure
from bench.processes import ServerFailed
from bench.report import print_environment, save
from bench.sizes import SIZES, Size, chosen, write_bodies

_BENCH = Path(__file__).parents[1]
_DOCS = _BENCH.parent / "docs"
FLUENT_BIT = "no package of it is in Debian; its own project has packages"


@click.command(short_help="callspool beside queues that one could use instead.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True, help="How often each is measured.")
@click.option(
    "--seconds", type=click.FloatRange(0.2, 30), default=2.5, show_default=True, help="How long each load lasts."
)
@click.option("--sizes", "size_names", default=",".join(size.name for size in SIZES), show_default=True)
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
    only: tuple[str, ...],
    write_docs: bool,
    note: str,
    folder: Path,
) -> None:
    """Measure callspool beside the SDK's outbox and the queues that are installed, in turns, to the last delivery."""
    console = Console()
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
    measured, syncs = _measure(present, sizes, rounds, seconds, folder, console)
    comparison = compare(measured, syncs, absent)
    print_comparison(console, comparison)
    result = folder / "peers.json"
    save(result, {"environment": environment, "syncs": syncs, "absent": absent, "rounds": measured})
    console.print(f"All figures: {result}", highlight=False)
    if write_docs:
        about = f"{rounds} rounds of {seconds:g} s, in turns. {note}".strip()
        write_documents(comparison, environment, about, _DOCS)


def _measure(
    present: list[Contender], sizes: tuple[Size, ...], rounds: int, seconds: float, folder: Path, console: Console
) -> tuple[list[PeerRound], dict[str, float | None]]:
    """All rounds in turns, after the syncs of each were counted; one that fails is told of and left out of a round."""
    measured: list[PeerRound] = []
    syncs: dict[str, float | None] = {}
    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="peers-", dir=folder) as name,
        Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress,
    ):
        place = Path(name)
        bodies = {size.name: write_bodies(size, place / "bodies") for size in sizes}
        task = progress.add_task("", total=(rounds + 1) * len(present))
        for repeat in range(rounds + 1):
            for one in present:
                progress.update(task, description=f"round {repeat}: {one.name}" if repeat else f"syncs: {one.name}")
                try:
                    if repeat:
                        measured += measure(one, sizes, bodies, place / f"{repeat}-{one.name}", seconds)
                    else:
                        syncs[one.name] = count_syncs(one, bodies[sizes[0].name][0], place / f"syncs-{one.name}")
                except (ServerFailed, TimeoutError, OSError) as error:
                    console.print(f"[red]{one.name} failed:[/red] {error}", highlight=False)
                progress.advance(task)
    return measured, syncs
