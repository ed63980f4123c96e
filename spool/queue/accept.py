"""Accepting a record: the one operation that turns a checked call log into something durable and owed.

A post is a duplicate (promise 3) of an earlier record of the same principal, call id, event and digest, if that is
the newest of its call and event, or is still owed: then nothing indicates that another one is meant. After A, B, a
second A is a change back, and is sent. Where the sender gives idempotency keys, these say what is the same post, and
nothing else. A post that another gateway passed on is no duplicate of a record that did not come through that gateway:
this one might be answered "duplicate" there for the record itself, and then each would take the other's word for it.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256

from msgspec import Struct
from msgspec.structs import replace

from spool.db import sql
from spool.db.sql import checksum_of, encode_fragments, number_in, record_of, uid_of
from spool.db.transaction import Transaction
from spool.errors import CallIsLive, SpoolUnavailable
from spool.live_calls import LostCall
from spool.payload.frames import Frame, SmallPayload, StoredPayload, record_context
from spool.queue.ordering import Sibling, initial_state, planned, state_in_record
from spool.records import (
    Accepted,
    ClosedTrace,
    Delivery,
    DeliveryState,
    DestinationIds,
    Fragment,
    NewDelivery,
    NewRecord,
    Record,
)

HELD_WITHOUT_TENANT = "its call belongs to no tenant: `callspool tenants assign`"


class Acceptance(Struct, frozen=True):
    """What became of a new record, with its payload, which need not be read back; a duplicate has none."""

    accepted: Accepted
    stored: StoredPayload | None = None


Earlier = tuple[int, str, bytes, int | None, int, int | None, bytes | None, str | None]
"""A record of the same principal and call: its number, event and digest, when it ended, was accepted and happened, the
digest of its idempotency key, and the gateways that passed it on."""


def accept(
    transaction: Transaction,
    new: NewRecord,
    payload: SmallPayload | StoredPayload,
    destinations: DestinationIds,
    now: int,
    duplicates_since: int,
) -> Acceptance:
    """Recognise a duplicate; otherwise write chunks, record and deliveries.

    An ended record that was accepted before `duplicates_since` is no original any more.
    """
    begins_call = transaction.known.begins_call(new.call_id)
    earlier = [] if begins_call else earlier_posts(transaction, new.call_id, new.principal)
    if new.origin is None:
        original = _put_before(transaction, new, destinations.spool_id)
        if original is None:
            original = _original(transaction, new, earlier, duplicates_since)
    else:
        original = _namesake(transaction, new.origin, destinations.spool_id)
    if new.closes is not None:
        _close_trace(transaction, new.closes)
    if new.ends_call and transaction.known.is_live(new.call_id):
        _end_live(transaction, new)
    if new.loses is not None:
        _lose(transaction, new.loses)
    if original is not None:
        return Acceptance(_duplicate_of(transaction, new, original, destinations.spool_id))
    # Of a live call no end was accepted, whatever its times say of an earlier call of its id.
    superseded = new.loses is None and is_superseded(new.superseded_by, new.happened_at, earlier)
    stored = payload.stored if isinstance(payload, SmallPayload) else payload
    assert stored is not None, "the writer had it compressed"
    if superseded:
        new = replace(new, deliveries=_despite_later_events(new))
    record = _write_record(transaction, new, stored, destinations.spool_id, now, superseded=superseded)
    ready = _enqueue_all(transaction, new, record, destinations, begins_call=not earlier)
    _mark_upload_used(transaction, new, record.uid)
    two_phase = Fragment.BODY not in stored.fragments
    accepted = Accepted(
        record.uid, record.stored_bytes, record.raw_bytes, record.digest, False, superseded, ready, two_phase
    )
    return Acceptance(accepted, stored)


def _original(
    transaction: Transaction, new: NewRecord, earlier: Sequence[Earlier], duplicates_since: int
) -> int | None:
    post_key = post_key_of(new.idempotency_key)
    digest = None if new.key_decides and post_key is not None else new.digest
    for record_id, settled_at, accepted_at, via in originals(new.event, digest, post_key, earlier):
        if settled_at is not None and accepted_at < duplicates_since:
            continue
        if new.via is not None and not came_through(via, new.via):
            continue
        if not was_given_up(transaction, record_id):
            return record_id
    return None


def _put_before(transaction: Transaction, new: NewRecord, spool_id: str) -> int | None:
    """The record that came through this one's upload address before: its token was for that one, and was forgotten."""
    if new.upload_key_hash is None:
        return None
    row = transaction.execute(sql.UPLOADED_RECORD, (new.upload_key_hash,)).fetchone()
    number = None if row is None or row[0] is None else number_in(row[0], spool_id)
    if number is None or was_given_up(transaction, number):
        return None
    row = transaction.execute(sql.SAME_CONTENT, (number, new.event, new.digest)).fetchone()
    return None if row is None else int(row[0])


def _despite_later_events(new: NewRecord) -> tuple[NewDelivery, ...]:
    """What is owed of a record that is superseded: to whoever keeps every event, unless nobody is to get it."""
    if new.superseded_everywhere:
        return ()
    return tuple([delivery for delivery in new.deliveries if not delivery.last_write_wins])


