"""Getting space back: eviction of details from a full spool, and orphan chunks.

- Eviction: where its operator wants that, the oldest details of a full spool go, and their space is free.
- Orphan chunks: payloads that belong to no record are deleted in bounded steps, between which posts are committed.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from spool.db import sql
from spool.db.sql import Row, checksum_of, encode_fragments, record_of
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.payload.frames import chunk_range
from spool.queue.ordering import Sibling, siblings_of
from spool.queue.settle import end_record, free_waiting, record_chunks
from spool.records import (
    DETAIL_FORMS,
    FORMS_WITH_DETAIL,
    Clock,
    Delivery,
    DeliveryState,
    DestinationIds,
    Form,
    Fragment,
    Lane,
    Record,
    StoredFragment,
)
from spool.space import Quota

# Orphan chunks.

CHUNKS_PER_STEP = 4
"""Up to 4 MiB of payload: some 15 ms at 250 MB/s, were all of it incompressible."""
RANGES_PER_STEP = 64


class OrphanChunks:
    """Deletes chunks that no record owns, but those that are still coming in. For the event loop."""

    def __init__(self, writer: Writer) -> None:
        self.appeared = asyncio.Event()
        """Set when there may be something to delete."""
        self._writer = writer
        self._incoming: set[int] = set()

    @contextmanager
    def incoming(self, first_chunk: int) -> Iterator[None]:
        """While the block lasts, the range that begins here is still coming in, and stays."""
        self._incoming.add(first_chunk)
        try:
            yield
        finally:
            self._incoming.discard(first_chunk)

    async def delete(self) -> None:
        """Delete all that are there, a step at a time."""
        while await self._writer.submit(partial(delete_orphan_chunks, incoming=frozenset(self._incoming))):
            continue


def delete_orphan_chunks(transaction: Transaction, incoming: frozenset[int], limit: int = CHUNKS_PER_STEP) -> bool:
    """Delete up to `limit` orphan chunks, those with the smallest ids first; returns whether any are left.

    `incoming` are the first chunks of payloads that are still coming in.
    """
    most = RANGES_PER_STEP + len(incoming)
    ranges = transaction.execute(sql.ORPHAN_CHUNKS, (most,)).fetchall()
    left = limit
    for first, last in ranges:
        if first in incoming:
            continue
        if left <= 0:
            return True
        stop = min(last, first + left - 1)
        transaction.execute(sql.DELETE_CHUNKS, (first, stop))
        transaction.execute(sql.FORGET_ORPHAN_CHUNKS, (first,))
        if stop < last:
            transaction.execute(sql.ADD_ORPHAN_CHUNKS, (stop + 1, last))
            return True
        left -= stop - first + 1
    return len(ranges) == most


# Eviction: the oldest details first, and never anything that a dashboard needs at once.

MARGIN_SHARE = 64
"""So much of the quota is made free at once, so that not each post of a full spool has to make its own room, and what
comes in without a length, for which nothing is evicted, finds some."""
RECORDS_PER_STEP = 50
"""Records that one transaction looks at: some milliseconds, between which posts are committed."""


class Evictor:
    """Evicts details until something fits. For the event loop; `announce` hears what may be sent now.

    Room is made for bytes that came, and only where it can suffice: before anything is evicted, it is counted whether
    all that may be evicted is enough for the whole of what comes.
    """

    def __init__(
        self,
        writer: Writer,
        quota: Quota,
        destinations: DestinationIds,
        orphans: OrphanChunks,
        clock: Clock,
        announce: Callable[[tuple[Delivery, ...]], None],
    ) -> None:
        self.evicted: Callable[[int, int], None] | None = None
        """Hears how many details were evicted, and their stored bytes."""
        self._writer = writer
        self._quota = quota
        self._destinations = destinations
        self._orphans = orphans
        self._clock = clock
        self._announce = announce
        self._one_at_a_time = asyncio.Lock()

    async def make_room(self, byte_count: int, *, core: bool, rest: int = 0) -> None:
        """Return when so much fits, or could not be made to. Raises `SpoolUnavailable`.

        `rest` is what comes behind it, about: nothing is evicted where that would not fit as well.
        """
        if self._fits(byte_count, core=core):
            return
        async with self._one_at_a_time:
            if self._fits(byte_count, core=core) or not await self.can_make_room(byte_count + rest, core=core):
                return
            wanted = max(byte_count, self._quota.limit_bytes // MARGIN_SHARE)
            last: int | None = 0
            while last is not None and not self._fits(byte_count, core=core):
                last = await self._evict(wanted, last)

    async def can_make_room(self, byte_count: int, *, core: bool) -> bool:
        """Whether so much fits, or would after an eviction. Reads as much as an eviction would, and changes nothing."""
        missing = self._quota.missing(byte_count, self._writer.total_bytes, core=core)
        last: int | None = 0
        while missing > 0 and last is not None:
            operation = partial(evictable_bytes, after=last, destinations=self._destinations)
            found, last = await self._writer.submit(operation)
            missing -= found
        return missing <= 0

    def _fits(self, byte_count: int, *, core: bool) -> bool:
        return self._quota.fits(byte_count, self._writer.total_bytes, core=core)

    async def _evict(self, wanted: int, after: int) -> int | None:
        """One step; returns the record to continue behind, or None at the end."""
        operation = partial(
            evict_details, payload_bytes=wanted, after=after, destinations=self._destinations, now=self._clock()
        )
        evicted = await self._writer.submit(operation)
        if evicted.deliveries:
            self._announce(evicted.freed)
            if self.evicted is not None:
                self.evicted(evicted.deliveries, evicted.payload_bytes)
            await self._orphans.delete()
        return evicted.last_record


@dataclass(frozen=True, slots=True)
class Evicted:
    """What one step of an eviction did, and where the next one continues."""

    deliveries: int
    payload_bytes: int
    """Stored bytes that nothing needs any more."""
    freed: tuple[Delivery, ...]
    """Deliveries that may be sent now, because they waited for one that was evicted."""
    last_record: int | None
    """The last record that was looked at; None when there are no more."""


def evict_details(
    transaction: Transaction, payload_bytes: int, after: int, destinations: DestinationIds, now: int
) -> Evicted:
    """Expire queued details of records after `after`, oldest first, until `payload_bytes` are free or a step is done.

    A damaged record is passed over, and one whose rest something else still needs (a whole, a dead letter): nothing
    would become free. Dead letters stay. A notice of an object that will not come goes with the detail.
    """
    candidates = _with_queued_detail(transaction, after, destinations)
    deliveries = freed_bytes = 0
    freed: list[Delivery] = []
    for record_id in candidates:
        evictable = _evictable(siblings_of(transaction, record_id))
        row = transaction.execute(sql.READ_RECORD, (record_id,)).fetchone()
        record = record_of(row, destinations.spool_id)
        if evictable and not record.damaged:
            for one in evictable:
                key = (one.destination_id, one.form, one.lane)
                expire(transaction, record, *key, one.state, now)
            freed += free_waiting(transaction, record, destinations)
            freed_bytes += _drop_rest(transaction, record, row, now)
            deliveries += len(evictable)
        if freed_bytes >= payload_bytes:
            return Evicted(deliveries, freed_bytes, tuple(freed), record_id)
    last = candidates[-1] if len(candidates) == RECORDS_PER_STEP else None
    return Evicted(deliveries, freed_bytes, tuple(freed), last)


def evictable_bytes(transaction: Transaction, after: int, destinations: DestinationIds) -> tuple[int, int | None]:
    """How many stored bytes `evict_details` would free in its next step, and the record to continue behind, if any."""
    candidates = _with_queued_detail(transaction, after, destinations)
    found = 0
    for record_id in candidates:
        siblings = siblings_of(transaction, record_id)
        evictable = _evictable(siblings)
        row = transaction.execute(sql.READ_RECORD, (record_id,)).fetchone()
        record = record_of(row, destinations.spool_id)
        if not evictable or record.damaged:
            continue
        rest = record.fragments.get(Fragment.REST)
        ends = all(one.state.ended or one in evictable for one in siblings)
        found += record.stored_bytes if ends else rest.stored_bytes if rest else 0
    return found, candidates[-1] if len(candidates) == RECORDS_PER_STEP else None


def _with_queued_detail(transaction: Transaction, after: int, destinations: DestinationIds) -> list[int]:
    """The next records with a queued detail, in commit order."""
    records: set[int] = set()
    for destination_id in destinations.names:
        for state in DeliveryState:
            if state.queued:
                asked = (destination_id, Lane.DETAIL, state, after, RECORDS_PER_STEP)
                records.update(row[0] for row in transaction.execute(sql.OLDEST_DETAILS, asked))
    return sorted(records)[:RECORDS_PER_STEP]


def _evictable(record: Sequence[Sibling]) -> list[Sibling]:
    """What of a record is evicted: its queued details with the notices of them; nothing if its rest stays needed."""
    details = [one for one in record if one.form in DETAIL_FORMS and one.state.queued]
    if any(one.form in FORMS_WITH_DETAIL and not one.state.ended and one not in details for one in record):
        return []
    expected = {one.destination_id for one in details}
    notices = [
        one for one in record if one.form is Form.NOTICE and one.state.queued and one.after_destination_id in expected
    ]
    return [*details, *notices]


def _drop_rest(transaction: Transaction, record: Record, row: Row, now: int) -> int:
    """Let go of what only the details needed; returns how many stored bytes that were."""
    if end_record(transaction, record, now):
        return record.stored_bytes
    rest = record.fragments.get(Fragment.REST)
    if rest is None or not rest.chunks:
        return 0
    first = chunk_range(record.first_chunk, record.fragments, Fragment.REST).start
    # A stored call id lies behind the rest, and is of use to the detail alone.
    kept: dict[Fragment, StoredFragment] = dict(record.fragments)
    for dropped in (Fragment.REST, Fragment.CALL_ID):
        kept.pop(dropped, None)
    transaction.execute(sql.ADD_ORPHAN_CHUNKS, (first, record.first_chunk + record_chunks(record) - 1))
    fragments, stored_bytes = encode_fragments(kept), sum(each.stored_bytes for each in kept.values())
    columns = (*row[:7], stored_bytes, *row[8:11], fragments, *row[12:])
    checksum = checksum_of(columns, record.tenant, record.principal, record.via)
    transaction.execute(sql.SET_FRAGMENTS, (fragments, stored_bytes, checksum, record.record_id))
    transaction.tenants.add(record.tenant, stored_bytes - record.stored_bytes)
    return record.stored_bytes - stored_bytes


def expire(
    transaction: Transaction,
    record: Record,
    destination_id: int,
    form: Form,
    lane: Lane,
    state: DeliveryState,
    now: int,
) -> None:
    """Let a delivery end as expired."""
    transaction.execute(sql.EXPIRE, (now, record.record_id, destination_id, form))
    transaction.counters.move(destination_id, lane, state, DeliveryState.EXPIRED, record.bytes_of(form))
