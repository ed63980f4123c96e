"""Moving a refused delivery on: others of its record take its place, in the transaction in which it ends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spool import statements
from spool.acceptance import owe
from spool.order import Sibling, place, planned, siblings_of
from spool.records import Delivery, DeliveryState, Divert, Record
from spool.settling import Names, end_record, free_waiting, read_delivery
from spool.transaction import Transaction


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
        transaction.execute(statements.SET_STATE, (dead, self.now, None, self.divert.error, None, *key))
        transaction.counters.move(refused.destination_id, refused.lane, refused.state, dead, record.raw_bytes)

    def _disown(self, transaction: Transaction, refused: Sibling) -> None:
        record = self.delivery.record
        transaction.execute(statements.DISOWN, (record.record_id, refused.destination_id, refused.form))
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
