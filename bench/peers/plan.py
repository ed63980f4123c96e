"""The order of one run: the syncs of each are counted, then all are measured in turns, round after round."""

import tempfile
import time
from collections.abc import Callable, Iterator
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


def measure_all(
    plan: Plan, console: Console, clock: Callable[[], float] = time.monotonic
) -> tuple[list[PeerRound], dict[str, float | None]]:
    """All rounds, and the syncs of each contender; one that fails is told of and is left out of that round."""
    measured: dict[int, list[PeerRound]] = {}
    syncs: dict[str, float | None] = {}
    turns = _Turns(clock)
    with tempfile.TemporaryDirectory(prefix="peers-", dir=plan.folder) as name:
        place = Path(name)
        bodies = {size.name: write_bodies(size, place / "bodies") for size in plan.sizes}
        for repeat, one in turns.take(plan, console):
            try:
                if repeat:
                    found = measure(one, plan.sizes, bodies, place / f"{repeat}-{one.name}", plan.seconds)
                    measured.setdefault(repeat, []).extend(found)
                else:
                    body = bodies[plan.sizes[0].name][0]
                    syncs[one.name] = count_syncs(one, body, place / f"syncs-{one.name}")
            except (ServerFailed, TimeoutError, OSError) as error:
                console.print(f"[red]{one.name} failed:[/red] {error}", highlight=False)
    return _comparable(measured, turns.complete), syncs


def _comparable(measured: dict[int, list[PeerRound]], complete: int) -> list[PeerRound]:
    """The rounds in which all had their turn; where not even the first is such a one, what there is."""
    return [one for repeat, found in measured.items() if repeat <= max(1, complete) for one in found]


class _Turns:
    """Who is measured when. `complete` is the last round that came to its end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.complete = 0
        self._clock = clock

    def take(self, plan: Plan, console: Console) -> Iterator[tuple[int, Contender]]:
        """Each round (0 counts syncs) and contender, told of by a bar, or by lines where there is no terminal."""
        columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        began = self._clock()
        with Progress(*columns, console=console, refresh_per_second=2, transient=True) as progress:
            task = progress.add_task("", total=(plan.rounds + 1) * len(plan.contenders))
            for repeat in range(plan.rounds + 1):
                for one in plan.contenders:
                    elapsed = self._clock() - began
                    if elapsed > plan.limit:
                        console.print(f"{plan.limit / 60:g} minutes are over in round {repeat}", style="yellow")
                        return
                    told = f"round {repeat}: {one.name}" if repeat else f"syncs: {one.name}"
                    progress.update(task, description=told)
                    if not console.is_terminal:
                        console.print(f"{elapsed:4.0f} s  {told}", highlight=False)
                    yield repeat, one
                    progress.advance(task)
                self.complete = repeat
