"""Accepting a record: the one operation that turns a checked call log into something durable and owed."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from spool.db import sql
from spool.db.sql import checksum_of, encode_fragments, number_in, record_of, uid_of
from spool.db.transaction import Transaction
from spool.errors import SpoolUnavailable
from spool.payload.frames import Frame, Small, Stored
from spool.queue.ordering import Sibling, place, place_in_record, planned
from spool.records import Accepted, Delivery, DeliveryState, Fragment, NewRecord, Record


class Taken(Struct, frozen=True):
    """What became of a new record, with its payload, which need not be read back; a duplicate has none."""

    accepted: Accepted
    stored: Stored | None = None


class Acceptance(Struct, frozen=True):
    """The operation itself: give it to the writer."""

    new: NewRecord
    payload: Small | Stored
    spool_id: str
    destination_ids: Mapping[str, int]
    now: int
    duplicates_since: int
    """An ended record that was accepted before this time is no original any more."""

    def __call__(self, transaction: Transaction) -> Taken:
        """Recognise a duplicate; otherwise write chunks, record and deliveries."""
        begins_call = transaction.known.begins_call(self.new.call_id)
        earlier = [] if begins_call else _earlier(transaction, self.new.call_id)
        original = self._original(transaction, earlier) if self.new.origin is None else self._namesake(transaction)
        if original is not None:
            return Taken(self._duplicate_of(transaction, original))
        superseded = any(event == self.new.superseded_by for _, event, *_ in earlier)
        stored = self.payload.stored if isinstance(self.payload, Small) else self.payload
        assert stored is not None, "the writer had it compressed"
        record = self._write_record(transaction, stored, superseded=superseded)
        ready = () if superseded else self._owe(transaction, record, begins_call=not earlier)
        self._mark_upload_used(transaction, record.uid)
        two_phase = Fragment.BODY not in stored.fragments
        accepted = Accepted(
            record.uid, record.stored_bytes, record.raw_bytes, record.digest, False, superseded, ready, two_phase
        )
        return Taken(accepted, stored)

    def _original(
        self, transaction: Transaction, earlier: Sequence[tuple[int, str, bytes, int | None, int]]
    ) -> int | None:
        for record_id, event, digest, settled_at, accepted_at in earlier:
            if digest != self.new.digest or event != self.new.event:
                continue
            if settled_at is not None and accepted_at < self.duplicates_since:
                continue
            if transaction.execute(sql.GIVEN_UP, (record_id,)).fetchone() is None:
                return record_id
        return None

    def _namesake(self, transaction: Transaction) -> int | None:
        """The record that has this one's name: brought in before, or still where it was exported from.

        What was given up there, and has ended, may come back.
        """
        row = transaction.execute(sql.OF_ORIGIN, (self.new.origin,)).fetchone()
        if row is not None:
            return int(row[0])
        number = number_in(self.new.origin or "", self.spool_id)
        row = transaction.execute(sql.STILL_HERE, (number,)).fetchone()
        return None if row is None else int(row[0])

    # Chunks of a duplicate, or of a record that is owed to nobody, stay loose, and maintenance deletes them.

    def _duplicate_of(self, transaction: Transaction, record_id: int) -> Accepted:
        record = record_of(transaction.execute(sql.READ_RECORD, (record_id,)).fetchone(), self.spool_id)
        self._mark_upload_used(transaction, record.uid)
        two_phase = Fragment.BODY not in record.fragments
        return Accepted(
            record.uid, record.stored_bytes, record.raw_bytes, self.new.digest, True, False, (), two_phase
        )  # fmt: skip

    def _write_record(self, transaction: Transaction, stored: Stored, *, superseded: bool) -> Record:
        new = self.new
        owed = bool(new.deliveries) and not superseded
        token_id = transaction.tokens.use(transaction.connection, new.token) if new.token and owed else None
        if owed:
            if stored.loose:
                still_loose(transaction, stored.first_chunk)
                transaction.execute(sql.FORGET_LOOSE_CHUNKS, (stored.first_chunk,))
            write_frames(transaction, stored.frames, stored.next_chunk)
        settled_at = None if owed else self.now
        record_id = transaction.new_record_id()
        stored_bytes = stored.stored_bytes
        row = (
            record_id, new.call_id, new.agent_id, new.event, new.environment, new.digest, new.raw_bytes,
            stored_bytes, self.now, token_id, stored.first_chunk, encode_fragments(stored.fragments),
            new.origin,
        )  # fmt: skip
        transaction.records.add((*row[:12], superseded, settled_at, new.origin, checksum_of(row)))
        uid = new.origin or uid_of(self.spool_id, record_id)
        return Record(
            record_id, uid, new.call_id, new.agent_id, new.event, new.environment, new.digest, new.raw_bytes,
            stored_bytes, self.now, token_id, stored.first_chunk, stored.fragments,
        )  # fmt: skip

    def _owe(self, transaction: Transaction, record: Record, *, begins_call: bool) -> tuple[Delivery, ...]:
        record_siblings = [planned(delivery, self.destination_ids) for delivery in self.new.deliveries]
        ready = []
        for delivery, one in zip(self.new.deliveries, record_siblings, strict=True):
            if begins_call:
                state = place_in_record(one, record_siblings)
            else:
                state = place(transaction, record.call_id, record.record_id, one, record_siblings)
            owe(transaction, record, one, state, self.now)
            if state is DeliveryState.READY:
                ready.append(Delivery(record, delivery.destination, one.form, one.lane, 0, self.now, None))
        return tuple(ready)

    def _mark_upload_used(self, transaction: Transaction, uid: str) -> None:
        """The upload's address is spent, also by a duplicate, and so is the token that came with it."""
        key_hash = self.new.upload_key_hash
        if key_hash is None:
            return
        transaction.execute(sql.MARK_UPLOAD_USED, (uid, self.new.digest, key_hash))
        row = transaction.execute(sql.UPLOAD_TOKEN, (key_hash,)).fetchone()
        if row is not None:
            transaction.execute(sql.FORGET_UPLOAD_TOKEN, (key_hash,))
            transaction.tokens.release(row[0])


def owe(transaction: Transaction, record: Record, one: Sibling, state: DeliveryState, now: int) -> None:
    """Write a new delivery of a record, in the state that its place demands."""
    values = (
        record.record_id, one.destination_id, one.form, one.lane, state, one.ordered, one.after_destination_id, now,
    )  # fmt: skip
    transaction.deliveries.add(values)
    transaction.known.forget_open(record.record_id)
    transaction.counters.owe(one.destination_id, one.lane, state, record.raw_bytes)


def _earlier(transaction: Transaction, call_id: str) -> list[tuple[int, str, bytes, int | None, int]]:
    return transaction.execute(sql.EARLIER_OF_CALL, (call_id,)).fetchall()


def write_frames(transaction: Transaction, frames: Sequence[Frame], first_chunk: int) -> None:
    """Write frames as chunks with consecutive ids."""
    for chunk_id, frame in enumerate(frames, first_chunk):
        transaction.chunks.add((chunk_id, frame.crc32, frame.data))


def still_loose(transaction: Transaction, first_chunk: int) -> None:
    """Make sure that the chunks which were written ahead of their record are there."""
    if transaction.execute(sql.IS_LOOSE, (first_chunk,)).fetchone() is None:
        raise SpoolUnavailable("the payload's first part was deleted before its last part came; send it again")