def earlier_posts(transaction: Transaction, call_id: str, principal: str | None) -> list[Earlier]:
    """What this principal posted of a call, the newest first, and what an unknown one posted."""
    asked = {"call_id": call_id, "principal": principal}
    rows: list[Earlier] = transaction.execute(sql.EARLIER_OF_CALL, asked).fetchall()
    return rows if len(rows) < 2 else sorted(rows, reverse=True)  # one needs no order


def originals(
    event: str, digest: bytes | None, post_key: bytes | None, earlier: Sequence[Earlier]
) -> Iterator[tuple[int, int | None, int, str | None]]:
    """Of which earlier posts this one may be a duplicate: number, when it ended and was accepted, and how it came.

    Without a `digest`, the key alone decides.
    """
    newest = True
    for record_id, its_event, its_digest, settled_at, accepted_at, _, its_key, via in earlier:
        if its_event != event:
            continue
        same_post = its_key == post_key and (post_key is not None or newest or settled_at is None)
        newest = False
        if same_post and digest in {None, its_digest}:
            yield record_id, settled_at, accepted_at, via


def came_through(via: str | None, gateways: str) -> bool:
    """Whether a record that came by `via` passed all of these gateways, and so will be refused by each of them."""
    return via is not None and set(gateways.split(", ")) <= set(via.split(", "))


def post_key_of(idempotency_key: str | None) -> bytes | None:
    """The digest by which a sender's idempotency key is stored, however long that is."""
    if idempotency_key is None:
        return None
    return sha256(idempotency_key.encode("utf-8", "surrogatepass")).digest()[:16]


def was_given_up(transaction: Transaction, record_id: int) -> bool:
    """Whether a record was expired or discarded: then it is no original of anything."""
    return transaction.execute(sql.GIVEN_UP, (record_id,)).fetchone() is not None


def is_superseded(superseded_by: str | None, happened_at: int | None, earlier: Sequence[Earlier]) -> bool:
    """Whether a later event of the call was accepted before.

    One that happened before this one, by the sender's own times, is no later event: the call id is used again.
    """
    return any(
        event == superseded_by and not (happened_at is not None and at is not None and happened_at > at)
        for _, event, _, _, _, at, *_ in earlier
    )


def _namesake(transaction: Transaction, origin: str, spool_id: str) -> int | None:
    """The record that has this one's name: imported before, or still where it was exported from.

    What was given up there, and has ended, may come back.
    """
    row = transaction.execute(sql.OF_ORIGIN, (origin,)).fetchone()
    if row is not None:
        return int(row[0])
    row = transaction.execute(sql.STILL_HERE, (number_in(origin, spool_id),)).fetchone()
    return None if row is None else int(row[0])


# Chunks of a duplicate, or of a record that is owed to nobody, stay orphans, and maintenance deletes them.


def _duplicate_of(transaction: Transaction, new: NewRecord, record_id: int, spool_id: str) -> Accepted:
    record = record_of(transaction.execute(sql.READ_RECORD, (record_id,)).fetchone(), spool_id)
    _mark_upload_used(transaction, new, record.uid)
    two_phase = Fragment.BODY not in record.fragments
    return Accepted(record.uid, record.stored_bytes, record.raw_bytes, new.digest, True, False, (), two_phase)


def _write_record(
    transaction: Transaction, new: NewRecord, stored: StoredPayload, spool_id: str, now: int, *, superseded: bool
) -> Record:
    owed = bool(new.deliveries)
    token_id = transaction.tokens.use(transaction.connection, new.token) if new.token and owed else None
    if owed:
        if stored.orphaned:
            require_orphans(transaction, stored.first_chunk)
            transaction.execute(sql.FORGET_ORPHAN_CHUNKS, (stored.first_chunk,))
        write_frames(transaction, stored.frames, stored.next_chunk)
        transaction.tenants.add(new.tenant, stored.stored_bytes)
    settled_at = None if owed else now
    record_id = transaction.new_record_id()
    stored_bytes = stored.stored_bytes
    row = (
        record_id, new.call_id, new.agent_id, new.event, new.environment, new.digest, new.raw_bytes,
        stored_bytes, now, token_id, stored.first_chunk, encode_fragments(stored.fragments),
        new.origin,
    )  # fmt: skip
    whose = (new.tenant, new.principal, new.via)
    outline = new.outline
    uid = new.origin or uid_of(spool_id, record_id)
    key = wrapped_key(transaction, stored.key if owed else None, uid)
    more = (
        checksum_of(row, *whose), *whose, new.happened_at, post_key_of(new.idempotency_key),
        outline.number_hint, outline.length_ms, outline.ended_reason, *key, new.trace_context,
    )  # fmt: skip
    transaction.records.add((*row[:12], int(superseded and not owed), settled_at, new.origin, *more))
    return Record(
        record_id, uid, new.call_id, new.agent_id, new.event, new.environment, new.digest, new.raw_bytes,
        stored_bytes, now, token_id, stored.first_chunk, stored.fragments, False, *whose, new.trace_context,
    )  # fmt: skip


