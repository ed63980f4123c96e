"""The operations of the queue that write: settling an attempt, holding and releasing, waking."""

from collections.abc import Mapping
from dataclasses import dataclass

from spool import statements
from spool.order import replace_waiting
from spool.records import (
    LEGAL_TRANSITIONS,
    Bury,
    Delivered,
    Delivery,
    DeliveryState,
    Form,
    Hold,
    Lane,
    Record,
    RetryAt,
)
from spool.rows import delivery_of
from spool.statements import HELD_FOR_SHARED_TOKEN
from spool.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Names:
    """What the spool and its destinations are called, for making deliveries of rows."""

    spool_id: str
    ids: Mapping[str, int]
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Settle:
    """Write what an attempt did to its delivery; returns the deliveries that its end freed."""

    delivery: Delivery
    settlement: Delivered | RetryAt | Hold | Bury
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Delivery, ...]:
        """What an order moved meanwhile is settled only by a confirmed delivery; what has ended, by nothing."""
        record, destination_id = self.delivery.record, self.names.ids[self.delivery.destination]
        row = transaction.execute(
            statements.DELIVERY_STATE, (record.record_id, destination_id, self.delivery.form)
        ).fetchone()
        old = DeliveryState(row[0]) if row is not None else DeliveryState.DISCARDED
        if old is not DeliveryState.READY and not isinstance(self.settlement, Delivered):
            return ()
        if isinstance(self.settlement, RetryAt):
            self._postpone(transaction, self.settlement, destination_id)
            return ()
        new, error, held_for, location = _target(self.settlement)
        if new not in LEGAL_TRANSITIONS[old]:
            return ()
        settled_at = None if new is DeliveryState.HELD else self.now
        transaction.execute(
            statements.SET_STATE,
            (new, settled_at, held_for, error, location, record.record_id, destination_id, self.delivery.form),
        )
        transaction.counters.move(destination_id, self.delivery.lane, old, new, record.raw_bytes)
        return self._after(transaction, new)

    def _postpone(self, transaction: Transaction, retry: RetryAt, destination_id: int) -> None:
        transaction.execute(
            statements.POSTPONE,
            (
                retry.due_at,
                retry.counted,
                retry.counted,
                self.now,
                retry.error,
                self.delivery.record.record_id,
                destination_id,
                self.delivery.form,
            ),
        )

    def _after(self, transaction: Transaction, new: DeliveryState) -> tuple[Delivery, ...]:
        if new is DeliveryState.HELD:  # what is set aside keeps its place in the order
            return ()
        freed = free_waiting(transaction, self.delivery.record, self.names)
        if new.ended:
            end_record(transaction, self.delivery.record, self.now)
        return freed


def free_waiting(transaction: Transaction, record: Record, names: Names) -> tuple[Delivery, ...]:
    """After a delivery of `record` moved: put in their places those that wait; returns what may be sent now."""
    if not any(transaction.counters.waiting_or_held(known) for known in names.names):
        return ()
    freed = replace_waiting(transaction, record.call_id, record.record_id)
    return tuple(read_delivery(transaction, record_id, one.destination_id, one.form, names) for record_id, one in freed)


def read_delivery(transaction: Transaction, record_id: int, destination_id: int, form: Form, names: Names) -> Delivery:
    """A delivery as it is now."""
    row = transaction.execute(statements.READ_DELIVERY, (record_id, destination_id, form)).fetchone()
    return delivery_of(row, names.spool_id, names.names)


def _target(settlement: Delivered | Hold | Bury) -> tuple[DeliveryState, str | None, int | None, str | None]:
    """The state that a settlement leads to, with the error, what it is held for, and the location."""
    if isinstance(settlement, Delivered):
        return DeliveryState.DELIVERED, None, None, settlement.location
    if isinstance(settlement, Hold):
        return DeliveryState.HELD, settlement.error, _held_for(settlement.token_id), None
    return DeliveryState.DEAD, settlement.error, None, None


def _held_for(token_id: int | None) -> int:
    return HELD_FOR_SHARED_TOKEN if token_id is None else token_id


def end_record(transaction: Transaction, record: Record, now: int) -> bool:
    """When nothing of a record is open any more: its payload and token go, a receipt stays. Returns whether."""
    if transaction.execute(statements.OPEN_IN_RECORD, (record.record_id,)).fetchone() is not None:
        return False
    chunks = record_chunks(record)
    last_chunk = record.first_chunk + chunks - 1
    if chunks == 1:
        transaction.execute(statements.DELETE_CHUNKS, (record.first_chunk, last_chunk))
    elif chunks:
        # Large payloads are deleted in steps, between which posts are committed.
        transaction.execute(statements.ADD_LOOSE_CHUNKS, (record.first_chunk, last_chunk))
    if record.token_id is not None:
        transaction.tokens.release(record.token_id)
    transaction.execute(statements.MAKE_RECEIPT, (now, record.record_id))
    return True


def record_chunks(record: Record) -> int:
    """How many chunks a record's payload has."""
    return sum(fragment.chunks for fragment in record.fragments.values())


@dataclass(frozen=True, slots=True)
class Release:
    """Make deliveries ready again that were held for a token; returns how many, and the first of them."""

    destination: str
    token_id: int | None
    limit: int
    names: Names

    def __call__(self, transaction: Transaction) -> tuple[int, tuple[Delivery, ...]]:
        """Free up to `limit`, the core lane first, the oldest first."""
        destination_id, held_for = self.names.ids[self.destination], _held_for(self.token_id)
        count, first = 0, []
        for lane in Lane:
            rows = transaction.execute(
                statements.HELD_FOR, (destination_id, held_for, lane, self.limit - count)
            ).fetchall()
            for record_id, form in rows:
                delivery = read_delivery(transaction, record_id, destination_id, Form(form), self.names)
                transaction.execute(
                    statements.SET_STATE,
                    (DeliveryState.READY, None, None, None, None, record_id, destination_id, form),
                )
                transaction.counters.move(
                    destination_id, lane, DeliveryState.HELD, DeliveryState.READY, delivery.record.raw_bytes
                )
                first.append(delivery)
            count += len(rows)
        return count, tuple(first)


@dataclass(frozen=True, slots=True)
class Wake:
    """Make what is ready but not yet due, due now: at most `limit` deliveries of a lane, from record `first` on."""

    destination_id: int
    lane: Lane
    now: int
    first: int
    limit: int

    def __call__(self, transaction: Transaction) -> int | None:
        """Returns the record to go on with, or None when that was all."""
        found = transaction.execute(
            statements.NOT_YET_DUE,
            {
                "destination": self.destination_id,
                "lane": self.lane,
                "now": self.now,
                "first": self.first,
                "limit": self.limit,
            },
        ).fetchall()
        for record_id, form in found:
            transaction.execute(statements.WAKE, (self.now, record_id, self.destination_id, form))
        return int(found[-1][0]) if len(found) == self.limit else None
