"""The operations of the queue that write: settling an attempt, holding and releasing, waking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import Struct

from spool.db import sql
from spool.db.sql import HELD_FOR_SHARED_TOKEN, delivery_of
from spool.db.transaction import Transaction
from spool.queue.accept import owe
from spool.queue.ordering import Sibling, place, planned, replace_waiting, siblings_of
from spool.records import (
    LEGAL_TRANSITIONS,
    Bury,
    Delivered,
    Delivery,
    DeliveryState,
    Divert,
    Form,
    Hold,
    Lane,
    Record,
    RetryAt,
)


@dataclass(frozen=True, slots=True)
class Names:
    """What the spool and its destinations are called, for making deliveries of rows."""

    spool_id: str
    ids: dict[str, int]
    names: dict[int, str]

    def learn(self, destinations: Mapping[int, str]) -> None:
        """Know destinations that were added since the start. For the event loop."""
        self.names.update(destinations)
        self.ids.update({name: destination_id for destination_id, name in destinations.items()})


class Settle(Struct, frozen=True):
    """Write what an attempt did to its delivery; returns the deliveries that its end freed."""

    delivery: Delivery
    settlement: Delivered | RetryAt | Hold | Bury
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Delivery, ...]:
        """What an order moved meanwhile is settled only by a confirmed delivery; what has ended, by nothing."""
        destination_id = self.names.ids[self.delivery.destination]
        old = self._state(transaction, destination_id)
        if isinstance(self.settlement, Delivered):
            return self._deliver(transaction, self.settlement, destination_id, old)
        if old is not DeliveryState.READY:
            return ()
        if isinstance(self.settlement, RetryAt):
            self._postpone(transaction, self.settlement, destination_id)
            return ()
        if self._has_another_token(transaction):
            # The attempt was made with a key that was replaced meanwhile: it says nothing about the new one.
            key = (self.delivery.record.record_id, destination_id, self.delivery.form)
            return (read_delivery(transaction, *key, self.names),)
        return self._set_aside(transaction, self.settlement, destination_id)

    def _state(self, transaction: Transaction, destination_id: int) -> DeliveryState:
        """Where the delivery stands; what is gone counts as given up, like what is a receipt only."""
        record_id, form = self.delivery.record.record_id, self.delivery.form
        known = transaction.known.open_of(record_id)
        if known is not None:
            return known.get((destination_id, form), DeliveryState.DISCARDED)
        row = transaction.execute(sql.DELIVERY_STATE, (record_id, destination_id, form)).fetchone()
        return DeliveryState(row[0]) if row is not None else DeliveryState.DISCARDED

    def _deliver(
        self, transaction: Transaction, confirmed: Delivered, destination_id: int, old: DeliveryState
    ) -> tuple[Delivery, ...]:
        if DeliveryState.DELIVERED not in LEGAL_TRANSITIONS[old]:
            return ()
        record, form = self.delivery.record, self.delivery.form
        transaction.endings.delivered(record.record_id, destination_id, form, self.now, confirmed.location)
        known = transaction.known.open_of(record.record_id)
        if known is not None:
            del known[destination_id, form]
        transaction.counters.move(destination_id, self.delivery.lane, old, DeliveryState.DELIVERED, record.raw_bytes)
        freed = free_waiting(transaction, record, self.names)
        end_record(transaction, record, self.now)
        return freed

    def _set_aside(self, transaction: Transaction, reason: Hold | Bury, destination_id: int) -> tuple[Delivery, ...]:
        """What is held keeps its place in the order; a dead letter frees what waits for it."""
        delivery, old = self.delivery, DeliveryState.READY
        held = isinstance(reason, Hold)
        new = DeliveryState.HELD if held else DeliveryState.DEAD
        key = (delivery.record.record_id, destination_id, delivery.form)
        held_for = held_for_token(reason.token_id) if isinstance(reason, Hold) else None
        transaction.execute(sql.SET_STATE, (new, None if held else self.now, held_for, reason.error, None, *key))
        transaction.counters.move(destination_id, delivery.lane, old, new, delivery.record.raw_bytes)
        return () if held else free_waiting(transaction, delivery.record, self.names)

    def _has_another_token(self, transaction: Transaction) -> bool:
        """Whether an order gave the record another token since it was read for this attempt."""
        row = transaction.execute(sql.RECORD_TOKEN, (self.delivery.record.record_id,)).fetchone()
        return row is not None and row[0] != self.delivery.record.token_id

    def _postpone(self, transaction: Transaction, retry: RetryAt, destination_id: int) -> None:
        transaction.execute(
            sql.POSTPONE,
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


def free_waiting(transaction: Transaction, record: Record, names: Names) -> tuple[Delivery, ...]:
    """After a delivery of `record` moved: put in their places those that wait; returns what may be sent now."""
    if not any(transaction.counters.waiting_or_held(known) for known in names.names):
        return ()
    freed = replace_waiting(transaction, record.call_id, record.record_id)
    return tuple(read_delivery(transaction, record_id, one.destination_id, one.form, names) for record_id, one in freed)


def read_delivery(transaction: Transaction, record_id: int, destination_id: int, form: Form, names: Names) -> Delivery:
    """A delivery as it is now."""
    row = transaction.execute(sql.READ_DELIVERY, (record_id, destination_id, form)).fetchone()
    return delivery_of(row, names.spool_id, names.names)


def held_for_token(token_id: int | None) -> int:
    """What stands in `held_for` of a delivery whose token is refused; None where it has none of its own."""
    return HELD_FOR_SHARED_TOKEN if token_id is None else token_id


def end_record(transaction: Transaction, record: Record, now: int) -> bool:
    """When nothing of a record is open any more: its payload and token go, a receipt stays. Returns whether."""
    if _is_open(transaction, record.record_id):
        return False
    chunks = record_chunks(record)
    if chunks:
        transaction.endings.chunks(record.first_chunk, record.first_chunk + chunks - 1)
    if record.token_id is not None:
        transaction.tokens.release(record.token_id)
    transaction.endings.receipt(record.record_id, now)
    return True


def _is_open(transaction: Transaction, record_id: int) -> bool:
    known = transaction.known.open_of(record_id)
    if known is not None:
        return bool(known)
    return transaction.execute(sql.OPEN_IN_RECORD, (record_id,)).fetchone() is not None


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
        destination_id, held_for = self.names.ids[self.destination], held_for_token(self.token_id)
        count, first = 0, []
        for lane in Lane:
            rows = transaction.execute(sql.HELD_FOR, (destination_id, held_for, lane, self.limit - count)).fetchall()
            for record_id, form in rows:
                delivery = read_delivery(transaction, record_id, destination_id, Form(form), self.names)
                transaction.execute(
                    sql.SET_STATE,
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
            sql.NOT_YET_DUE,
            {
                "destination": self.destination_id,
                "lane": self.lane,
                "now": self.now,
                "first": self.first,
                "limit": self.limit,
            },
        ).fetchall()
        for record_id, form in found:
            transaction.execute(sql.WAKE, (self.now, record_id, self.destination_id, form))
        return int(found[-1][0]) if len(found) == self.limit else None


# Moving a refused delivery on: others of its record take its place, in the transaction in which it ends.


@dataclass(frozen=True, slots=True)
class MoveOn:
    """Settle a delivery as diverted; returns the deliveries that may be sent instead of it, or because of its end."""

    delivery: Delivery
    divert: Divert
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Delivery, ...]:
        """What an order moved meanwhile, or what was diverted before, is left alone."""
        record = self.delivery.record
        siblings = siblings_of(transaction, record.record_id)
        refused = next((one for one in siblings if self._names(one)), None)
        if refused is None:
            return ()
        remaining = [one for one in siblings if one is not refused]
        if self.divert.keep:
            self._bury(transaction, refused)
            remaining.append(replace(refused, state=DeliveryState.DEAD))
        else:
            self._disown(transaction, refused)
        ready = self._owe(transaction, remaining)
        freed = free_waiting(transaction, record, self.names)
        end_record(transaction, record, self.now)
        return (*ready, *freed)

    def _names(self, one: Sibling) -> bool:
        """Whether this is what was attempted. A whole that goes on in the other lane keeps all of its key but that."""
        delivery = self.delivery
        same = (self.names.names[one.destination_id], one.form, one.lane)
        wanted = (delivery.destination, delivery.form, delivery.lane)
        return same == wanted and one.state is DeliveryState.READY

    def _bury(self, transaction: Transaction, refused: Sibling) -> None:
        record, dead = self.delivery.record, DeliveryState.DEAD
        key = (record.record_id, refused.destination_id, refused.form)
        transaction.execute(sql.SET_STATE, (dead, self.now, None, self.divert.error, None, *key))
        transaction.counters.move(refused.destination_id, refused.lane, refused.state, dead, record.raw_bytes)

    def _disown(self, transaction: Transaction, refused: Sibling) -> None:
        record = self.delivery.record
        transaction.execute(sql.DISOWN, (record.record_id, refused.destination_id, refused.form))
        transaction.counters.disown(refused.destination_id, refused.lane, refused.state, record.raw_bytes)

    def _owe(self, transaction: Transaction, remaining: list[Sibling]) -> list[Delivery]:
        """Owe what is not owed yet; returns what may be sent at once."""
        owed = {(one.destination_id, one.form) for one in remaining}
        wanted = [planned(new, self.names.ids) for new in self.divert.to]
        added = [one for one in wanted if (one.destination_id, one.form) not in owed]
        return owe_in_place(transaction, self.delivery.record, remaining, added, self.names, self.now)


def owe_in_place(
    transaction: Transaction,
    record: Record,
    remaining: Sequence[Sibling],
    added: Sequence[Sibling],
    names: Names,
    now: int,
) -> list[Delivery]:
    """Owe the `added` deliveries of a record, each in its place; returns those that may be sent at once."""
    ready = []
    for one in added:
        state = place(transaction, record.call_id, record.record_id, one, [*remaining, *added])
        # What is to be held with a dead letter waits first: freeing what waits then finds that, as ever.
        state = state if state is DeliveryState.READY else DeliveryState.WAITING
        owe(transaction, record, one, state, now)
        if state is DeliveryState.READY:
            ready.append(read_delivery(transaction, record.record_id, one.destination_id, one.form, names))
    return ready
