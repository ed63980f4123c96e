"""Making deliveries due now that were to be tried later."""

from dataclasses import dataclass

from spool.orders.found import find
from spool.orders.selection import Ordered
from spool.records import Delivery, DeliveryKey, DeliveryState
from spool.settling import Names, read_delivery
from spool.statements import WAKE
from spool.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Retry:
    """Make deliveries due now that are ready, but not before a later time.

    What waits for another one, or is held, keeps its place in the order, and is passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        ready: list[Delivery] = []
        for key in self.keys:
            found = find(transaction, key, self.names)
            if found is not None and found.state is DeliveryState.READY and found.delivery.due_at > self.now:
                transaction.execute(WAKE, (self.now, key.record_id, found.destination_id, key.form))
                ready.append(read_delivery(transaction, key.record_id, found.destination_id, key.form, self.names))
        return Ordered(len(ready), tuple(ready))
