"""Looks at the gateway once a second for the whole run: memory, handles, its figures, its folder, its status page."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.memory import of_tree
from bench.peers.trees import family
from bench.soak.gateway import Gateway, Operator, metric

_EVERY_SECONDS = 1.0
_PAGES = ("/", "/api/status", "/healthz")


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway at one moment, `at` seconds after the load began, counted anew after the restarts.

    Sizes are in bytes, of all its processes together.
    """

    at: float
    start: int
    """Which start of the gateway this was."""
    resident: int
    anonymous: int | None
    handles: int
    """File descriptors."""
    spool_bytes: int
    """What the files in the spool's folder take."""
    queued: float
    dead: float
    unaccounted: float


@dataclass
class Watch:
    """The samples, and how many looks found nobody."""

    gateway: Gateway
    operator: Operator
    begun: float
    samples: list[Sample] = field(default_factory=list)
    unanswered: int = 0

    async def keep_looking(self, tell: Callable[[Sample], None]) -> None:
        """Until it is cancelled."""
        while True:
            sample = await self.look()
            if sample is not None:
                tell(sample)
            await asyncio.sleep(_EVERY_SECONDS)

    async def look(self) -> Sample | None:
        """Take one sample; None while nothing answers."""
        for page in _PAGES:
            await self.operator.text(page)
        metrics, pid = await self.operator.text("/metrics"), self.gateway.pid
        if metrics is None or pid is None:
            self.unanswered += 1
            return None
        memory = await asyncio.to_thread(of_tree, pid)
        sample = Sample(
            at=time.monotonic() - self.begun,
            start=self.gateway.starts,
            resident=memory.resident,
            anonymous=memory.anonymous,
            handles=handles_of(pid),
            spool_bytes=bytes_in(self.gateway.spool),
            queued=metric(metrics, "callspool_backlog_records"),
            dead=metric(metrics, "callspool_dead_records"),
            unaccounted=metric(metrics, "callspool_unaccounted_records"),
        )
        self.samples.append(sample)
        return sample


def handles_of(pid: int) -> int:
    """Open file descriptors of a process and its children."""
    total = 0
    for process in family([pid]):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.num_fds()
    return total


def bytes_in(folder: Path) -> int:
    """What the files of a folder take on disk, as they are at this moment."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_blocks * 512
    return total
