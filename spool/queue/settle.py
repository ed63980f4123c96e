"""Settling: what an attempt did to its delivery, what that frees, and what its uploader keeps for the next attempt.

Retention of records begins with their end. All but `UploaderState` are operations: functions of a transaction, run in
the writer's thread.
"""

from collections.abc import Mapping, Sequence
from functools import partial

from msgspec.structs import replace

from spool.db import sql
from spool.db.sql import HELD_FOR_SHARED_TOKEN, delivery_of
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.queue.accept import enqueue
from spool.queue.ordering import Sibling, initial_state, planned, reevaluate_waiting, siblings_of
from spool.records import (
    LEGAL_TRANSITIONS,
    BreakerSnapshot,
    BreakerUpdate,
    DeadLetter,
    Delivered,
    Delivery,
    DeliveryKey,
    DeliveryState,
    DestinationIds,
    Form,
    Hold,
    Lane,
    PartProgress,
    Record,
    Redirect,
    RetryAt,
    Settlement,
    UploadProgress,
)


def settle(
    transaction: Transaction,
    delivery: Delivery,
    settlement: Settlement,
    breaker: BreakerUpdate | None,
    destinations: DestinationIds,
    now: int,
    took: int | None = None,
) -> tuple[Delivery, ...]:
    """Write what an attempt did to its delivery, and to the breaker; returns the deliveries that its end freed.

    What an operator's order moved meanwhile is settled only by a confirmed delivery; what has ended, by nothing. An
    attempt that failed, and one that succeeds after that or after the end, is kept with how many milliseconds it
    `took`.
    """
    destination_id = destinations.ids[delivery.destination]
    old = _state_of(transaction, delivery, destination_id)
    if not isinstance(settlement, Delivered) or delivery.first_failed_at is not None or old.ended:
        _keep_attempt(transaction, delivery, settlement, destination_id, now, took)
    freed = _settle(transaction, delivery, settlement, destination_id, old, destinations, now)
    if breaker is not None:
        _keep_breaker(transaction, destination_id, breaker.snapshot)
    return freed


ATTEMPTS_KEPT = 20
"""Of a delivery: the first one, and the latest."""
LONGEST_ANSWER = 300
_OUTCOMES = {Delivered: "delivered", RetryAt: "retry", Hold: "held", DeadLetter: "dead", Redirect: "diverted"}


def _keep_attempt(
    transaction: Transaction,
    delivery: Delivery,
    settlement: Settlement,
    destination_id: int,
    now: int,
    took: int | None,
) -> None:
    answer = settlement.location or "" if isinstance(settlement, Delivered) else settlement.error
    attempt = {
        "record": delivery.record.record_id,
        "destination": destination_id,
        "form": str(delivery.form),
        "ended_at": now,
        "took": took,
        "outcome": _OUTCOMES[type(settlement)],
        "answer": answer[:LONGEST_ANSWER],
        "kept": ATTEMPTS_KEPT - 1,
    }
    transaction.execute(sql.ADD_ATTEMPT, attempt)
    transaction.execute(sql.FORGET_ATTEMPTS, attempt)


def _settle(
    transaction: Transaction,
    delivery: Delivery,
    settlement: Settlement,
    destination_id: int,
    old: DeliveryState,
    destinations: DestinationIds,
    now: int,
) -> tuple[Delivery, ...]:
    if isinstance(settlement, Redirect):
        return _redirect(transaction, delivery, settlement, destinations, now)
    if isinstance(settlement, Delivered):
        return _deliver(transaction, delivery, settlement, destination_id, old, destinations, now)
    if old is not DeliveryState.READY:
        return ()
    if isinstance(settlement, RetryAt):
        _defer(transaction, delivery, settlement, destination_id, now)
        return ()
    if _has_another_token(transaction, delivery.record):
        # The attempt was made with a key that was replaced meanwhile: it says nothing about the new one.
        return (read_delivery(transaction, delivery.record.record_id, destination_id, delivery.form, destinations),)
    return _set_aside(transaction, delivery, settlement, destination_id, destinations, now)


def _state_of(transaction: Transaction, delivery: Delivery, destination_id: int) -> DeliveryState:
    """Where the delivery stands; what is gone counts as given up, like what is a receipt only."""
    record_id, form = delivery.record.record_id, delivery.form
    known = transaction.known.open_of(record_id)
    if known is not None:
        return known.get((destination_id, form), DeliveryState.DISCARDED)
    row = transaction.execute(sql.DELIVERY_STATE, (record_id, destination_id, form)).fetchone()
    return DeliveryState(row[0]) if row is not None else DeliveryState.DISCARDED


