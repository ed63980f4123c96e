"""What one run does, in its order: bodies, interleaved intake rounds, delivery, tables, the JSON document."""

import shutil
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import drain_s3
from bench.delivery import Drain, drain_callspool, drain_directly
from bench.envelopes import write_envelopes
from bench.environment import describe
from bench.figures import compare, compare_delivery
from bench.intake import IntakeRound, measure
from bench.options import Options
from bench.report import print_buckets, print_delivery, print_environment, print_intake, save
from bench.sizes import LARGE, Size, write_bodies

SERVERS = ("bare", "work", "callspool")
"""Within a round they take turns, so that a slow minute of the machine slows all of them."""


def run(options: Options, console: Console) -> None:
    """Measure, print and save; `ServerFailed` or TimeoutError when a server does not do its part."""
    environment = describe(options.folder)
    print_environment(console, environment)
    with tempfile.TemporaryDirectory(prefix="run-", dir=options.folder) as name, _progress(console) as progress:
        bodies = _bodies(options, Path(name) / "bodies", progress)
        intake = _intake(options, bodies, Path(name), progress)
        drains = _delivery(options, bodies, Path(name), progress)
    comparisons = [compare(intake, size.name) for size in options.sizes]
    delivery = compare_delivery(drains, options.sizes)
    print_intake(console, comparisons)
    print_delivery(console, delivery)
    buckets = drain_s3.measure(options.folder, rounds=options.rounds, sizes=options.buckets) if options.buckets else ()
    if buckets:
        print_buckets(console, buckets)
    figures = {"intake": comparisons, "delivery": delivery, "buckets": buckets}
    rounds = {"intake_rounds": intake, "delivery_rounds": drains}
    save(options.result, {"environment": environment, "options": options, **figures, **rounds})
    console.print(f"All figures: {options.result}", highlight=False)


def _bodies(options: Options, folder: Path, progress: Progress) -> dict[str, tuple[Path, ...]]:
    sizes = dict.fromkeys((*options.sizes, LARGE))
    task = progress.add_task("call logs", total=len(sizes))
    bodies = {}
    for size in sizes:
        bodies[size.name] = write_bodies(size, folder)
        progress.advance(task)
    return bodies


def _intake(
    options: Options, bodies: dict[str, tuple[Path, ...]], folder: Path, progress: Progress
) -> list[IntakeRound]:
    task = progress.add_task("intake", total=options.rounds * len(options.sizes) * len(SERVERS))
    rounds = []
    for repeat in range(1, options.rounds + 1):
        for size in options.sizes:
            for server in SERVERS:
                progress.update(task, description=f"round {repeat}: {size.name}, {server}")
                rounds.append(_one(server, size, bodies[size.name], folder / f"{repeat}", options))
                progress.advance(task)
    progress.update(task, description="intake")
    return rounds


def _delivery(options: Options, bodies: dict[str, tuple[Path, ...]], folder: Path, progress: Progress) -> list[Drain]:
    task = progress.add_task("delivery", total=2 * options.rounds)
    large = bodies[LARGE.name]
    envelopes = write_envelopes(large[0].read_bytes(), options.backlog, folder / "envelopes")
    probes = [(size, bodies[size.name][0]) for size in options.sizes]
    drains = []
    for repeat in range(1, options.rounds + 1):
        progress.update(task, description=f"round {repeat}: drain, callspool")
        place = folder / f"drain-{repeat}"
        drains.append(drain_callspool(large, probes, options.backlog, place))
        shutil.rmtree(place)
        progress.update(task, description=f"round {repeat}: drain, direct", advance=1)
        drains.append(drain_directly(envelopes, probes, folder / f"direct-{repeat}"))
        progress.advance(task)
    progress.update(task, description="delivery")
    return drains


def _one(server: str, size: Size, bodies: tuple[Path, ...], folder: Path, options: Options) -> IntakeRound:
    return measure(server, size, bodies, folder / f"{server}-{size.body_bytes}", seconds=options.seconds)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, refresh_per_second=2, transient=True)
