"""The gateway's own history: a sample a minute for a day, and the outages of destinations.

It lies in two small files beside the spool's database, so that the admin page and `callspool top` show the last hours
without a metrics server, and a restart loses none of them. The samples are a ring of fixed slots (69 KB): a minute
replaces that of the day before, and a slot that was torn by a crash does not match its checksum and is left out.
Nothing is fsynced, and nothing else depends on these files: they may be deleted at any time.
"""

import asyncio
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from gateway.admin.events import RecentEvents
from gateway.admin.metrics import Metrics
from gateway.operations.schemas import Pace
from spool.records import Clock, Lane
from spool.stats import SpoolStats
from uploaders.base import DestinationStatus

SAMPLES_NAME = "history.samples"
NOTES_NAME = "history.json"
MINUTES = 24 * 60
"""How many samples are kept."""
MOST_OUTAGES = 60
_BODY = struct.Struct("<7I2Q")
_CHECKSUM = struct.Struct("<I")
_SLOT_BYTES = _BODY.size + _CHECKSUM.size
_MOST = 0xFFFFFFFF
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One minute. Counts of call logs and deliveries; `*_delivered` and `accepted` within it, the rest at its end."""

    minute: int
    """Minutes since the Unix epoch."""
    accepted: int
    core_delivered: int
    detail_delivered: int
    core_waiting: int
    detail_waiting: int
    dead: int
    spool_bytes: int
    queued_bytes: int


class Outage(msgspec.Struct, frozen=True):
    """A time in which a destination accepted no deliveries. Times in milliseconds since the Unix epoch."""

    destination: str
    since: int
    until: int | None
    """None while it lasts."""
    reason: str


class Note(msgspec.Struct, frozen=True):
    """An event as it was shown."""

    at: int
    level: str
    text: str


class _Notes(msgspec.Struct):
    outages: list[Outage]
    events: list[Note]


class History:
    """The history of one gateway: in memory, and in its files once it was opened.

    Memory is for the event loop, which shows it; `write` alone is for another thread.
    """

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=MINUTES)
        """The oldest first; minutes in which no gateway ran are missing."""
        self.outages: deque[Outage] = deque(maxlen=MOST_OUTAGES)
        """The oldest first."""
        self.events: tuple[Note, ...] = ()
        """Recent events as a gateway before this one left them, the oldest first."""
        self._directory: Path | None = None
        self._written = b""

    def open(self, directory: Path, now: int) -> None:
        """Read what is in this directory, unless that was done, and write there from now on; `now` in milliseconds."""
        if directory != self._directory:
            self._directory, self._written = directory, b""
            samples, notes = read_history(directory, now)
            known = {sample.minute for sample in self.samples}
            merged = [*self.samples, *(sample for sample in samples if sample.minute not in known)]
            self.samples = deque(sorted(merged, key=lambda sample: sample.minute), maxlen=MINUTES)
            self.outages = deque([*notes.outages, *self.outages], maxlen=MOST_OUTAGES)
            self.events = tuple(notes.events)

    def add(self, sample: Sample) -> None:
        """Keep a sample in memory."""
        while self.samples and self.samples[-1].minute >= sample.minute:  # the clock was set back
            self.samples.pop()
        self.samples.append(sample)

    def note_destinations(self, down: Iterable[tuple[str, int, str]], now: int) -> None:
        """These destinations are down, each since when and why; all others are not."""
        since = {name: (at, reason) for name, at, reason in down}
        changed = [
            msgspec.structs.replace(one, until=now) if one.until is None and one.destination not in since else one
            for one in self.outages
        ]
        lasting = {one.destination for one in changed if one.until is None}
        changed += [Outage(name, at, None, why) for name, (at, why) in since.items() if name not in lasting]
        if changed != list(self.outages):
            self.outages = deque(changed, maxlen=MOST_OUTAGES)

    def notes(self, events: Sequence[Note]) -> bytes:
        """Outages and events, as they are written."""
        return msgspec.json.encode(_Notes(list(self.outages), list(events)))

    def write(self, sample: Sample | None, notes: bytes) -> None:
        """Write a sample, and the notes if they changed. Raises `OSError`."""
        if self._directory is None:
            return
        if sample is not None:
            self._write_slot(self._directory / SAMPLES_NAME, sample)
        if notes == self._written:
            return
        path = self._directory / NOTES_NAME
        beside = path.with_suffix(".new")
        with os.fdopen(os.open(beside, _NEW, 0o600), "wb") as file:
            file.write(notes)
        beside.replace(path)
        self._written = notes

    def since(self, minute: int) -> list[Sample]:
        """The samples after this minute, the oldest first."""
        return [sample for sample in self.samples if sample.minute > minute]

    @staticmethod
    def _write_slot(path: Path, sample: Sample) -> None:
        *counts, spool_bytes, queued_bytes = msgspec.structs.astuple(sample)
        body = _BODY.pack(*(min(count, _MOST) for count in counts), spool_bytes, queued_bytes)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, body + _CHECKSUM.pack(zlib.crc32(body)), sample.minute % MINUTES * _SLOT_BYTES)
        finally:
            os.close(descriptor)


def read_history(directory: Path, now: int) -> tuple[list[Sample], _Notes]:
    """The samples of the day before `now` (ms), the oldest first, and the notes; what cannot be read is left out."""
    samples: list[Sample] = []
    notes = _Notes([], [])
    minute = now // 60_000
    with suppress(OSError):
        data = (directory / SAMPLES_NAME).read_bytes()[: MINUTES * _SLOT_BYTES]
        for start in range(0, len(data) - _SLOT_BYTES + 1, _SLOT_BYTES):
            body = data[start : start + _BODY.size]
            sample = Sample(*_BODY.unpack(body))
            whole = _CHECKSUM.unpack_from(data, start + _BODY.size) == (zlib.crc32(body),)
            if whole and minute - MINUTES < sample.minute <= minute:
                samples.append(sample)
    with suppress(OSError, msgspec.MsgspecError):
        notes = msgspec.json.decode((directory / NOTES_NAME).read_bytes(), type=_Notes)
    return sorted(samples, key=lambda sample: sample.minute), notes


# What is worked out of samples. Pure; rates are a minute.


def growth(samples: Sequence[Sample], now_minute: int, minutes: int = 15) -> float | None:
    """By how many bytes a minute the spool grew in the last minutes; None where there are less than two samples."""
    recent = [sample for sample in samples if sample.minute > now_minute - minutes]
    if len(recent) < 2:
        return None
    return (recent[-1].spool_bytes - recent[0].spool_bytes) / (recent[-1].minute - recent[0].minute)


def drained_in(samples: Sequence[Sample], now_minute: int, waiting: int, minutes: int = 5) -> float | None:
    """In how many minutes nothing waits any more, if it goes on as in the last ones; None: the backlog does not
    shrink."""
    recent = [sample for sample in samples if sample.minute > now_minute - minutes]
    if not waiting:
        return 0.0
    if len(recent) < 2:
        return None
    first, last = recent[0], recent[-1]
    shrinks = first.core_waiting + first.detail_waiting - last.core_waiting - last.detail_waiting
    return waiting * (last.minute - first.minute) / shrinks if shrinks > 0 else None


Backlog = Mapping[tuple[str, Lane], int]
"""What waits in each lane of each destination."""


def backlog_of(stats: SpoolStats) -> Backlog:
    """What waits now, without notices: they wait for their objects, and say nothing about the cores."""
    return {
        (name, lane): counts.queued - (counts.waiting if lane is Lane.CORE else 0)
        for (name, lane), counts in stats.lanes.items()
    }


def shrinking(before: Backlog, now: Backlog) -> dict[str, tuple[str, ...]]:
    """By destination, the lanes of which less waits than before."""
    less = [(name, lane) for (name, lane), count in now.items() if count < before.get((name, lane), 0)]
    return {name: tuple(lane.value for each, lane in less if each == name) for name, _ in less}


def best_rate(samples: Sequence[Sample], now_minute: int, minutes: int = 180) -> int:
    """The most deliveries of one minute in the last hours."""
    recent = [sample for sample in samples if sample.minute > now_minute - minutes]
    return max((sample.core_delivered + sample.detail_delivered for sample in recent), default=0)


def accepted_per_minute(samples: Sequence[Sample], now_minute: int, minutes: int = 5) -> float | None:
    """How many call logs were accepted a minute, in the mean; None without a sample."""
    recent = [sample.accepted for sample in samples if sample.minute > now_minute - minutes]
    return sum(recent) / len(recent) if recent else None


# The recorder takes the samples, a minute each, and knows the pace of the gateway from them.

MINUTE = 60_000
"""Milliseconds."""
_WINDOW = 6
"""Snapshots of histograms and backlogs, a minute apart: what is said of them is of the last five minutes."""

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
        self._backlogs: deque[Backlog] = deque(maxlen=_WINDOW)
        self._failing = False

    async def open(self, directory: Path) -> None:
        """Read what a gateway before this one left in the spool's directory."""
        await asyncio.to_thread(self.history.open, directory, self._clock())
        self._events.restore([(note.at, note.level, note.text) for note in self.history.events])

    async def run(
        self, stats: Callable[[], SpoolStats], destinations: Callable[[], tuple[DestinationStatus, ...]]
    ) -> None:
        """A sample at the end of each minute, until cancelled."""
        self._before = self._before or self._totals(stats())
        while True:
            now = self._clock()
            await asyncio.sleep((MINUTE - now % MINUTE) / 1000 + 0.01)
            await self.take(stats(), destinations())

    async def take(self, stats: SpoolStats, destinations: tuple[DestinationStatus, ...]) -> None:
        """Take the sample of the minute that has just ended."""
        now = self._clock()
        totals = self._totals(stats)
        before, self._before = self._before or totals, totals
        backlog = backlog_of(stats)
        self._backlogs.append(backlog)
        waiting = {lane: sum(count for (_, of), count in backlog.items() if of is lane) for lane in Lane}
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
        self.history.add(sample)
        await self._write(sample)

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
            shrinking=shrinking(self._backlogs[0], backlog_of(stats)) if self._backlogs and stats else {},
            best_per_minute=best_rate(samples, minute),
            disk_free_bytes=disk_free_bytes,
        )

    async def save(self) -> None:
        """Write the notes, at the end."""
        await self._write(None)

    def _totals(self, stats: SpoolStats) -> _Totals:
        delivered = dict.fromkeys(Lane, 0)
        for (_, lane), counts in stats.lanes.items():
            delivered[lane] += counts.delivered
        return _Totals(self._metrics.accepted(), delivered[Lane.CORE], delivered[Lane.DETAIL])

    async def _write(self, sample: Sample | None) -> None:
        """What is written is gathered here: another thread would meet pages and events that come meanwhile."""
        notes = self.history.notes([Note(*each) for each in self._events.kept()])
        try:
            await asyncio.to_thread(self.history.write, sample, notes)
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
