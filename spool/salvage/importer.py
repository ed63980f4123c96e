"""The operations that write a found record into this spool."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from spool.db import sql
from spool.db.sql import HELD_FOR_CORE, checksum_of, encode_fragments, uid_of
from spool.db.transaction import Transaction
from spool.db.writer import GROUP_HEAVY_BYTES, Writer
from spool.queue.accept import still_loose
from spool.queue.ingest import OVERHEAD_BYTES, Receiver
from spool.queue.ordering import Sibling, place
from spool.queue.settle import Names, read_delivery, record_chunks
from spool.records import Delivery, DeliveryState
from spool.salvage import model
from spool.salvage.model import Found, FoundDelivery, Outcome, Tally, Unreadable
from spool.salvage.source import Source, opened_source
from spool.space import Quota

Chunk = tuple[int, int, bytes]
"""Its id here, its checksum, and the frame."""


@dataclass(frozen=True, slots=True)
class LearnDestinations:
    """Know these destinations, whether the configuration has them or not."""

    names: tuple[str, ...]

    def __call__(self, transaction: Transaction) -> dict[int, str]:
        """Returns all destinations by their numbers."""
        for name in self.names:
            transaction.execute(sql.ADD_DESTINATION, (name,))
        return dict(transaction.execute(sql.ALL_DESTINATIONS).fetchall())


@dataclass(frozen=True, slots=True)
class Judge:
    """Whether a record is to be brought: it may be there already, or of no use any more."""

    found: Found
    spool_id: str
    supersedes: Mapping[str, str]
    """By event: the event of the call after which it is not sent any more."""

    def __call__(self, transaction: Transaction) -> Outcome:
        """Reads only."""
        record = self.found.record
        if transaction.execute(model.BY_ORIGIN, (record.uid,)).fetchone() is not None:
            return Outcome.THERE
        own = record.uid == uid_of(self.spool_id, record.record_id)
        if own and transaction.execute(sql.READ_RECORD, (record.record_id,)).fetchone() is not None:
            return Outcome.THERE
        earlier = transaction.execute(sql.EARLIER_OF_CALL, (record.call_id,)).fetchall()
        for record_id, event, digest, *_ in earlier:
            if (event, digest) == (record.event, record.digest) and not _given_up(transaction, record_id):
                return Outcome.DUPLICATE
        later = self.supersedes.get(record.event)
        return Outcome.SUPERSEDED if any(event == later for _, event, *_ in earlier) else Outcome.BROUGHT


def _given_up(transaction: Transaction, record_id: int) -> bool:
    """Whether a record was expired or discarded: then it is no original of anything."""
    return transaction.execute(sql.GIVEN_UP, (record_id,)).fetchone() is not None


@dataclass(frozen=True, slots=True)
class BringChunks:
    """Write a part of a large payload ahead of its record; the first part registers the range as loose."""

    chunks: Sequence[Chunk]
    loose_range: tuple[int, int]
    register: bool

    def __call__(self, transaction: Transaction) -> None:
        """One bounded transaction."""
        if self.register:
            transaction.execute(sql.ADD_LOOSE_CHUNKS, self.loose_range)
        else:
            still_loose(transaction, self.loose_range[0])
        for chunk in self.chunks:
            transaction.chunks.add(chunk)


@dataclass(frozen=True, slots=True)
class Bring:
    """Write a record, the last of its chunks, and its deliveries, in the order of its call, after what is here already.

    Its name outside stays what it was, so that keys are those of the attempts before.
    """

    found: Found
    first_chunk: int
    chunks: Sequence[Chunk]
    loose: bool
    judge: Judge
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Outcome, tuple[Delivery, ...], dict[DeliveryState, int]]:
        """Returns what came of it, what may be sent at once, and how many deliveries it brought, by state."""
        outcome = self.judge(transaction)
        if outcome is not Outcome.BROUGHT:
            return outcome, (), {}
        if self.loose:
            still_loose(transaction, self.first_chunk)
            transaction.execute(sql.FORGET_LOOSE_CHUNKS, (self.first_chunk,))
        for chunk in self.chunks:
            transaction.chunks.add(chunk)
        record_id = self._write_record(transaction)
        counts: dict[DeliveryState, int] = {}
        ready = []
        for one, state in self._placed(transaction, record_id):
            self._owe(transaction, record_id, one, state)
            counts[state] = counts.get(state, 0) + 1
            if state is DeliveryState.READY:
                ready.append(one)
        ids = self.names.ids
        return (
            outcome,
            tuple(read_delivery(transaction, record_id, ids[one.destination], one.form, self.names) for one in ready),
            counts,
        )

    def _write_record(self, transaction: Transaction) -> int:
        """Its row, with a number of this spool's."""
        record, token = self.found.record, self.found.token
        transaction.known.begins_call(record.call_id)  # a post of this call in the same transaction is not its first
        token_id = transaction.tokens.use(transaction.connection, token) if token else None
        record_id = transaction.new_record_id()
        row = (
            record_id, record.call_id, record.agent_id, record.event, record.environment, record.digest,
            record.raw_bytes, record.stored_bytes, record.accepted_at, token_id, self.first_chunk,
            encode_fragments(record.fragments), record.uid,
        )  # fmt: skip
        transaction.records.add((*row[:12], False, None, record.uid, checksum_of(row)))
        return record_id

    def _placed(self, transaction: Transaction, record_id: int) -> list[tuple[FoundDelivery, DeliveryState]]:
        """Every delivery with the state that it has here: what is queued gets a place, what is not keeps its state."""
        siblings = [self._sibling(one) for one in self.found.deliveries]
        placed = []
        for one, sibling in zip(self.found.deliveries, siblings, strict=True):
            if not one.state.queued:
                placed.append((one, one.state))
                continue
            state = place(transaction, self.found.record.call_id, record_id, sibling, siblings)
            placed.append((one, state))
        return placed

    def _sibling(self, one: FoundDelivery) -> Sibling:
        """As the order sees it: what was held is tried again, and held again if that is refused."""
        ids = self.names.ids
        state = DeliveryState.READY if one.state.queued else one.state
        after = None if one.after is None else ids[one.after]
        return Sibling(ids[one.destination], one.form, one.lane, state, one.ordered, after, None)

    def _owe(self, transaction: Transaction, record_id: int, one: FoundDelivery, state: DeliveryState) -> None:
        """One row, and the books."""
        ids = self.names.ids
        held_for = HELD_FOR_CORE if state is DeliveryState.HELD else None
        settled_at = None if state.queued else one.settled_at or self.now
        values = (
            record_id, ids[one.destination], one.form, one.lane, state, one.ordered,
            None if one.after is None else ids[one.after], one.attempts, min(one.due_at, self.now), one.first_failed_at,
            settled_at, held_for, one.location, one.error,
        )  # fmt: skip
        transaction.execute(model.ADD_DELIVERY, values)
        transaction.counters.owe(ids[one.destination], one.lane, state, self.found.record.raw_bytes)


# One salvage: record after record out of the other database, each into this one, each in bounded transactions.

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
    for number, checksum, frame in source.chunks(wanted):
        batch.append((first + number, checksum, frame))
        if _size(batch) >= GROUP_HEAVY_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch
