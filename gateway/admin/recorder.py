"""Takes the samples of the history, a minute each, and knows the pace of the gateway from them."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.admin.events import RecentEvents
from gateway.admin.metrics import Metrics
from gateway.history import History, Note, Sample, accepted_per_minute, best_rate, drained_in, growth
from gateway.operations.schemas import Pace
from spool.records import Clock, Lane
from spool.stats import SpoolStats
from uploaders.base import DestinationStatus

MINUTE = 60_000
"""Milliseconds."""
_WINDOW = 6
"""Snapshots of histograms, a minute apart: quantiles are those of the last five minutes."""

_log = structlog.get_logger("callspool")


@dataclass(frozen=True, slots=True)
class _Totals:
    accepted: int
    core_delivered: int
    detail_delivered: int


class Recorder:
    """Samples one gateway. It outlives reloads, as the history does."""

    def __init__(self, metrics: Metrics, events: RecentEvents, clock: Clock) -> None:
        self.history = History()
        self._metrics = metrics
        self._events = events
        self._clock = clock
        self._before: _Totals | None = None
        self._histograms: deque[tuple[list[int], ...]] = deque(maxlen=_WINDOW)
        self._failing = False

    async def open(self, directory: Path) -> None:
        """Read what a gateway before this one left in the spool's directory."""
        await asyncio.to_thread(self.history.open, directory, self._clock())
        self._events.restore([(note.at, note.level, note.text) for note in self.history.events])

    async def run(
        self, stats: Callable[[], SpoolStats], destinations: Callable[[], tuple[DestinationStatus, ...]]
    ) -> None:
        """A sample at the end of each minute, until cancelled."""
        self._before = self._totals(stats())
        while True:
            now = self._clock()
            await asyncio.sleep((MINUTE - now % MINUTE) / 1000 + 0.01)
            await self.take(stats(), destinations())

    async def take(self, stats: SpoolStats, destinations: tuple[DestinationStatus, ...]) -> None:
        """Take the sample of the minute that has just ended."""
        now = self._clock()
        totals = self._totals(stats)
        before, self._before = self._before or totals, totals
        waiting = dict.fromkeys(Lane, 0)
        for (_, lane), counts in stats.lanes.items():
            # A notice waits for its object, and says nothing about the cores.
            waiting[lane] += counts.queued - (counts.waiting if lane is Lane.CORE else 0)
        sample = Sample(
            minute=now // MINUTE - 1,
            accepted=max(0, totals.accepted - before.accepted),
            core_delivered=max(0, totals.core_delivered - before.core_delivered),
            detail_delivered=max(0, totals.detail_delivered - before.detail_delivered),
            core_waiting=waiting[Lane.CORE],
            detail_waiting=waiting[Lane.DETAIL],
            dead=sum(counts.dead for counts in stats.lanes.values()),
            spool_bytes=stats.used_bytes,
            queued_bytes=sum(counts.queued_bytes for counts in stats.lanes.values()),
        )
        self._histograms.append(self._metrics.pace_counts())
        self.note_destinations(destinations)
        await asyncio.to_thread(self._write, sample)

    def note_destinations(self, destinations: tuple[DestinationStatus, ...]) -> None:
        """Keep which destinations are down."""
        down = [
            (one.name, one.since or self._clock(), one.reason) for one in destinations if one.configured and not one.up
        ]
        self.history.note_destinations(down, self._clock())

    def pace(self, stats: SpoolStats | None, disk_free_bytes: int | None) -> Pace:
        """How it goes on. Times are of the last five minutes; of all since the start before so many have passed."""
        now = self._metrics.pace_counts()
        oldest = self._histograms[0] if self._histograms else tuple([0] * len(each) for each in now)
        recent = [[new - old for new, old in zip(*each, strict=True)] for each in zip(now, oldest, strict=True)]
        ack, core, commit = (
            quantile(counts, bounds, share)
            for counts, bounds, share in zip(recent, self._metrics.pace_bounds, (0.99, 0.95, 0.99), strict=True)
        )
        minute, samples = self._clock() // MINUTE, self.history.samples
        grows = growth(samples, minute)
        waiting = 0 if stats is None else sum(counts.queued for counts in stats.lanes.values())
        drained = drained_in(samples, minute, waiting)
        return Pace(
            accepted_per_minute=accepted_per_minute(samples, minute),
            ack_p99_seconds=ack,
            core_p95_seconds=core,
            commit_p99_seconds=commit,
            growth_bytes_per_minute=grows,
            full_in_seconds=None
            if stats is None or not grows or grows < 1
            else 60 * room_of(stats, disk_free_bytes) / grows,
            drained_in_seconds=None if drained is None else 60 * drained,
            best_per_minute=best_rate(samples, minute),
            disk_free_bytes=disk_free_bytes,
        )

    def save(self) -> None:
        """Write the notes, at the end."""
        self._write(None)

    def _totals(self, stats: SpoolStats) -> _Totals:
        delivered = dict.fromkeys(Lane, 0)
        for (_, lane), counts in stats.lanes.items():
            delivered[lane] += counts.delivered
        return _Totals(self._metrics.accepted(), delivered[Lane.CORE], delivered[Lane.DETAIL])

    def _write(self, sample: Sample | None) -> None:
        try:
            if sample is not None:
                self.history.add(sample)
            self.history.save([Note(*each) for each in self._events.kept()])
        except OSError as error:
            if not self._failing:
                _log.warning("history_not_written", reason=str(error))
            self._failing = True
        else:
            self._failing = False


def quantile(counts: list[int], bounds: tuple[float, ...], share: float) -> float | None:
    """Within which of the bounds this share of the values lies; None without values, or where none bounds them."""
    wanted, seen = sum(counts) * share, 0
    if not wanted:
        return None
    for count, bound in zip(counts, bounds, strict=False):
        seen += count
        if seen >= wanted:
            return bound
    return None


def room_of(stats: SpoolStats, disk_free_bytes: int | None) -> int:
    """What large call logs may still take: of the quota, and of the volume."""
    room = stats.limit_bytes - stats.reserve_bytes - stats.used_bytes
    return max(0, room if disk_free_bytes is None else min(room, disk_free_bytes))
