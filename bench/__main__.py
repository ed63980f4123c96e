"""The benchmark's command line: `python -m bench`, or `make bench`.

One run: callspool and the bare handler in turn, round after round, then the tables and a JSON document. `python -m
bench peers` measures what one could use instead, too; `python -m bench hops` counts the files that a request passes,
`python -m bench stores` measures the stores, `python
-m bench ways` webhooks and spans.
"""

import datetime
import sys
from pathlib import Path

import click
from rich.console import Console

from bench.drain_s3 import QUICK_SIZES
from bench.drain_s3 import SIZES as DRAIN_SIZES
from bench.encryption import encryption
from bench.environment import on_disk
from bench.hops import hops
from bench.options import Options
from bench.peers.command import peers
from bench.processes import ServerFailed
from bench.scenarios import run
from bench.sizes import SIZES, Size, chosen
from bench.soak.command import soaking
from bench.stores import stores
from bench.ways import ways

_RESULTS = Path(__file__).parent / "results"


def _sizes(_context: click.Context, _parameter: click.Parameter, names: str) -> tuple[Size, ...]:
    try:
        return chosen(names)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One short round: shows that everything works, not how fast.")
@click.option("--rounds", type=click.IntRange(1, 50), help="How often each load is repeated.  [default: 3]")
@click.option("--seconds", type=click.FloatRange(0.2, 60), help="How long each load lasts.  [default: 5]")
@click.option(
    "--sizes", callback=_sizes, default=",".join(size.name for size in SIZES), show_default=True, help="Which sizes."
)
@click.option("--backlog", type=click.IntRange(1, 1000), help="15 MB call logs to be drained.  [default: 30]")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=_RESULTS,
    help="Where spools lie meanwhile; must be on a disk.  [default: bench/results]",
)
@click.option("--s3/--no-s3", "with_buckets", default=True, help="Whether to drain to a bucket, too.")
@click.option("--json", "result", type=click.Path(dir_okay=False, path_type=Path), help="Where the figures go.")
@click.pass_context
def main(
    context: click.Context,
    *,
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    sizes: tuple[Size, ...],
    backlog: int | None,
    folder: Path,
    with_buckets: bool,
    result: Path | None,
) -> None:
    """Measure callspool beside a bare aiohttp handler that reads a body and answers."""
    if context.invoked_subcommand is not None:
        return
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    if not on_disk(folder):
        message = f"{folder} is in memory, where an fsync costs nothing; name a folder on a disk with --folder"
        raise click.UsageError(message)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    options = Options(
        sizes=sizes,
        rounds=rounds or (1 if quick else 3),
        seconds=seconds or (1.0 if quick else 5.0),
        backlog=backlog or (4 if quick else 30),
        folder=folder,
        buckets=(QUICK_SIZES if quick else DRAIN_SIZES) if with_buckets else (),
        result=result or folder / f"{now}.json",
    )
    try:
        run(options, console)
    except (ServerFailed, TimeoutError) as error:
        console.print(f"[red]The benchmark ended early:[/red] {error}", highlight=False)
        sys.exit(1)


main.add_command(hops)
main.add_command(encryption)
main.add_command(stores)
main.add_command(ways)
main.add_command(peers)
main.add_command(soaking)

if __name__ == "__main__":
    main()
