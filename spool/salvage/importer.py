"""The importer: brings the records of another database into this spool, each in bounded transactions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from spool.db import sql
from spool.db.sql import HELD_FOR_CORE, HELD_FOR_TENANT, checksum_of, encode_fragments, uid_of
from spool.db.transaction import Transaction
from spool.db.writer import GROUP_HEAVY_BYTES, Writer
from spool.errors import CallHasEnded, CorruptPayload, TooMuchLive
from spool.live_calls import HeardCall, LiveCall, NewTurn
from spool.payload.frames import Frame, Seal, decode, places_of
from spool.queue.accept import earlier_posts, is_superseded, require_orphans, was_given_up, wrapped_key
from spool.queue.ingest import OVERHEAD_BYTES, Ingest, WritesInFlight
from spool.queue.live import LiveCalls, hear
from spool.queue.ordering import Sibling, initial_state
from spool.queue.reclaim import OrphanChunks
from spool.queue.settle import read_delivery, record_chunks
from spool.queue.traces import Traces, add_spans
from spool.records import Clock, Delivery, DeliveryState, DestinationIds, NewSpans
from spool.salvage import model
from spool.salvage.model import (
    Outcome,
    SourceDelivery,
    SourceRecord,
    SourceSpans,
    SourceTurn,
    Tally,
    UnreadableRecord,
    UnreadableSpans,
)
from spool.salvage.reader import DecryptedSource, keys_beside, opened_source
from spool.space import Quota

Chunk = tuple[int, int, bytes]
"""Its id here, its checksum, and the frame."""

Supersedes = Mapping[str, str]
"""By event: the event of the call after which it is not sent any more."""


@dataclass(frozen=True, slots=True)
class Imported:
    """The outcome of one record, what may be sent at once, and how many deliveries it has, by state."""

    outcome: Outcome
    ready: tuple[Delivery, ...] = ()
    deliveries: Mapping[DeliveryState, int] | None = None


def add_destinations(transaction: Transaction, names: Sequence[str]) -> dict[int, str]:
    """Know these destinations, whether the configuration has them or not; returns all destinations by their numbers."""
    for name in names:
        transaction.execute(sql.ADD_DESTINATION, (name,))
    return dict(transaction.execute(sql.ALL_DESTINATIONS).fetchall())


def should_import(transaction: Transaction, source: SourceRecord, spool_id: str, supersedes: Supersedes) -> Outcome:
    """IMPORTED where it should be; otherwise why not: it may be there already, or of no use any more."""
    record = source.record
    if transaction.execute(model.BY_ORIGIN, (record.uid,)).fetchone() is not None:
        return Outcome.THERE
    own = record.uid == uid_of(spool_id, record.record_id)
    if own and transaction.execute(sql.READ_RECORD, (record.record_id,)).fetchone() is not None:
        return Outcome.THERE
    earlier = earlier_posts(transaction, record.call_id, record.principal)
    for record_id, event, digest, *_ in earlier:
        if (event, digest) == (record.event, record.digest) and not was_given_up(transaction, record_id):
            return Outcome.DUPLICATE
    superseded = is_superseded(supersedes.get(record.event), source.happened_at, earlier)
    return Outcome.SUPERSEDED if superseded else Outcome.IMPORTED


def import_chunks(transaction: Transaction, chunks: Sequence[Chunk], whole: tuple[int, int], *, register: bool) -> None:
    """Write a part of a large payload ahead of its record; the first part registers the `whole` range as orphans."""
    if register:
        transaction.execute(sql.ADD_ORPHAN_CHUNKS, whole)
    else:
        require_orphans(transaction, whole[0])
    for chunk in chunks:
        transaction.chunks.add(chunk)


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """What the import of one record needs: the record, and the last of its chunks."""

    source: SourceRecord
    first_chunk: int
    chunks: Sequence[Chunk]
    orphaned: bool
    """Whether earlier chunks are in this spool already, as orphans."""
    key: bytes | None
    """The data key of the chunks, where they are sealed."""


def import_record(
    transaction: Transaction,
    task: ImportRecord,
    supersedes: Supersedes,
    destinations: DestinationIds,
    now: int,
) -> Imported:
    """Write a record, the last of its chunks, and its deliveries, in the order of its call, after what is here already.

    Its name outside stays what it was, so that keys are those of the attempts before.
    """
    outcome = should_import(transaction, task.source, destinations.spool_id, supersedes)
    if outcome is not Outcome.IMPORTED:
        return Imported(outcome)
    if task.orphaned:
        require_orphans(transaction, task.first_chunk)
        transaction.execute(sql.FORGET_ORPHAN_CHUNKS, (task.first_chunk,))
    for chunk in task.chunks:
        transaction.chunks.add(chunk)
    record_id = _write_record(transaction, task.source, task.first_chunk, task.key)
    siblings = [_sibling(one, destinations) for one in task.source.deliveries]
    counts: dict[DeliveryState, int] = {}
    ready = []
    for one, sibling in zip(task.source.deliveries, siblings, strict=True):
        state = one.state
        if state.queued and not _held_for_tenant(task.source, one):
            record = task.source.record
            state = initial_state(transaction, record.call_id, record.principal, record_id, sibling, siblings)
        _enqueue(transaction, record_id, task.source, one, state, destinations, now)
        counts[state] = counts.get(state, 0) + 1
        if state is DeliveryState.READY:
            ready.append(sibling)
    freed = [read_delivery(transaction, record_id, one.destination_id, one.form, destinations) for one in ready]
    return Imported(outcome, tuple(freed), counts)


def _write_record(transaction: Transaction, source: SourceRecord, first_chunk: int, key: bytes | None) -> int:
    """Its row, with a number of this spool's."""
    record, token = source.record, source.token
    transaction.known.begins_call(record.call_id)  # a post of this call in the same transaction is not its first
    token_id = transaction.tokens.use(transaction.connection, token) if token else None
    record_id = transaction.new_record_id()
    row = (
        record_id, record.call_id, record.agent_id, record.event, record.environment, record.digest,
        record.raw_bytes, record.stored_bytes, record.accepted_at, token_id, first_chunk,
        encode_fragments(record.fragments), record.uid,
    )  # fmt: skip
    whose = (record.tenant, record.principal, record.via)
    wrapped = wrapped_key(transaction, key, record.uid)
    more = (
        checksum_of(row, *whose),
        *whose,
        source.happened_at,
        source.post_key,
        None,
        None,
        None,
        *wrapped,
        record.trace_context,
    )
    transaction.records.add((*row[:12], False, None, record.uid, *more))
    transaction.tenants.add(record.tenant, record.stored_bytes)
    return record_id


