"""Giving deliveries up by an operator's order."""

from dataclasses import dataclass

from spool.orders import statements
from spool.orders.found import Found, find
from spool.orders.selection import Ordered
from spool.records import Delivery, DeliveryKey, DeliveryState, Record
from spool.settling import Names, end_record, free_waiting
from spool.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Discard:
    """Give deliveries up: they count as discarded, free what waited for them, and their records may end.

    A core that is discarded alone frees its detail, which is then sent: discard both in one order. Keys of
    deliveries that have ended are passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        moved = 0
        records: dict[int, Record] = {}
        for key in self.keys:
            found = find(transaction, key, self.names)
            if found is not None and not found.state.ended:
                self._give_up(transaction, found)
                records[key.record_id] = found.delivery.record
                moved += 1
        freed: list[Delivery] = []
        for record in records.values():
            freed += free_waiting(transaction, record, self.names)
            end_record(transaction, record, self.now)
        return Ordered(moved, tuple(freed))

    def _give_up(self, transaction: Transaction, found: Found) -> None:
        """In the queue and in the books."""
        delivery = found.delivery
        transaction.execute(
            statements.DISCARD, (self.now, delivery.record.record_id, found.destination_id, delivery.form)
        )
        transaction.counters.move(
            found.destination_id, delivery.lane, found.state, DeliveryState.DISCARDED, delivery.record.raw_bytes
        )
