"""Moving what is owed to one destination to another one.

In the books it is owed to the other one from then on, and to the first no more, as with a diverted delivery: nothing
was given up, so nothing counts as discarded. The idempotency key stays, since no destination is part of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from spool import statements
from spool.diverting import owe_in_place
from spool.order import Sibling, siblings_of
from spool.orders.selection import Ordered, place_of
from spool.orders.statements import FOLLOW
from spool.records import Delivery, DeliveryKey, DeliveryState, Form, Record
from spool.rows import record_of
from spool.settling import Names, free_waiting
from spool.transaction import Transaction


@dataclass(frozen=True, slots=True)
class Reroute:
    """Move deliveries that have not ended to `to`, as if never tried.

    What one record still owes to a destination moves together: a detail without its core would meet an endpoint that
    does not know the call. It is passed over where `to` takes not all of it (`forms`) or was owed some of it before.
    """

    keys: tuple[DeliveryKey, ...]
    to: str
    forms: frozenset[Form]
    ordered: bool
    """Whether `to` gets the deliveries of a call one after the other; a bucket does not."""
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        moved, ready = 0, []
        records: list[Record] = []
        keys = sorted(self.keys, key=place_of)
        for (record_id, destination), of_record in groupby(keys, key=lambda key: (key.record_id, key.destination)):
            forms = {key.form for key in of_record}
            record = self._record(transaction, record_id)
            leaving = [] if record is None else self._leaving(transaction, record_id, destination, forms)
            if record is not None and leaving:
                ready += self._move(transaction, record, leaving)
                records.append(record)
                moved += len(leaving)
        # Not before all have left: what one of them frees may be the next one to leave.
        for record in records:
            ready += free_waiting(transaction, record, self.names)
        return Ordered(moved, tuple(ready))

    def _record(self, transaction: Transaction, record_id: int) -> Record | None:
        row = transaction.execute(statements.READ_RECORD, (record_id,)).fetchone()
        return None if row is None else record_of(row, self.names.spool_id)

    def _leaving(self, transaction: Transaction, record_id: int, destination: str, named: set[Form]) -> list[Sibling]:
        """All that a record still owes to a destination; nothing where it cannot be moved."""
        old_id, new_id = self.names.ids.get(destination), self.names.ids[self.to]
        siblings = siblings_of(transaction, record_id)
        leaving = [one for one in siblings if one.destination_id == old_id and not one.state.ended]
        taken = {one.form for one in siblings if one.destination_id == new_id}
        forms = {one.form for one in leaving}
        stays = old_id == new_id or not named & forms or not forms <= self.forms or forms & taken
        return [] if stays else leaving

    def _move(self, transaction: Transaction, record: Record, leaving: Sequence[Sibling]) -> list[Delivery]:
        """Owe it to the other destination instead; returns what may be sent there at once."""
        old_id, new_id = leaving[0].destination_id, self.names.ids[self.to]
        staying = [one for one in siblings_of(transaction, record.record_id) if one not in leaving]
        for one in leaving:
            transaction.execute(statements.DISOWN, (record.record_id, old_id, one.form))
            transaction.counters.disown(old_id, one.lane, one.state, record.raw_bytes)
        # A notice waits for its object wherever that goes.
        transaction.execute(FOLLOW, (new_id, record.record_id, old_id))
        staying = [self._following(one, old_id, new_id) for one in staying]
        arriving = [self._arriving(one, old_id, new_id) for one in leaving]
        return owe_in_place(transaction, record, staying, arriving, self.names, self.now)

    def _following(self, one: Sibling, old_id: int, new_id: int) -> Sibling:
        return replace(one, after_destination_id=new_id) if one.after_destination_id == old_id else one

    def _arriving(self, one: Sibling, old_id: int, new_id: int) -> Sibling:
        moved = replace(one, destination_id=new_id, state=DeliveryState.READY, ordered=self.ordered, held_for=None)
        return self._following(moved, old_id, new_id)
