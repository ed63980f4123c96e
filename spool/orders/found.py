"""Looking up the delivery that a key of an order names."""

from dataclasses import dataclass

from spool.records import Delivery, DeliveryKey, DeliveryState
from spool.settling import Names, read_delivery
from spool.statements import DELIVERY_STATE
from spool.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Found:
    """A delivery as it is now."""

    destination_id: int
    state: DeliveryState
    delivery: Delivery


def find(transaction: Transaction, key: DeliveryKey, names: Names) -> Found | None:
    """The delivery that a key names; None when there is none (any more)."""
    destination_id = names.ids.get(key.destination)
    row = transaction.execute(DELIVERY_STATE, (key.record_id, destination_id, key.form)).fetchone()
    if row is None or destination_id is None:
        return None
    delivery = read_delivery(transaction, key.record_id, destination_id, key.form, names)
    return Found(destination_id, DeliveryState(row[0]), delivery)
