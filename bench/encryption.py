"""`python -m bench encryption`: what a gateway's CPU time for a call log is with a key, over that without one.

Both run side by side and are posted to in turns, round after round, each with an endpoint that takes what it delivers.
CPU time, and not throughput, so that what else the machine does shows as little as possible.
"""

import shutil
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table

from bench.environment import describe
from bench.load import Plan, run
from bench.processes import free_port
from bench.report import print_environment
from bench.servers import Running, callspool, endpoint
from bench.sizes import SIZES, Size, chosen, make_body

_RESULTS = Path(__file__).parent / "results"
_VARIANTS = {
    "plain": {},
    "with a key": {"CALLSPOOL_SPOOL_KEY": "A" * 43 + "="},
    "erase_freed": {"CALLSPOOL_SPOOL_ERASE_FREED": "true"},
}
_SETTLED_SECONDS = 1.5
"""Deliveries and checkpoints of a round end within it, mostly; what does not falls into the next round of the same."""


@click.command(short_help="CPU time with a key, over that without one.")
@click.option("--rounds", type=click.IntRange(1, 50), default=5, show_default=True, help="How often each is posted to.")
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, help="How long each time.")
@click.option("--sizes", default=",".join(size.name for size in SIZES), show_default=True, help="Which sizes.")
def encryption(*, rounds: int, seconds: float, sizes: str) -> None:
    """Print, for each size, CPU milliseconds for a call log, accepted and delivered, and the ratios to `plain`."""
    _RESULTS.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=_RESULTS))
    shown = Table("size", "variant", "CPU ms", "ratio", "range")
    try:
        for size in chosen(sizes):
            found = _measured(size, folder / size.name.replace(" ", ""), rounds, seconds)
            for name, each in found.items():
                ratios = [one / plain for one, plain in zip(each, found["plain"], strict=True)]
                spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
                shown.add_row(
                    size.name, name, f"{statistics.median(each):.3f}", f"{statistics.median(ratios):.3f}", spread
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_environment(Console(), describe(_RESULTS))
    Console().print(shown)


def _measured(size: Size, folder: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """CPU milliseconds for a call log in each round, of each variant; the first round of all warms up."""
    bodies = tuple(make_body(size, seed) for seed in range(size.variants))
    found: dict[str, list[float]] = {name: [] for name in _VARIANTS}
    with ExitStack() as stack:
        servers = {}
        for name, settings in _VARIANTS.items():
            own = folder / name.replace(" ", "-")
            own.mkdir(parents=True)
            port = free_port()
            stack.enter_context(endpoint(own, port))
            servers[name] = stack.enter_context(callspool(own, endpoint_port=port, settings=settings))
        first = 0
        for number in range(rounds + 1):
            for name, running in servers.items():
                before = _cpu_seconds(running)
                plan = Plan(
                    running.intake_port,
                    "/v1/calls",
                    bodies,
                    max(1, size.connections // 4),
                    seconds,
                    0.0,
                    1 << 30,
                    first,
                )
                posts = run(plan).posts
                time.sleep(_SETTLED_SECONDS)
                first += posts + size.connections
                if number:
                    found[name].append(1000 * (_cpu_seconds(running) - before) / max(1, posts))
    return found


def _cpu_seconds(running: Running) -> float:
    """Of the gateway and of the processes that it started."""
    process = psutil.Process(running.process.pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)
