"""The order of one run: the syncs of each are counted, then all are measured in turns, round after round."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.peers.contenders import Contender
from bench.peers.rounds import PeerRound, count_syncs, measure
from bench.processes import ServerFailed
from bench.sizes import Size, write_bodies


@dataclass(frozen=True, slots=True)
class Plan:
    """A bounded amount of work."""

    contenders: tuple[Contender, ...]
    sizes: tuple[Size, ...]
    rounds: int
    seconds: float
    """How long each load lasts."""
    limit: float
    """Seconds after which no other measurement is begun: a busy machine has fewer rounds, not a longer run."""
    folder: Path


def measure_all(plan: Plan, console: Console) -> tuple[list[PeerRound], dict[str, float | None]]:
    """All rounds, and the syncs of each contender; one that fails is told of and is left out of that round."""
    measured: list[PeerRound] = []
    syncs: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="peers-", dir=plan.folder) as name:
        place = Path(name)
        bodies = {size.name: write_bodies(size, place / "bodies") for size in plan.sizes}
        for repeat, one in _turns(plan, console):
            try:
                if repeat:
                    measured += measure(one, plan.sizes, bodies, place / f"{repeat}-{one.name}", plan.seconds)
                else:
                    body = bodies[plan.sizes[0].name][0]
                    syncs[one.name] = count_syncs(one, body, place / f"syncs-{one.name}")
            except (ServerFailed, TimeoutError, OSError) as error:
                console.print(f"[red]{one.name} failed:[/red] {error}", highlight=False)
    return measured, syncs


def _turns(plan: Plan, console: Console) -> Iterator[tuple[int, Contender]]:
    """Each round (0 counts syncs) and contender, told of by a bar, or by lines where there is no terminal."""
    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    turns = [(repeat, one) for repeat in range(plan.rounds + 1) for one in plan.contenders]
    with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
        task = progress.add_task("", total=len(turns))
        for repeat, one in turns:
            elapsed = time.monotonic() - began
            if elapsed > plan.limit:
                console.print(
                    f"{plan.limit / 60:g} minutes are over: round {repeat} ends before {one.name}", style="yellow"
                )
                return
            told = f"round {repeat}: {one.name}" if repeat else f"syncs: {one.name}"
            progress.update(task, description=told)
            if not console.is_terminal:
                console.print(f"{elapsed:4.0f} s  {told}", highlight=False)
            yield repeat, one
            progress.advance(task)
