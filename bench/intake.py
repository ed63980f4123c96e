"""How many posts a second are acknowledged, how soon, and what memory that takes.

The endpoint is down meanwhile, so that nothing but the way from the socket to the disk is measured.
"""

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.commits import Commits, commits_of
from bench.latency import Latency
from bench.load import Measured
from bench.memory import Memory, PeakMemory
from bench.processes import free_port, run_python
from bench.servers import bare, callspool
from bench.sizes import Size


@dataclass(frozen=True, slots=True)
class IntakeRound:
    """One load on one server that was started for it."""

    server: str
    size: str
    load: Measured
    idle: Memory
    peak: Memory
    commits: Commits | None
    """How posts shared commits; None for those that have none."""


def measure(server: str, size: Size, bodies: Sequence[Path], folder: Path, *, seconds: float) -> IntakeRound:
    """Start the server ("callspool" or "bare"), post bodies of this size to it, and remove what it stored.

    "work" is none, but what has to be done with the bodies anyway.
    """
    folder.mkdir(parents=True)
    if server == "work":
        return IntakeRound(
            server, size.name, _worked(size, bodies, folder, seconds), Memory(0, None), Memory(0, None), None
        )
    starting = callspool(folder, endpoint_port=free_port()) if server == "callspool" else bare(folder)
    try:
        with contextlib.ExitStack() as stack:
            running = stack.enter_context(starting)
            memory = stack.enter_context(PeakMemory(running.process.pid))
            load = post(running.intake_port, bodies, connections=size.connections, seconds=seconds, warmup=seconds / 5)
            commits = commits_of(running.admin_port) if server == "callspool" else None
        return IntakeRound(server, size.name, load, memory.idle, memory.peak, commits)
    finally:
        shutil.rmtree(folder / "spool", ignore_errors=True)


def post(
    port: int,
    bodies: Sequence[Path],
    *,
    connections: int,
    seconds: float,
    warmup: float,
    max_posts: int = 1_000_000,
    first: int = 1,
    trace: Path | None = None,
) -> Measured:
    """Run the load generator in its own process, against a server on this port; see `bench.load.Plan`."""
    arguments = [
        *("--port", str(port), "--connections", str(connections), "--max-posts", str(max_posts)),
        *("--seconds", str(seconds), "--warmup", str(warmup), "--first", str(first)),
        *(("--trace", str(trace)) if trace else ()),
    ]
    for body in bodies:
        arguments += ["--body", str(body)]
    return _told(run_python("bench.load", *arguments, timeout=2 * seconds + 120))


def _worked(size: Size, bodies: Sequence[Path], folder: Path, seconds: float) -> Measured:
    """The work alone, with half as many call logs to a commit as there are connections."""
    arguments = ["--folder", str(folder), "--group", str(max(1, size.connections // 2)), "--seconds", str(seconds)]
    for body in bodies:
        arguments += ["--body", str(body)]
    try:
        return _told(run_python("bench.work", *arguments, timeout=2 * seconds + 120))
    finally:
        shutil.rmtree(folder)


def _told(text: str) -> Measured:
    told = json.loads(text)
    statuses = {int(status): count for status, count in told.pop("statuses").items()}
    return Measured(latency=Latency(**told.pop("latency")), statuses=statuses, **told)