def _deliver(
    transaction: Transaction,
    delivery: Delivery,
    confirmed: Delivered,
    destination_id: int,
    old: DeliveryState,
    destinations: DestinationIds,
    now: int,
) -> tuple[Delivery, ...]:
    if DeliveryState.DELIVERED not in LEGAL_TRANSITIONS[old]:
        return ()
    record, form = delivery.record, delivery.form
    transaction.completions.delivered(record.record_id, destination_id, str(form), now, confirmed.location)
    known = transaction.known.open_of(record.record_id)
    if known is not None:
        del known[destination_id, form]
    transaction.counters.move(destination_id, delivery.lane, old, DeliveryState.DELIVERED, record.bytes_of(form))
    freed = free_waiting(transaction, record, destinations)
    end_record(transaction, record, now)
    return freed


def _defer(transaction: Transaction, delivery: Delivery, retry: RetryAt, destination_id: int, now: int) -> None:
    key = (delivery.record.record_id, destination_id, delivery.form)
    values = (retry.due_at, retry.counted, retry.counted, now, retry.error, now, retry.for_destination)
    transaction.execute(sql.DEFER, (*values, *key))


def _set_aside(
    transaction: Transaction,
    delivery: Delivery,
    reason: Hold | DeadLetter,
    destination_id: int,
    destinations: DestinationIds,
    now: int,
) -> tuple[Delivery, ...]:
    """What is held keeps its place in the order; a dead letter frees what waits for it."""
    held = isinstance(reason, Hold)
    new = DeliveryState.HELD if held else DeliveryState.DEAD
    key = (delivery.record.record_id, destination_id, delivery.form)
    if isinstance(reason, Hold):
        held_for = held_for_token(reason.token_id)
        transaction.execute(sql.SET_STATE, (new, None, held_for, reason.error, None, *key))
    else:
        transaction.execute(sql.BURY, (now, reason.error, *key))
    size = delivery.record.bytes_of(delivery.form)
    transaction.counters.move(destination_id, delivery.lane, DeliveryState.READY, new, size)
    return () if held else free_waiting(transaction, delivery.record, destinations)


def _has_another_token(transaction: Transaction, record: Record) -> bool:
    """Whether an order gave the record another token since it was read for this attempt."""
    row = transaction.execute(sql.RECORD_TOKEN, (record.record_id,)).fetchone()
    return row is not None and row[0] != record.token_id


# What every end of a delivery needs.


def free_waiting(transaction: Transaction, record: Record, destinations: DestinationIds) -> tuple[Delivery, ...]:
    """After a delivery of `record` moved: put in their places those that wait; returns what may be sent now."""
    if not transaction.counters.any_waiting_or_held():
        return ()
    freed = reevaluate_waiting(transaction, record.call_id, record.principal, record.record_id)
    return tuple(
        read_delivery(transaction, record_id, one.destination_id, one.form, destinations) for record_id, one in freed
    )


def read_delivery(
    transaction: Transaction, record_id: int, destination_id: int, form: Form, destinations: DestinationIds
) -> Delivery:
    """A delivery as it is now."""
    row = transaction.execute(sql.READ_DELIVERY, (record_id, destination_id, form)).fetchone()
    return delivery_of(row, destinations.spool_id, destinations.names)


def end_record(transaction: Transaction, record: Record, now: int) -> bool:
    """When nothing of a record is open any more: its payload and token go, a receipt stays. Returns whether."""
    if _is_open(transaction, record.record_id):
        return False
    chunks = record_chunks(record)
    if chunks:
        transaction.completions.chunks(record.first_chunk, record.first_chunk + chunks - 1)
    token_id = transaction.known.token_of(transaction.connection, record.record_id)
    if token_id is not None:
        transaction.tokens.release(token_id)
    transaction.tenants.ended(transaction.connection, record.record_id)
    transaction.completions.receipt(record.record_id, now)
    return True


def _is_open(transaction: Transaction, record_id: int) -> bool:
    known = transaction.known.open_of(record_id)
    if known is not None:
        return bool(known)
    return transaction.execute(sql.OPEN_IN_RECORD, (record_id,)).fetchone() is not None


def record_chunks(record: Record) -> int:
    """How many chunks a record's payload has."""
    return sum(fragment.chunks for fragment in record.fragments.values())


# Making deliveries ready or due again: those of a token that is accepted, or of a destination that answers.


def held_for_token(token_id: int | None) -> int:
    """What stands in `held_for` of a delivery whose token is refused; None where it has none of its own."""
    return HELD_FOR_SHARED_TOKEN if token_id is None else token_id


