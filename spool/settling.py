"""The operations of the queue that write: settling an attempt, holding and releasing, waking."""

from collections.abc import Mapping
from dataclasses import dataclass

from spool import statements
from spool.order import replace_waiting
from spool.payloads import FRAME_RAW_BYTES
from spool.records import (
    Bury,
    Delivered,
    Delivery,
    DeliveryState,
    Form,
    Hold,
    Lane,
    Record,
    RetryAt,
    Settlement,
)
from spool.rows import delivery_of
from spool.statements import HELD_FOR_SHARED_TOKEN
from spool.writer import Transaction


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
    settlement: Settlement
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Delivery, ...]:
        """Settling what has ended already changes nothing: an operator may have been faster."""
        record, destination_id = self.delivery.record, self.names.ids[self.delivery.destination]
        row = transaction.execute(
            statements.DELIVERY_STATE, (record.record_id, destination_id, self.delivery.form)
        ).fetchone()
        old = DeliveryState(row[0]) if row is not None else DeliveryState.DISCARDED
        if old.ended:
            return ()
        if isinstance(self.settlement, RetryAt):
            self._postpone(transaction, self.settlement, destination_id)
            return ()
        new = self._move(transaction, destination_id, old)
        if new is DeliveryState.HELD:
            return ()
        freed = self._free(transaction)
        if new.ended:
            _end_record(transaction, record, self.now)
        return freed

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

    def _move(self, transaction: Transaction, destination_id: int, old: DeliveryState) -> DeliveryState:
        new, error, held_for, location = _target(self.settlement)
        settled_at = None if new is DeliveryState.HELD else self.now
        record_id, form = self.delivery.record.record_id, self.delivery.form
        transaction.execute(
            statements.SET_STATE, (new, settled_at, held_for, error, location, record_id, destination_id, form)
        )
        transaction.counters.move(destination_id, self.delivery.lane, old, new, self.delivery.record.raw_bytes)
        return new

    def _free(self, transaction: Transaction) -> tuple[Delivery, ...]:
        record = self.delivery.record
        if not any(transaction.counters.waiting_or_held(known) for known in self.names.names):
            return ()
        freed = replace_waiting(transaction, record.call_id, record.record_id)
        return tuple(
            _read(transaction, record_id, one.destination_id, one.form, self.names) for record_id, one in freed
        )


def _target(settlement: Settlement) -> tuple[DeliveryState, str | None, int | None, str | None]:
    """The state that a settlement leads to, with the error, what it is held for, and the location."""
    if isinstance(settlement, Delivered):
        return DeliveryState.DELIVERED, None, None, settlement.location
    if isinstance(settlement, Hold):
        return DeliveryState.HELD, settlement.error, _held_for(settlement.token_id), None
    if isinstance(settlement, Bury):
        return DeliveryState.DEAD, settlement.error, None, None
    raise TypeError(f"{type(settlement).__name__} moves a delivery nowhere")


def _held_for(token_id: int | None) -> int:
    return HELD_FOR_SHARED_TOKEN if token_id is None else token_id


def _end_record(transaction: Transaction, record: Record, now: int) -> None:
    """When nothing of a record is open any more: its payload and token go, a receipt stays."""
    if transaction.execute(statements.OPEN_IN_RECORD, (record.record_id,)).fetchone() is not None:
        return
    chunks = sum(fragment.chunks for fragment in record.fragments.values())
    last_chunk = record.first_chunk + chunks - 1
    if chunks == 1:
        transaction.execute(statements.DELETE_CHUNKS, (record.first_chunk, last_chunk))
    else:
        # Large payloads are deleted in steps, between which posts are committed.
        transaction.execute(statements.ADD_LOOSE_CHUNKS, (record.first_chunk, last_chunk))
    if record.token_id is not None:
        transaction.tokens.release(record.token_id)
    transaction.execute(statements.MAKE_RECEIPT, (now, record.record_id))


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
                statements.HELD_FOR, (destination_id, lane, held_for, self.limit - count)
            ).fetchall()
            for record_id, form in rows:
                delivery = _read(transaction, record_id, destination_id, Form(form), self.names)
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
    """Make what is ready but not yet due, due now."""

    destination_id: int
    now: int

    def __call__(self, transaction: Transaction) -> None:
        """Both lanes."""
        for lane in Lane:
            transaction.execute(statements.WAKE, {"destination": self.destination_id, "lane": lane, "now": self.now})


def _read(transaction: Transaction, record_id: int, destination_id: int, form: Form, names: Names) -> Delivery:
    row = transaction.execute(statements.READ_DELIVERY, (record_id, destination_id, form)).fetchone()
    return delivery_of(row, names.spool_id, names.names)


@dataclass(frozen=True, slots=True)
class DeleteLooseChunks:
    """Delete loose chunks in bounded steps; ranges in `busy` are still coming in. Returns whether any are left."""

    busy: frozenset[int]
    limit: int = 8 * (1 << 20) // FRAME_RAW_BYTES

    def __call__(self, transaction: Transaction) -> bool:
        """Delete from the oldest range."""
        rows = transaction.execute(statements.ALL_LOOSE_CHUNKS).fetchall()
        idle = [(first, last) for first, last in rows if first not in self.busy]
        if not idle:
            return False
        first, last = idle[0]
        stop = min(last, first + self.limit - 1)
        transaction.execute(statements.DELETE_CHUNKS, (first, stop))
        transaction.execute(statements.FORGET_LOOSE_CHUNKS, (first,))
        if stop < last:
            transaction.execute(statements.ADD_LOOSE_CHUNKS, (stop + 1, last))
        return stop < last or len(idle) > 1
