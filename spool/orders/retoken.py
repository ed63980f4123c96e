"""Giving call logs another key than the one that came with them."""

from dataclasses import dataclass, field
from itertools import groupby

from spool import statements
from spool.order import siblings_of
from spool.orders.selection import Ordered, place_of
from spool.orders.statements import SET_TOKEN
from spool.records import Delivery, DeliveryKey, DeliveryState
from spool.rows import record_of
from spool.settling import Names, held_for_token, read_delivery
from spool.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Retoken:
    """Let the records of these deliveries be sent with `token`, and free what was held for their old ones.

    A key belongs to the call log: every delivery of it that forwards one uses the new one from now on. The old one is
    overwritten when nothing uses it any more. Dead letters stay dead letters.
    """

    keys: tuple[DeliveryKey, ...]
    token: str = field(repr=False)
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        moved, ready = 0, []
        for record_id, of_record in groupby(sorted(self.keys, key=place_of), key=lambda key: key.record_id):
            row = transaction.execute(statements.READ_RECORD, (record_id,)).fetchone()
            open_ones = {
                (self.names.names[one.destination_id], one.form)
                for one in siblings_of(transaction, record_id)
                if not one.state.ended
            }
            meant = sum((key.destination, key.form) in open_ones for key in of_record)
            if row is not None and meant:
                moved += meant
                ready += self._replace(transaction, record_id, record_of(row, self.names.spool_id).token_id)
        return Ordered(moved, tuple(ready))

    def _replace(self, transaction: Transaction, record_id: int, old: int | None) -> list[Delivery]:
        """Returns the deliveries of the record that may be sent with its new key."""
        new = transaction.tokens.use(transaction.connection, self.token)
        if old is not None:
            transaction.tokens.release(old)
        transaction.execute(SET_TOKEN, (new, record_id))
        ready = []
        for one in siblings_of(transaction, record_id):
            held = one.state is DeliveryState.HELD and one.held_for == held_for_token(old)
            if not held and one.state is not DeliveryState.READY:
                continue
            delivery = read_delivery(transaction, record_id, one.destination_id, one.form, self.names)
            if held:
                key = (record_id, one.destination_id, one.form)
                transaction.execute(statements.SET_STATE, (DeliveryState.READY, None, None, None, None, *key))
                transaction.execute(statements.WAKE, (self.now, *key))
                raw_bytes = delivery.record.raw_bytes
                transaction.counters.move(one.destination_id, one.lane, one.state, DeliveryState.READY, raw_bytes)
                delivery = read_delivery(transaction, *key, self.names)
            ready.append(delivery)
        return ready