def _held_for_tenant(source: SourceRecord, one: SourceDelivery) -> bool:
    """Whether it stays held until somebody says whose call it is, as what is held for a reason that is not known."""
    unassigned = source.record.tenant == sql.UNASSIGNED
    return unassigned and one.state is DeliveryState.HELD and one.held_for in {HELD_FOR_TENANT, None}


def _sibling(one: SourceDelivery, destinations: DestinationIds) -> Sibling:
    """As the order sees it: what was held is tried again, and held again if that is refused."""
    ids = destinations.ids
    state = DeliveryState.READY if one.state.queued else one.state
    after = None if one.after is None else ids[one.after]
    return Sibling(ids[one.destination], one.form, one.lane, state, one.ordered, after, None)


def _enqueue(
    transaction: Transaction,
    record_id: int,
    source: SourceRecord,
    one: SourceDelivery,
    state: DeliveryState,
    destinations: DestinationIds,
    now: int,
) -> None:
    """One row, and the counters."""
    ids = destinations.ids
    held_for = None
    if state is DeliveryState.HELD:
        held_for = HELD_FOR_TENANT if _held_for_tenant(source, one) else HELD_FOR_CORE
    settled_at = None if state.queued else one.settled_at or now
    values = (
        record_id, ids[one.destination], one.form, one.lane, state, one.ordered,
        None if one.after is None else ids[one.after], one.attempts, min(one.due_at, now), one.first_failed_at,
        settled_at, held_for, one.location, one.error,
    )  # fmt: skip
    transaction.execute(model.ADD_DELIVERY, values)
    transaction.counters.enqueue(ids[one.destination], one.lane, state, source.record.bytes_of(one.form))


