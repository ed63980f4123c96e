"""`python -m bench soak`, or `make soak`: everything at once for ten minutes; the exit status tells."""

import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.environment import describe, on_disk
from bench.processes import ServerFailed
from bench.report import print_environment, save
from bench.soak.gateway import LOG
from bench.soak.run import Soaked, soak
from bench.soak.verdict import Check, judge, mebibytes, passed
from bench.soak.watching import Sample

_RESULTS = Path(__file__).parents[1] / "results"


@click.command("soak", short_help="Everything at once for minutes: does it leak, does it lose anything?")
@click.option(
    "--seconds",
    type=click.FloatRange(min=10),
    default=600,
    show_default=True,
    help="How long the load lasts after two restarts.",
)
@click.option("--s3/--no-s3", "with_bucket", default=True, help="Whether a bucket gets everything, too.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=_RESULTS,
    help="Where the spool lies meanwhile; must be on a disk.  [default: bench/results]",
)
@click.option("--json", "result", type=click.Path(dir_okay=False, path_type=Path), help="Where all figures go.")
def soaking(*, seconds: float, with_bucket: bool, folder: Path, result: Path | None) -> None:
    """Soak a gateway in load, bad clients, outages and restarts; ends with 1 when anything leaked or was lost."""
    console = Console()
    folder.mkdir(parents=True, exist_ok=True)
    if not on_disk(folder):
        raise click.UsageError(f"{folder} is in memory, where an fsync costs nothing; name a folder on a disk")
    environment = describe(folder)
    print_environment(console, environment)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=folder) as name:
        try:
            soaked = _run(seconds, Path(name), console, with_bucket=with_bucket)
        except* (ServerFailed, TimeoutError) as errors:
            for error in errors.exceptions:
                console.print(f"[red]The soak ended early:[/red] {error}", highlight=False)
            sys.exit(1)
        finally:
            _keep_log(Path(name), folder)
    checks = judge(soaked.outcome)
    _print(console, soaked, checks)
    path = result or folder / "soak.json"
    save(path, {"environment": environment, "seconds": seconds, "checks": checks, "soak": soaked})
    console.print(f"All figures: {path}; what callspool logged: {folder / 'soak.log'}", highlight=False)
    sys.exit(0 if passed(checks) else 1)


def _run(seconds: float, folder: Path, console: Console, *, with_bucket: bool) -> Soaked:
    columns = (
        TextColumn("{task.description:<36}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[seen]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        bar = progress.add_task("starting", total=seconds, seen="")
        begun = time.monotonic()

        def tell(now: str, sample: Sample | None) -> None:
            progress.update(bar, description=now, completed=min(seconds, time.monotonic() - begun))
            if sample is not None:
                progress.update(bar, seen=_seen(sample))

        return asyncio.run(soak(seconds, folder, tell, with_bucket=with_bucket))


def _keep_log(run: Path, folder: Path) -> None:
    """What the gateway said outlives the run's folder: it is what a failure is understood from."""
    log = run / LOG
    if log.exists():
        shutil.move(log, folder / "soak.log")


def _seen(sample: Sample) -> str:
    dead = f", {sample.dead:,.0f} dead" if sample.dead else ""
    return f"{sample.queued:,.0f} queued{dead}, {mebibytes(sample.anonymous or sample.resident)}"


def _print(console: Console, soaked: Soaked, checks: tuple[Check, ...]) -> None:
    posts = ", ".join(f"{count:,} x {kind}" for kind, count in sorted(soaked.ledger.posts.items()))
    bad = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in soaked.bad_clients.items())
    console.print(
        f"Acknowledged: {posts}; {soaked.ledger.cut_off:,} cut off and {soaked.ledger.put_off:,} put off, "
        f"then repeated. Bad clients: {bad}.",
        highlight=False,
    )
    if soaked.no_bucket is not None:
        console.print(f"[yellow]Without a bucket:[/yellow] {soaked.no_bucket}", highlight=False)
    table = Table(title="Soak", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "check", "found", "allowed"):
        table.add_column(heading)
    for check in checks:
        mark = "[green]held[/green]" if check.held else "[bold red]NOT HELD[/bold red]"
        table.add_row(mark, check.name, check.found, check.allowed)
    console.print(table)
    for answer in soaked.ledger.unanswered[:10]:
        console.print(f"Refused: {answer}", style="red", highlight=False, markup=False)