def release(
    transaction: Transaction, destination_id: int, token_id: int | None, limit: int, destinations: DestinationIds
) -> tuple[int, tuple[Delivery, ...]]:
    """Free up to `limit` deliveries that were held for a token, the core lane first, the oldest first.

    Returns how many, and these.
    """
    freed: list[Delivery] = []
    for lane in Lane:
        asked = (destination_id, held_for_token(token_id), lane, limit - len(freed))
        for record_id, form in transaction.execute(sql.HELD_FOR, asked).fetchall():
            delivery = read_delivery(transaction, record_id, destination_id, Form(form), destinations)
            ready = (DeliveryState.READY, None, None, None, None, record_id, destination_id, form)
            transaction.execute(sql.SET_STATE, ready)
            size = delivery.record.bytes_of(delivery.form)
            transaction.counters.move(destination_id, lane, DeliveryState.HELD, DeliveryState.READY, size)
            freed.append(delivery)
    return len(freed), tuple(freed)


def make_due(transaction: Transaction, destination_id: int, lane: Lane, now: int, first: int, limit: int) -> int | None:
    """Make due now what waits for its destination: at most `limit` deliveries of a lane, from record `first` on.

    What was deferred for a reason of its own keeps its time.

    Returns the record to continue with, or None when that was all.
    """
    asked = {"destination": destination_id, "lane": lane, "now": now, "first": first, "limit": limit}
    later = transaction.execute(sql.DEFERRED_FOR_DESTINATION, asked).fetchall()
    for record_id, form in later:
        transaction.execute(sql.MAKE_DUE, (now, record_id, destination_id, form))
    return int(later[-1][0]) if len(later) == limit else None


# Fallback: others of its record take the place of a refused delivery, in the transaction in which it ends.


def _redirect(
    transaction: Transaction, delivery: Delivery, redirect: Redirect, destinations: DestinationIds, now: int
) -> tuple[Delivery, ...]:
    """Returns the deliveries that may be sent instead of it, or because of its end.

    What an order moved meanwhile, or what was redirected before, is left alone.
    """
    record = delivery.record
    siblings = siblings_of(transaction, record.record_id)
    refused = next((one for one in siblings if _is_attempted(one, delivery, destinations)), None)
    if refused is None:
        return ()
    remaining = [one for one in siblings if one is not refused]
    key = (record.record_id, refused.destination_id, refused.form)
    if redirect.keep:
        dead = DeliveryState.DEAD
        transaction.execute(sql.BURY, (now, redirect.error, *key))
        size = record.bytes_of(refused.form)
        transaction.counters.move(refused.destination_id, refused.lane, refused.state, dead, size)
        remaining.append(replace(refused, state=dead))
    else:
        transaction.execute(sql.DEQUEUE, key)
        size = record.bytes_of(refused.form)
        transaction.counters.dequeue(refused.destination_id, refused.lane, refused.state, size)
    owed = {(one.destination_id, one.form) for one in remaining}
    wanted = [planned(new, destinations.ids) for new in redirect.to]
    added = [one for one in wanted if (one.destination_id, one.form) not in owed]
    ready = enqueue_in_order(transaction, record, remaining, added, destinations, now)
    freed = free_waiting(transaction, record, destinations)
    end_record(transaction, record, now)
    return (*ready, *freed)


def _is_attempted(one: Sibling, delivery: Delivery, destinations: DestinationIds) -> bool:
    """Whether this is what was attempted. A whole that moves to the other lane keeps its key."""
    same = (destinations.names[one.destination_id], one.form, one.lane)
    wanted = (delivery.destination, delivery.form, delivery.lane)
    return same == wanted and one.state is DeliveryState.READY


def enqueue_in_order(
    transaction: Transaction,
    record: Record,
    remaining: Sequence[Sibling],
    added: Sequence[Sibling],
    destinations: DestinationIds,
    now: int,
) -> list[Delivery]:
    """Owe the `added` deliveries of a record, each in its place; returns those that may be sent at once."""
    ready = []
    for one in added:
        state = initial_state(
            transaction, record.call_id, record.principal, record.record_id, one, [*remaining, *added]
        )
        # What is to be held with a dead letter waits first: freeing what waits then finds that, as ever.
        state = state if state is DeliveryState.READY else DeliveryState.WAITING
        enqueue(transaction, record, one, state, now)
        if state is DeliveryState.READY:
            ready.append(read_delivery(transaction, record.record_id, one.destination_id, one.form, destinations))
    return ready