def import_spans(
    transaction: Transaction, one: SourceSpans, new: NewSpans, source_id: str, spool_id: str, now: int
) -> bool:
    """Write a row of an open trace; False where it is here already, or its call log is.

    Rows come in their order: how far an import is stands beside each, for a repetition.
    """
    place = f"spans_of_{source_id}"
    row = transaction.execute(sql.READ_META, (place,)).fetchone()
    if row is not None and one.row_id <= int(row[0]):
        return False
    own = source_id == spool_id
    if own and transaction.execute(model.SPANS_HERE, (one.row_id, one.crc32)).fetchone() is not None:
        return False
    frame = Frame(one.frame, len(new.data), one.crc32)
    add_spans(transaction, [(new, frame)], one.token, one.principal, now)
    transaction.execute(model.KEEP_CLOSED, (one.closed, one.trace_id, one.principal))
    transaction.execute(model.WRITE_PLACE, (place, one.row_id))
    return True


def import_turn(transaction: Transaction, one: SourceTurn, source_id: str) -> LiveCall | None:
    """Write a live call, or a turn of one; None where the call has ended here, or the turn is here already.

    A call that is live here stays so; one whose agent was lost before stays lost.
    """
    place, key = f"turns_of_{source_id}", (one.call_id, one.principal)
    row = transaction.execute(sql.READ_META, (place,)).fetchone()
    if row is not None and one.number <= int(row[0]):
        return None
    if one.turn is not None and transaction.execute(model.TURN_HERE, (*key, one.turn)).fetchone() is not None:
        return None
    here = transaction.execute(model.LIVE_HERE, key).fetchone()
    turns = () if one.turn is None else (NewTurn(one.turn, one.place, b""),)
    frames = {} if one.turn is None else {one.turn: Frame(one.frame, one.raw_bytes, one.crc32)}
    heard = HeardCall(*key, one.agent_id, None, one.started_at, turns)
    try:
        call = hear(transaction, heard, frames, one.token, max(one.last_at, here[1]) if here else one.last_at)
    except (CallHasEnded, TooMuchLive):
        return None
    call.first_at = min(call.first_at, one.first_at)
    call.open = one.open or bool(here is not None and here[0])
    transaction.execute(model.KEEP_LIVE, (call.first_at, int(call.open), *key))
    transaction.execute(model.WRITE_PLACE, (place, one.number))
    return call


# One import: record after record out of the other database, each into this one.

