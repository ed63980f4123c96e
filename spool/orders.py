"""Operators' orders: looking at dead letters, sending them again, and giving deliveries up."""

from collections.abc import Iterable
from dataclasses import dataclass

from spool import statements
from spool.order import place, siblings_of
from spool.records import Delivery, DeliveryKey, DeliveryState, Record
from spool.settling import Names, end_record, free_waiting, read_delivery
from spool.statements import HELD_FOR_CORE
from spool.transaction import Transaction

KEYS_PER_STEP = 100
"""An order about many deliveries is written in transactions of this many, between which posts are committed."""


def steps(keys: Iterable[DeliveryKey]) -> list[tuple[DeliveryKey, ...]]:
    """The keys of an order, without repetitions, in commit order, a transaction's worth at a time."""
    unique = sorted(set(keys), key=lambda key: (key.record_id, key.destination, key.form))
    return [tuple(unique[start : start + KEYS_PER_STEP]) for start in range(0, len(unique), KEYS_PER_STEP)]


@dataclass(frozen=True, slots=True)
class Replay:
    """Put dead letters back into the queue, with their old idempotency keys and all attempts before them.

    Each goes where the order of its call wants it. What was held with it goes on waiting for it. Keys of
    deliveries that are not dead letters (any more) are passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Delivery, ...]:
        """Returns those that may be sent at once."""
        ready: list[Delivery] = []
        for key in self.keys:
            found = _find(transaction, key, self.names)
            if found is not None and found.state is DeliveryState.DEAD:
                ready += self._replay(transaction, found)
        return tuple(ready)

    def _replay(self, transaction: Transaction, found: "_Found") -> list[Delivery]:
        record, destination_id, form = found.delivery.record, found.destination_id, found.delivery.form
        siblings = siblings_of(transaction, record.record_id)
        one = next(each for each in siblings if (each.destination_id, each.form) == (destination_id, form))
        state = place(transaction, record.call_id, record.record_id, one, siblings)
        held_for = HELD_FOR_CORE if state is DeliveryState.HELD else None
        transaction.execute(statements.REPLAY, (state, self.now, held_for, record.record_id, destination_id, form))
        transaction.counters.move(destination_id, found.delivery.lane, DeliveryState.DEAD, state, record.raw_bytes)
        freed = free_waiting(transaction, record, self.names)
        if state is not DeliveryState.READY:
            return list(freed)
        return [read_delivery(transaction, record.record_id, destination_id, form, self.names), *freed]


@dataclass(frozen=True, slots=True)
class Discard:
    """Give deliveries up: they count as discarded, free what waited for them, and their records may end.

    A core that is discarded alone frees its detail, which is then sent: discard both in one order. Keys of
    deliveries that have ended are passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> tuple[Delivery, ...]:
        """Returns the deliveries that may be sent now."""
        records: dict[int, Record] = {}
        for key in self.keys:
            found = _find(transaction, key, self.names)
            if found is not None and not found.state.ended:
                self._give_up(transaction, found)
                records[key.record_id] = found.delivery.record
        freed: list[Delivery] = []
        for record in records.values():
            freed += free_waiting(transaction, record, self.names)
            end_record(transaction, record, self.now)
        return tuple(freed)

    def _give_up(self, transaction: Transaction, found: "_Found") -> None:
        delivery = found.delivery
        transaction.execute(
            statements.DISCARD, (self.now, delivery.record.record_id, found.destination_id, delivery.form)
        )
        transaction.counters.move(
            found.destination_id, delivery.lane, found.state, DeliveryState.DISCARDED, delivery.record.raw_bytes
        )


@dataclass(frozen=True, slots=True)
class _Found:
    destination_id: int
    state: DeliveryState
    delivery: Delivery


def _find(transaction: Transaction, key: DeliveryKey, names: Names) -> _Found | None:
    """The delivery that a key names; None when there is none (any more)."""
    destination_id = names.ids.get(key.destination)
    row = transaction.execute(statements.DELIVERY_STATE, (key.record_id, destination_id, key.form)).fetchone()
    if row is None or destination_id is None:
        return None
    delivery = read_delivery(transaction, key.record_id, destination_id, key.form, names)
    return _Found(destination_id, DeliveryState(row[0]), delivery)