# What uploaders keep through restarts: the progress of multipart uploads, and circuit breakers that are open.
#
# Everything is read through the writer as well, so that what is read is what was written last. The progress of a
# delivery that ends as delivered is deleted by a trigger of the schema. That of a delivery which ended otherwise stays
# until its upload was aborted at the server and forgotten here.

ABANDONED_AT_ONCE = 100

Identity = tuple[int, int, Form]
"""A delivery in the database: record, destination, form."""


class UploaderState:
    """For the event loop (uploaders.base.UploaderState). What was written is durable when a method returns."""

    def __init__(self, writer: Writer, destinations: DestinationIds) -> None:
        self._writer = writer
        self._destinations = destinations

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        """How far the multipart upload of a delivery has come; None when it has none."""
        return await self._writer.submit(partial(_read_progress, key=key, identity=self._identity(key)))

    async def begin_upload(self, progress: UploadProgress) -> None:
        """Remember an upload that was begun, without parts, in place of an earlier one of this delivery."""
        identity = self._identity(progress.delivery)
        await self._writer.submit(partial(_begin_upload, identity=identity, progress=progress))

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        """Remember parts as they are now; each replaces what was known of its number."""
        await self._writer.submit(partial(_write_parts, identity=self._identity(key), parts=parts))

    async def forget_upload(self, key: DeliveryKey) -> None:
        """Forget the upload of a delivery; without effect when there is none."""
        await self._writer.submit(partial(_forget_upload, identity=self._identity(key)))

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        """Up to `ABANDONED_AT_ONCE` uploads, without their parts, whose deliveries ended without being delivered."""
        destination_id = self._destinations.ids[destination]
        return await self._writer.submit(
            partial(_abandoned_uploads, destination=destination, destination_id=destination_id)
        )

    async def read_breaker(self, destination: str) -> BreakerSnapshot | None:
        """The breaker as it was kept last; None for a destination whose breaker is closed."""
        return await self._writer.submit(partial(_read_breaker, destination_id=self._destinations.ids[destination]))

    async def keep_breaker(self, destination: str, breaker: BreakerSnapshot | None) -> None:
        """Remember that it is open, or closed (None)."""
        destination_id = self._destinations.ids[destination]
        await self._writer.submit(partial(_keep_breaker, destination_id=destination_id, breaker=breaker))

    def _identity(self, key: DeliveryKey) -> Identity:
        return key.record_id, self._destinations.ids[key.destination], key.form


def _read_progress(transaction: Transaction, key: DeliveryKey, identity: Identity) -> UploadProgress | None:
    row = transaction.execute(sql.READ_MULTIPART, identity).fetchone()
    if row is None:
        return None
    parts = transaction.execute(sql.READ_PARTS, identity).fetchall()
    bucket, object_key, upload_id, part_bytes = row
    known = {number: PartProgress(size, md5, etag) for number, size, md5, etag in parts}
    return UploadProgress(key, bucket, object_key, upload_id, part_bytes, known)


def _begin_upload(transaction: Transaction, identity: Identity, progress: UploadProgress) -> None:
    _forget_upload(transaction, identity)
    one = progress
    transaction.execute(sql.ADD_MULTIPART, (*identity, one.bucket, one.object_key, one.upload_id, one.part_bytes))


def _write_parts(transaction: Transaction, identity: Identity, parts: Mapping[int, PartProgress]) -> None:
    for number, part in parts.items():
        transaction.execute(sql.WRITE_PART, (*identity, number, part.size, part.md5, part.etag))


def _forget_upload(transaction: Transaction, identity: Sequence[object]) -> None:
    transaction.execute(sql.DELETE_PARTS, identity)
    transaction.execute(sql.DELETE_MULTIPART, identity)


def _abandoned_uploads(transaction: Transaction, destination: str, destination_id: int) -> tuple[UploadProgress, ...]:
    rows = transaction.execute(sql.ABANDONED_MULTIPARTS, (destination_id, ABANDONED_AT_ONCE)).fetchall()
    return tuple(
        UploadProgress(DeliveryKey(record_id, destination, Form(form)), *upload) for record_id, form, *upload in rows
    )


def _read_breaker(transaction: Transaction, destination_id: int) -> BreakerSnapshot | None:
    row = transaction.execute(sql.READ_BREAKER, (destination_id,)).fetchone()
    return None if row is None else BreakerSnapshot(*row)


def _keep_breaker(transaction: Transaction, destination_id: int, breaker: BreakerSnapshot | None) -> None:
    if breaker is None:
        transaction.execute(sql.FORGET_BREAKER, (destination_id,))
        return
    one = breaker
    values = (destination_id, one.cause, one.reason, one.since, one.retry_at, one.probes)
    transaction.execute(sql.KEEP_BREAKER, values)