READING = "reading records"
READING_SPANS = "reading spans"
READING_TURNS = "reading turns"


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is."""

    what: str
    done: int
    total: int
    """0 where that is not known."""


@dataclass(frozen=True, slots=True)
class ImportTarget:
    """The parts of this spool that an import writes through."""

    writer: Writer
    quota: Quota
    destinations: DestinationIds
    ingest: Ingest
    orphans: OrphanChunks
    clock: Clock
    announce: Callable[[tuple[Delivery, ...]], None]
    traces: Traces
    live: LiveCalls
    in_flight: WritesInFlight
    is_erased: Callable[[str, str, str | None], bool]
    """Whether what this principal posted of this call, and agent, is refused, because it was erased."""


class Importer:
    """Imports the records of the database in `directory`; with `dry_run` only counts what it would import."""

    def __init__(self, target: ImportTarget, directory: Path, supersedes: Supersedes, *, dry_run: bool) -> None:
        self.tally = Tally()
        self._target = target
        self._directory = directory
        self._supersedes = supersedes
        self._dry_run = dry_run

    async def steps(self) -> AsyncIterator[Step]:
        """Do it, and report how far it is. Raises `SpoolFull` where this spool has no room: repeat it when it has.

        Raises `CorruptDatabase` where nothing at all can be read.
        """
        with ExitStack() as stack:
            keys = stack.enter_context(keys_beside(self._directory, self._target.writer.keys.ring))
            opening = opened_source(self._directory)
            source = DecryptedSource(await asyncio.to_thread(stack.enter_context, opening), keys)
            if not self._dry_run:
                await self._add_destinations(source)
            records = source.records()
            yield Step(READING, 0, source.last_record)
            while (one := await asyncio.to_thread(next, records, None)) is not None:
                outcome = await self._one(source, one)
                self.tally.outcomes[outcome] += 1
                at = one.record_id if isinstance(one, UnreadableRecord) else one.record.record_id
                yield Step(READING, at, source.last_record)
            yield Step(READING, 1, 1)
            rows = source.spans()
            while (row := await asyncio.to_thread(next, rows, None)) is not None:
                with self._target.in_flight.write(None):  # whose call a trace is of may stand in an earlier row
                    await self._spans(source.spool_id, row)
                yield Step(READING_SPANS, row.row_id, 0)
            turns = source.turns()
            while (turn := await asyncio.to_thread(next, turns, None)) is not None:
                with self._target.in_flight.write(None if isinstance(turn, UnreadableSpans) else turn.call_id):
                    await self._turn(source.spool_id, turn)
                yield Step(READING_TURNS, self.tally.turns, 0)

    async def _add_destinations(self, source: DecryptedSource) -> None:
        """Names that only the other database knows are known here from now on."""
        operation = partial(add_destinations, names=tuple(source.destinations.values()))
        self._target.destinations.add(await self._target.writer.submit(operation))

    async def _one(self, source: DecryptedSource, one: SourceRecord | UnreadableRecord) -> Outcome:
        """Import one record, or say why not."""
        if isinstance(one, UnreadableRecord):
            self.tally.unreadable.append(one)
            return Outcome.UNREADABLE
        if not one.open:
            return Outcome.ENDED
        record = one.record
        with self._target.in_flight.write(record.call_id):  # an order to erase the call waits for what is written of it
            if self._target.is_erased(record.call_id, record.principal or "", record.agent_id):
                return Outcome.ERASED
            return await self._open_record(source, one)

    async def _open_record(self, source: DecryptedSource, one: SourceRecord) -> Outcome:
        """The same of a record of which something is owed."""
        question = partial(
            should_import, source=one, spool_id=self._target.destinations.spool_id, supersedes=self._supersedes
        )
        outcome = await self._target.writer.submit(question)
        lost_token = one.record.token_id is not None and one.token is None
        if outcome is Outcome.THERE:
            self.tally.incomplete += lost_token or await self._readable(source, one) is Outcome.DAMAGED
        if outcome is not Outcome.IMPORTED:
            return outcome
        outcome = await (self._count(source, one) if self._dry_run else self._import(source, one))
        self.tally.without_token += lost_token
        self.tally.incomplete += lost_token or outcome is Outcome.DAMAGED
        return outcome

    async def _spans(self, source_id: str, row: SourceSpans | UnreadableSpans) -> None:
        """Import a row of an open trace: its call log is made here, when the trace is closed."""
        if isinstance(row, UnreadableSpans):
            self.tally.lost_span_rows += 1
            return
        if self._target.is_erased(row.call_id or row.trace_id.hex(), row.principal, row.agent_id):
            return
        try:
            data = await asyncio.to_thread(decode, row.frame)
        except CorruptPayload:
            self.tally.lost_span_rows += 1
            return
        spans = row.spans or data.count(b"\n") + 1
        new = NewSpans(row.trace_id, data, spans, row.call_id, row.agent_id, row.ended)
        if not self._dry_run:
            target, size = self._target, len(row.frame) + OVERHEAD_BYTES
            operation = partial(
                import_spans,
                one=row,
                new=new,
                source_id=source_id,
                spool_id=target.destinations.spool_id,
                now=target.clock(),
            )
            with target.quota.reserve(2 * size, target.writer.total_bytes):
                if not await target.writer.submit(operation, size):
                    return
            target.traces.imported(new, row.principal, row.closed)
        self.tally.spans += spans

    async def _turn(self, source_id: str, one: SourceTurn | UnreadableSpans) -> None:
        """Import a live call, or a turn of one: where its agent is not heard of, it is lost here."""
        if isinstance(one, UnreadableSpans):
            self.tally.lost_turns += 1
            return
        if self._target.is_erased(one.call_id, one.principal, one.agent_id):
            return
        if not self._dry_run:
            target, size = self._target, len(one.frame) + OVERHEAD_BYTES
            with target.quota.reserve(2 * size, target.writer.total_bytes):
                call = await target.writer.submit(partial(import_turn, one=one, source_id=source_id), size)
            if call is None:
                return
            target.live.bring(call)
        self.tally.turns += one.turn is not None

    async def _readable(self, source: DecryptedSource, one: SourceRecord) -> Outcome:
        """IMPORTED where all of its payload can be read, else DAMAGED."""
        return _outcome(one, await asyncio.to_thread(lambda: sum(1 for _ in source.chunks(one, _chunks_of(one)))))

    async def _count(self, source: DecryptedSource, one: SourceRecord) -> Outcome:
        """As if it were imported."""
        outcome = await self._readable(source, one)
        self.tally.payload_bytes += one.record.stored_bytes
        self.tally.deliveries.update(delivery.state for delivery in one.deliveries)
        return outcome

    async def _import(self, source: DecryptedSource, one: SourceRecord) -> Outcome:
        """Its chunks in parts, the last one with the record."""
        target, wanted = self._target, _chunks_of(one)
        whole, orphaned = 0, False
        seal = Seal.new() if target.writer.keys.enabled else None
        with target.ingest.chunk_ids(len(wanted)) as first:
            batches = _batches(source, one, first, seal)
            batch = await asyncio.to_thread(_next, batches)
            while following := await asyncio.to_thread(_next, batches):
                part = partial(
                    import_chunks, chunks=batch, whole=(first, first + len(wanted) - 1), register=not orphaned
                )
                with target.quota.reserve(_size(batch), target.writer.total_bytes):
                    await target.writer.submit(part, _size(batch))
                whole, orphaned, batch = whole + len(batch), True, following
            operation = partial(
                import_record,
                task=ImportRecord(one, first, batch, orphaned, None if seal is None else seal.key),
                supersedes=self._supersedes,
                destinations=target.destinations,
                now=target.clock(),
            )
            with target.quota.reserve(_size(batch) + OVERHEAD_BYTES, target.writer.total_bytes):
                imported = await target.writer.submit(operation, _size(batch) + OVERHEAD_BYTES)
        target.orphans.appeared.set()
        if imported.outcome is not Outcome.IMPORTED:
            return imported.outcome
        target.announce(imported.ready)
        self.tally.deliveries.update(imported.deliveries or {})
        self.tally.payload_bytes += one.record.stored_bytes
        return _outcome(one, whole + len(batch))


def _chunks_of(one: SourceRecord) -> range:
    """All chunks of a record, in the numbers of its own database."""
    first = one.record.first_chunk
    return range(first, first + record_chunks(one.record))


def _outcome(one: SourceRecord, whole: int) -> Outcome:
    return Outcome.IMPORTED if whole == record_chunks(one.record) else Outcome.DAMAGED


def _size(batch: list[Chunk]) -> int:
    return sum(len(frame) for _, _, frame in batch)


def _next(batches: Iterator[list[Chunk]]) -> list[Chunk]:
    """The next batch; an empty one after the last."""
    return next(batches, [])


def _batches(source: DecryptedSource, one: SourceRecord, first: int, seal: Seal | None) -> Iterator[list[Chunk]]:
    """The chunks that can be read, with their new numbers, sealed anew, a bounded number of bytes at a time."""
    batch: list[Chunk] = []
    placed = places_of(one.record.fragments)
    for number, checksum, data in source.chunks(one, _chunks_of(one)):
        frame = Frame(data, len(data), checksum)
        frame = frame if seal is None else seal.seal(frame, placed[number])
        batch.append((first + number, frame.crc32, frame.data))
        if _size(batch) >= GROUP_HEAVY_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch
