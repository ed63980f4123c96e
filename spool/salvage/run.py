"""One salvage: record after record out of the other database, each into this one, each in bounded transactions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from spool.line import GROUP_HEAVY_BYTES
from spool.quota import Quota
from spool.receiving import OVERHEAD_BYTES, Receiver
from spool.records import Delivery
from spool.salvage.bring import Bring, BringChunks, Chunk, Judge, LearnDestinations
from spool.salvage.found import Found, Outcome, Tally, Unreadable
from spool.salvage.source import Source, opened_source
from spool.settling import Names, record_chunks
from spool.writer import Writer

READING = "reading records"


@dataclass(frozen=True, slots=True)
class Step:
    """How far a salvage is."""

    what: str
    done: int
    total: int
    """0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of this spool that a salvage writes through."""

    writer: Writer
    quota: Quota
    names: Names
    receiver: Receiver
    clock: Callable[[], int]
    announce: Callable[[tuple[Delivery, ...]], None]


class Salvage:
    """Brings the records of the database in `directory`; with `dry_run` only says what it would bring."""

    def __init__(self, target: Target, directory: Path, supersedes: Mapping[str, str], *, dry_run: bool) -> None:
        self.tally = Tally()
        self._target = target
        self._directory = directory
        self._supersedes = supersedes
        self._dry_run = dry_run

    async def steps(self) -> AsyncIterator[Step]:
        """Do it, telling how far it is. Raises `SpoolFull` where this spool has no room: repeat it when it has.

        Raises `CorruptDatabase` where nothing at all can be read.
        """
        with ExitStack() as stack:
            told: list[Step] = []
            opening = opened_source(self._directory, lambda *step: told.append(Step(*step)))
            source = await asyncio.to_thread(stack.enter_context, opening)
            if not self._dry_run:
                await self._learn(source)
            records = source.records()
            yield Step(READING, 0, source.last_record)
            while (found := await asyncio.to_thread(next, records, None)) is not None:
                outcome = await self._one(source, found)
                self.tally.outcomes[outcome] += 1
                at = found.record_id if isinstance(found, Unreadable) else found.record.record_id
                yield Step(READING, at, source.last_record)
            yield Step(READING, 1, 1)

    async def _learn(self, source: Source) -> None:
        """Names that only the other database knows are known here from now on."""
        known = await self._target.writer.submit(LearnDestinations(tuple(source.destinations.values())))
        self._target.names.learn(known)

    async def _one(self, source: Source, found: Found | Unreadable) -> Outcome:
        """Bring one record, or say why not."""
        if isinstance(found, Unreadable):
            self.tally.unreadable.append(found)
            return Outcome.UNREADABLE
        if not found.open:
            return Outcome.ENDED
        judge = Judge(found, self._target.names.spool_id, self._supersedes)
        outcome = await self._target.writer.submit(judge)
        if outcome is not Outcome.BROUGHT:
            return outcome
        outcome = await (self._read(source, found) if self._dry_run else self._bring(source, found, judge))
        if found.record.token_id is not None and found.token is None:
            self.tally.without_token += 1
        return outcome

    async def _read(self, source: Source, found: Found) -> Outcome:
        """As if it were brought."""
        whole = await asyncio.to_thread(lambda: sum(1 for _ in source.chunks(_chunks_of(found))))
        self.tally.payload_bytes += found.record.stored_bytes
        self.tally.deliveries.update(delivery.state for delivery in found.deliveries)
        return _outcome(found, whole)

    async def _bring(self, source: Source, found: Found, judge: Judge) -> Outcome:
        """Its chunks in parts, the last one with the record."""
        target, wanted = self._target, _chunks_of(found)
        whole, loose = 0, False
        with target.receiver.reserved(len(wanted)) as first:
            batches = _batches(source, wanted, first)
            batch = await asyncio.to_thread(_next, batches)
            while following := await asyncio.to_thread(_next, batches):
                operation = BringChunks(batch, (first, first + len(wanted) - 1), register=not loose)
                with target.quota.promised(_size(batch), target.writer.total_bytes):
                    await target.writer.submit(operation, _size(batch))
                whole, loose, batch = whole + len(batch), True, following
            bring = Bring(found, first, batch, loose, judge, target.names, target.clock())
            with target.quota.promised(_size(batch) + OVERHEAD_BYTES, target.writer.total_bytes):
                outcome, ready, counts = await target.writer.submit(bring, _size(batch) + OVERHEAD_BYTES)
        if outcome is not Outcome.BROUGHT:
            return outcome
        target.announce(ready)
        self.tally.deliveries.update(counts)
        self.tally.payload_bytes += found.record.stored_bytes
        return _outcome(found, whole + len(batch))


def _chunks_of(found: Found) -> range:
    """All chunks of a record, in the numbers of its own database."""
    first = found.record.first_chunk
    return range(first, first + record_chunks(found.record))


def _outcome(found: Found, whole: int) -> Outcome:
    return Outcome.BROUGHT if whole == record_chunks(found.record) else Outcome.DAMAGED


def _size(batch: list[Chunk]) -> int:
    return sum(len(frame) for _, _, frame in batch)


def _next(batches: Iterator[list[Chunk]]) -> list[Chunk]:
    """The next batch; an empty one after the last."""
    return next(batches, [])


def _batches(source: Source, wanted: range, first: int) -> Iterator[list[Chunk]]:
    """The chunks that can be read, with their new numbers, a bounded number of bytes at a time."""
    batch: list[Chunk] = []
    for place, checksum, frame in source.chunks(wanted):
        batch.append((first + place, checksum, frame))
        if _size(batch) >= GROUP_HEAVY_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch
