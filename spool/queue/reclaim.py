"""Making room in a full spool, where its operator wants that: the oldest details go, and their space is free."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from spool.db import sql
from spool.db.sql import Row, checksum_of, encode_fragments, record_of
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.payload.frames import chunk_range
from spool.queue.ordering import Sibling, siblings_of
from spool.queue.settle import Names, end_record, free_waiting, read_delivery
from spool.records import (
    DETAIL_FORMS,
    FORMS_WITH_DETAIL,
    Delivery,
    DeliveryState,
    Form,
    Fragment,
    Lane,
    Record,
    StoredFragment,
)
from spool.space import Quota

MARGIN_SHARE = 64
"""So much of the quota is made free at once, so that not each post of a full spool has to make its own room."""


class IncomingRanges(Protocol):
    """Knows which loose chunks are still coming in, so that these are not deleted."""

    incoming: set[int]


class RoomMaker:
    """Gives details up until something fits. For the event loop.

    `announce` is told what may be sent now.
    """

    def __init__(
        self,
        writer: Writer,
        quota: Quota,
        names: Names,
        ranges: IncomingRanges,
        clock: Callable[[], int],
        announce: Callable[[tuple[Delivery, ...]], None],
    ) -> None:
        self.gave_up: Callable[[int, int], None] | None = None
        """Told how many details were given up, and their stored bytes."""
        self._writer = writer
        self._quota = quota
        self._names = names
        self._ranges = ranges
        self._clock = clock
        self._announce = announce
        self._one_at_a_time = asyncio.Lock()
        self._soon: asyncio.Task[None] | None = None

    async def make(self, byte_count: int, *, reserve: bool) -> None:
        """Return when so much fits, or nothing is left that could be given up. Raises `SpoolUnavailable`."""
        if self._fits(byte_count, reserve=reserve):
            return
        async with self._one_at_a_time:
            wanted = max(byte_count, self._quota.limit_bytes // MARGIN_SHARE)
            last: int | None = 0
            while last is not None and not self._fits(byte_count, reserve=reserve):
                last = await self._give_up(wanted, last)

    def make_soon(self, byte_count: int) -> None:
        """Begin with it, for what is refused now and will be sent again."""
        busy = self._soon is not None and not self._soon.done()
        if not busy and not self._fits(byte_count, reserve=False):
            self._soon = asyncio.create_task(self.make(byte_count, reserve=False), name="spool-making-room")
            self._soon.add_done_callback(_heard)

    async def close(self) -> None:
        """End what was begun."""
        if self._soon is not None:
            self._soon.cancel()
            await asyncio.gather(self._soon, return_exceptions=True)

    def _fits(self, byte_count: int, *, reserve: bool) -> bool:
        """Whether there is room already."""
        return self._quota.fits(byte_count, self._writer.total_bytes, reserve=reserve)

    async def _give_up(self, wanted: int, after: int) -> int | None:
        """One step; returns the record to go on behind, or None at the end."""
        given_up = await self._writer.submit(GiveUpDetails(wanted, after, self._names, self._clock()))
        if given_up.deliveries:
            self._announce(given_up.freed)
            if self.gave_up is not None:
                self.gave_up(given_up.deliveries, given_up.payload_bytes)
            while await self._writer.submit(DeleteLooseChunks(frozenset(self._ranges.incoming))):
                continue
        return given_up.last_record


def _heard(made: "asyncio.Task[None]") -> None:
    """A disk that fails is told by the post that meets it next."""
    if not made.cancelled():
        made.exception()


# Giving up details for room: the oldest first, and never anything that a dashboard needs at once.

RECORDS_PER_STEP = 50
"""Records that one transaction looks at: some milliseconds, between which posts are committed."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """What one step gave up, and where the next one goes on."""

    deliveries: int
    payload_bytes: int
    """Stored bytes that nothing needs any more."""
    freed: tuple[Delivery, ...]
    """Deliveries that may be sent now, because they waited for one that was given up."""
    last_record: int | None
    """The last record that was looked at; None when there are no more."""


@dataclass(frozen=True, slots=True)
class GiveUpDetails:
    """Expire queued details of records after `after`, oldest first, until `payload_bytes` are free or a step is done.

    A damaged record is passed over, and one whose rest something else still needs (a whole, a dead letter): nothing
    would become free. Dead letters stay. A notice of an object that will not come goes with the detail.
    """

    payload_bytes: int
    after: int
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> GivenUp:
        """One bounded transaction."""
        looked_at = self._oldest(transaction)
        deliveries = payload_bytes = 0
        freed: list[Delivery] = []
        for record_id in looked_at:
            given_up = _expendable(siblings_of(transaction, record_id))
            row = transaction.execute(sql.READ_RECORD, (record_id,)).fetchone()
            record = record_of(row, self.names.spool_id)
            if given_up and not record.damaged:
                self._expire(transaction, record, given_up)
                freed += free_waiting(transaction, record, self.names)
                payload_bytes += self._drop(transaction, record, row)
                deliveries += len(given_up)
            if payload_bytes >= self.payload_bytes:
                return GivenUp(deliveries, payload_bytes, tuple(freed), record_id)
        last = looked_at[-1] if len(looked_at) == RECORDS_PER_STEP else None
        return GivenUp(deliveries, payload_bytes, tuple(freed), last)

    def _oldest(self, transaction: Transaction) -> list[int]:
        """The next records with a queued detail, in commit order."""
        found: set[int] = set()
        for destination_id in self.names.names:
            for state in DeliveryState:
                if state.queued:
                    asked = (destination_id, Lane.DETAIL, state, self.after, RECORDS_PER_STEP)
                    found.update(row[0] for row in transaction.execute(sql.OLDEST_DETAILS, asked))
        return sorted(found)[:RECORDS_PER_STEP]

    def _expire(self, transaction: Transaction, record: Record, given_up: Iterable[Sibling]) -> None:
        """Let these deliveries end as expired."""
        for one in given_up:
            transaction.execute(sql.EXPIRE, (self.now, record.record_id, one.destination_id, one.form))
            transaction.counters.move(one.destination_id, one.lane, one.state, DeliveryState.EXPIRED, record.raw_bytes)

    def _drop(self, transaction: Transaction, record: Record, row: Row) -> int:
        """Let go of what only the details needed; returns how many stored bytes that were."""
        if end_record(transaction, record, self.now):
            return record.stored_bytes
        rest = record.fragments.get(Fragment.REST)
        if rest is None or not rest.chunks:
            return 0
        chunks = chunk_range(record.first_chunk, record.fragments, Fragment.REST)
        kept: dict[Fragment, StoredFragment] = dict(record.fragments)
        del kept[Fragment.REST]
        transaction.execute(sql.ADD_LOOSE_CHUNKS, (chunks.start, chunks.stop - 1))
        fragments, stored_bytes = encode_fragments(kept), record.stored_bytes - rest.stored_bytes
        checksum = checksum_of((*row[:7], stored_bytes, *row[8:11], fragments, *row[12:]))
        transaction.execute(sql.SET_FRAGMENTS, (fragments, stored_bytes, checksum, record.record_id))
        return rest.stored_bytes


def _expendable(record: list[Sibling]) -> list[Sibling]:
    """What of a record is given up: its queued details with the notices of them; nothing if its rest stays needed."""
    details = [one for one in record if one.form in DETAIL_FORMS and one.state.queued]
    others = [one for one in record if one.form in FORMS_WITH_DETAIL and not one.state.ended and one not in details]
    if others:
        return []
    expected = {one.destination_id for one in details}
    notices = [
        one for one in record if one.form is Form.NOTICE and one.state.queued and one.after_destination_id in expected
    ]
    return [*details, *notices]


# Expiry: giving up what could not be delivered in the time that the operator set. Off unless a time is set.

DELIVERIES_PER_STEP = 25
"""Of each state and lane: some 10 ms, for which posts wait."""


@dataclass(frozen=True, slots=True)
class Expire:
    """Give up queued deliveries of records that were accepted before `before`; dead letters stay."""

    before: int
    now: int
    names: Names

    def __call__(self, transaction: Transaction) -> tuple[int, tuple[Delivery, ...]]:
        """The oldest first, a bounded number. Returns how many were given up, and what may be sent now instead."""
        records: dict[int, Record] = {}
        expired = 0
        for destination_id in self.names.names:
            for lane in Lane:
                for delivery, state in self._too_old(transaction, destination_id, lane):
                    self._give_up(transaction, delivery, state, destination_id)
                    records[delivery.record.record_id] = delivery.record
                    expired += 1
        freed: list[Delivery] = []
        for record in records.values():
            freed += free_waiting(transaction, record, self.names)
            end_record(transaction, record, self.now)
        return expired, tuple(freed)

    def _too_old(
        self, transaction: Transaction, destination_id: int, lane: Lane
    ) -> list[tuple[Delivery, DeliveryState]]:
        found = []
        for state in DeliveryState:
            if state.queued:
                asked = (destination_id, lane, state, DELIVERIES_PER_STEP)
                oldest = transaction.execute(sql.OLDEST_QUEUED, asked).fetchall()
                found += [
                    (read_delivery(transaction, record_id, destination_id, Form(form), self.names), state)
                    for record_id, form, accepted_at in oldest
                    if accepted_at < self.before
                ]
        return found

    def _give_up(self, transaction: Transaction, delivery: Delivery, state: DeliveryState, destination_id: int) -> None:
        record_id, form = delivery.record.record_id, delivery.form
        transaction.execute(sql.EXPIRE, (self.now, record_id, destination_id, form))
        transaction.counters.move(
            destination_id, delivery.lane, state, DeliveryState.EXPIRED, delivery.record.raw_bytes
        )


# Loose chunks: payloads that belong to no record, deleted in bounded steps between which posts are committed.

CHUNKS_PER_STEP = 4
"""Up to 4 MiB of payload: some 15 ms at 250 MB/s, were all of it incompressible."""
RANGES_PER_STEP = 64


@dataclass(frozen=True, slots=True)
class DeleteLooseChunks:
    """Delete up to `limit` loose chunks, those with the smallest ids first; returns whether any are left.

    `incoming` are the first chunks of payloads that are still coming in.
    """

    incoming: frozenset[int]
    limit: int = CHUNKS_PER_STEP

    def __call__(self, transaction: Transaction) -> bool:
        """One bounded transaction."""
        most = RANGES_PER_STEP + len(self.incoming)
        found = transaction.execute(sql.LOOSE_CHUNKS, (most,)).fetchall()
        idle = [(first, last) for first, last in found if first not in self.incoming]
        left = self.limit
        for first, last in idle:
            if left <= 0:
                return True
            stop = min(last, first + left - 1)
            transaction.execute(sql.DELETE_CHUNKS, (first, stop))
            transaction.execute(sql.FORGET_LOOSE_CHUNKS, (first,))
            if stop < last:
                transaction.execute(sql.ADD_LOOSE_CHUNKS, (stop + 1, last))
                return True
            left -= stop - first + 1
        return len(found) == most
