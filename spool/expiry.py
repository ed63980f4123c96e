"""Expiry: giving up what could not be delivered in the time that the operator set. Off unless a time is set."""

from dataclasses import dataclass

from spool import statements
from spool.records import Delivery, DeliveryState, Form, Lane, Record
from spool.settling import Names, end_record, free_waiting, read_delivery
from spool.transaction import Transaction

DELIVERIES_PER_STEP = 25
"""Of each state and lane: some 10 ms, for which posts wait."""


@dataclass(frozen=True, slots=True)
class Expire:
    """Give up queued deliveries of records that were accepted before `before`; dead letters stay."""

    before: int
    now: int
    names: Names

    def __call__(self, transaction: Transaction) -> tuple[int, tuple[Delivery, ...]]:
        """The oldest first, a bounded number. Returns how many were given up, and what may be sent now instead."""
        records: dict[int, Record] = {}
        expired = 0
        for destination_id in self.names.names:
            for lane in Lane:
                for delivery, state in self._too_old(transaction, destination_id, lane):
                    self._give_up(transaction, delivery, state, destination_id)
                    records[delivery.record.record_id] = delivery.record
                    expired += 1
        freed: list[Delivery] = []
        for record in records.values():
            freed += free_waiting(transaction, record, self.names)
            end_record(transaction, record, self.now)
        return expired, tuple(freed)

    def _too_old(
        self, transaction: Transaction, destination_id: int, lane: Lane
    ) -> list[tuple[Delivery, DeliveryState]]:
        found = []
        for state in DeliveryState:
            if state.queued:
                asked = (destination_id, lane, state, DELIVERIES_PER_STEP)
                oldest = transaction.execute(statements.OLDEST_QUEUED, asked).fetchall()
                found += [
                    (read_delivery(transaction, record_id, destination_id, Form(form), self.names), state)
                    for record_id, form, accepted_at in oldest
                    if accepted_at < self.before
                ]
        return found

    def _give_up(self, transaction: Transaction, delivery: Delivery, state: DeliveryState, destination_id: int) -> None:
        record_id, form = delivery.record.record_id, delivery.form
        transaction.execute(statements.EXPIRE, (self.now, record_id, destination_id, form))
        transaction.counters.move(
            destination_id, delivery.lane, state, DeliveryState.EXPIRED, delivery.record.raw_bytes
        )