def _enqueue_all(
    transaction: Transaction, new: NewRecord, record: Record, destinations: DestinationIds, *, begins_call: bool
) -> tuple[Delivery, ...]:
    record_siblings = [planned(delivery, destinations.ids) for delivery in new.deliveries]
    ready = []
    for delivery, one in zip(new.deliveries, record_siblings, strict=True):
        if begins_call:
            state = state_in_record(one, record_siblings)
        else:
            state = initial_state(transaction, record.call_id, record.principal, record.record_id, one, record_siblings)
        if delivery.held:
            state = DeliveryState.HELD
        enqueue(transaction, record, one, state, record.accepted_at)
        if delivery.held:
            why = (int(state), None, sql.HELD_FOR_TENANT, HELD_WITHOUT_TENANT, None)
            transaction.execute(sql.SET_STATE, (*why, record.record_id, one.destination_id, str(one.form)))
        if state is DeliveryState.READY:
            ready.append(Delivery(record, delivery.destination, one.form, one.lane, 0, record.accepted_at, None))
    return tuple(ready)


def _close_trace(transaction: Transaction, closed: ClosedTrace) -> None:
    """Delete the spans that the record was made of: they are in it, or in the one that it repeats."""
    rows = (closed.trace_id, closed.principal, closed.last_row)
    if transaction.keys.enabled:
        transaction.keys.ended([epoch for (epoch,) in transaction.execute(sql.EPOCHS_OF_SPANS, rows)])
    transaction.execute(sql.DELETE_TRACE_ROWS, rows)
    values = {
        "trace_id": closed.trace_id,
        "principal": closed.principal,
        "spans": closed.spans,
        "raw_bytes": closed.raw_bytes,
    }
    transaction.execute(sql.CLOSE_TRACE, values)


def _end_live(transaction: Transaction, new: NewRecord) -> None:
    """Delete what is kept of a call while it goes on."""
    ended = {"call_id": new.call_id, "principal": new.principal, "happened_at": new.happened_at}
    for (token_id,) in transaction.execute(sql.END_LIVE, ended).fetchall():
        delete_live(transaction, new.call_id, new.principal, token_id)


def delete_live(transaction: Transaction, call_id: str, principal: str, token_id: int | None) -> None:
    """Delete what was said in a live call whose row is deleted, and release its sender's key."""
    if token_id is not None:
        transaction.tokens.release(token_id)
    call = call_id, principal
    if transaction.keys.enabled:
        transaction.keys.ended([epoch for (epoch,) in transaction.execute(sql.EPOCHS_OF_TURNS, call)])
    transaction.execute(sql.DELETE_LIVE_TURNS, call)


def _lose(transaction: Transaction, lost: LostCall) -> None:
    """The agent of a live call is lost. Raises `CallIsLive` where it was heard of, or ended, since."""
    if not transaction.execute(sql.LOSE_CALL, (lost.call_id, lost.principal, lost.version)).rowcount:
        raise CallIsLive(f"the call {lost.call_id} was heard of, or ended, meanwhile")


def _mark_upload_used(transaction: Transaction, new: NewRecord, uid: str) -> None:
    """The upload's address is spent, also by a duplicate, and so is the token that came with it."""
    key_hash = new.upload_key_hash
    if key_hash is None:
        return
    transaction.execute(sql.MARK_UPLOAD_USED, (uid, new.digest, key_hash))
    row = transaction.execute(sql.UPLOAD_TOKEN, (key_hash,)).fetchone()
    if row is not None:
        transaction.execute(sql.FORGET_UPLOAD_TOKEN, (key_hash,))
        transaction.tokens.release(row[0])


def enqueue(transaction: Transaction, record: Record, one: Sibling, state: DeliveryState, now: int) -> None:
    """Write a new delivery of a record, in the state that its place in the order demands."""
    values = (
        record.record_id, one.destination_id, str(one.form), str(one.lane), int(state), int(one.ordered),
        one.after_destination_id, now,
    )  # fmt: skip
    transaction.deliveries.add(values)
    transaction.known.forget_open(record.record_id)
    transaction.counters.enqueue(one.destination_id, one.lane, state, record.bytes_of(one.form))


def wrapped_key(transaction: Transaction, key: bytes | None, uid: str) -> tuple[int, bytes] | tuple[None, None]:
    """The epoch and the wrapped data key of a record, as its row holds them; nothing where its frames are plain."""
    if key is None:
        return None, None
    wrapped = transaction.keys.wrap(key, record_context(uid))
    return wrapped.epoch, wrapped.value


def write_frames(transaction: Transaction, frames: Sequence[Frame], first_chunk: int) -> None:
    """Write frames as chunks with consecutive ids."""
    for chunk_id, frame in enumerate(frames, first_chunk):
        transaction.chunks.add((chunk_id, frame.crc32, frame.data))


def require_orphans(transaction: Transaction, first_chunk: int) -> None:
    """Make sure that the chunks which were written ahead of their record are there."""
    if transaction.execute(sql.IS_ORPHAN, (first_chunk,)).fetchone() is None:
        raise SpoolUnavailable("the payload's first part was deleted before its last part came; send it again")
