"""The gateway's own history: a sample a minute for a day, and the outages of destinations.

It lies in two small files beside the spool's database, so that the admin page and `callspool top` show the last hours
without a metrics server, and a restart loses none of them. The samples are a ring of fixed slots (69 KB): a minute
replaces that of the day before, and a slot that was torn by a crash does not match its checksum and is left out.
Nothing is fsynced, and nothing else depends on these files: they may be deleted at any time.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

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
    """The history of one gateway: in memory, and in its files once it was opened. For one thread at a time."""

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
        """Keep a sample. Raises `OSError` where the file cannot be written; the sample is in memory all the same."""
        while self.samples and self.samples[-1].minute >= sample.minute:  # the clock was set back
            self.samples.pop()
        self.samples.append(sample)
        if self._directory is not None:
            self._write_slot(self._directory / SAMPLES_NAME, sample)

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

    def save(self, events: Sequence[Note]) -> None:
        """Write outages and events if they changed. Raises `OSError`."""
        notes = msgspec.json.encode(_Notes(list(self.outages), list(events)))
        if self._directory is None or notes == self._written:
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


def best_rate(samples: Sequence[Sample], now_minute: int, minutes: int = 180) -> int:
    """The most deliveries of one minute in the last hours."""
    recent = [sample for sample in samples if sample.minute > now_minute - minutes]
    return max((sample.core_delivered + sample.detail_delivered for sample in recent), default=0)


def accepted_per_minute(samples: Sequence[Sample], now_minute: int, minutes: int = 5) -> float | None:
    """How many call logs were accepted a minute, in the mean; None without a sample."""
    recent = [sample.accepted for sample in samples if sample.minute > now_minute - minutes]
    return sum(recent) / len(recent) if recent else None
