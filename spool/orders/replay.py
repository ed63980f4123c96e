"""Sending dead letters again, in the order of their calls."""

from dataclasses import dataclass

from spool.order import place, siblings_of
from spool.orders import statements
from spool.orders.found import Found, find
from spool.orders.selection import Ordered
from spool.records import Delivery, DeliveryKey, DeliveryState
from spool.settling import Names, free_waiting, read_delivery
from spool.statements import HELD_FOR_CORE
from spool.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Replay:
    """Put dead letters back into the queue, with their old idempotency keys and all attempts before them.

    Each goes where the order of its call wants it. What was held with it goes on waiting for it. Keys of
    deliveries that are not dead letters (any more) are passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        moved, ready = 0, []
        for key in self.keys:
            found = find(transaction, key, self.names)
            if found is not None and found.state is DeliveryState.DEAD:
                ready += self._replay(transaction, found)
                moved += 1
        return Ordered(moved, tuple(ready))

    def _replay(self, transaction: Transaction, found: Found) -> list[Delivery]:
        """Returns what may be sent because of it."""
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
