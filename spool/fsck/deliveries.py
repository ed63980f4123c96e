"""Deliveries: each has its record and destination, a legal state, and its place in the order (promise 4)."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from spool.fsck import statements
from spool.fsck.chunks import record_named
from spool.fsck.findings import Finding, Kind
from spool.fsck.inspection import Inspection
from spool.order import Sibling, place, place_in_record, sibling_of
from spool.records import DeliveryState, Form, Lane
from spool.statements import HELD_FOR_CORE


class _Stored(NamedTuple):
    """A row of `statements.DELIVERIES`."""

    record_id: int
    call_id: str | None
    lost_record: bool
    receipt: bool
    destination_id: int
    destination: str | None
    form: str
    lane: str
    state: int
    ordered: int
    after_destination_id: int | None
    held_for: int | None
    settled_at: int | None
    attempts: int

    @property
    def where(self) -> str:
        """The delivery as people see it."""
        return f"{self.form} of {record_named(self.record_id, self.call_id)} to {self.destination}"

    @property
    def key(self) -> tuple[int | str, ...]:
        """What names it in the database."""
        return (self.record_id, self.destination_id, self.form)


def check_deliveries(inspection: Inspection) -> Iterator[Finding]:
    """One pass over all deliveries, record by record."""
    rows = inspection.connection.execute(statements.DELIVERIES)
    for _, of_record in groupby(rows, key=itemgetter(0)):
        yield from _check_record(inspection, [_Stored(*row) for row in of_record])
    for record_id, call_id in inspection.connection.execute(statements.OPEN_WITHOUT_DELIVERY):
        text = "is open, and nothing of it is to be delivered"
        yield Finding(Kind.NOTHING_OWED, record_named(record_id, call_id), text, (record_id,))


def _check_record(inspection: Inspection, stored: Sequence[_Stored]) -> Iterator[Finding]:
    sound = True
    for one in stored:
        finding = _fault_of(one)
        if finding is not None:
            sound = False
            yield finding
    if sound:
        yield from _check_order(inspection, stored)


def _fault_of(one: _Stored) -> Finding | None:
    if one.lost_record:
        return Finding(Kind.NO_RECORD, one.where, "its record is not there", one.key)
    if one.destination is None:
        text = f"its destination, number {one.destination_id}, has no name"
        return Finding(Kind.NO_DESTINATION, one.where, text, one.key)
    reason = _illegal(one)
    if reason is not None:
        return Finding(Kind.ILLEGAL_DELIVERY, one.where, reason, one.key)
    if one.receipt and not DeliveryState(one.state).ended:
        text = f"is {DeliveryState(one.state).name.lower()}, and its record ended"
        return Finding(Kind.OWED_BY_RECEIPT, one.where, text, one.key)
    return None


def _illegal(one: _Stored) -> str | None:
    """What no settlement would have written; None for what one would."""
    if one.state not in set(DeliveryState):
        return f"is in a state that does not exist: {one.state}"
    if one.form not in set(Form) or one.lane not in set(Lane):
        return f"has a form or lane that does not exist: {one.form}, {one.lane}"
    state = DeliveryState(one.state)
    if (state is DeliveryState.HELD) != (one.held_for is not None):
        return f"is {state.name.lower()} and held for {one.held_for}"
    if (state.ended or state is DeliveryState.DEAD) != (one.settled_at is not None):
        return f"is {state.name.lower()} and settled at {one.settled_at}"
    return f"has {one.attempts} attempts" if one.attempts < 0 else None


def _check_order(inspection: Inspection, stored: Sequence[_Stored]) -> Iterator[Finding]:
    if len(stored) == 1 and stored[0].state != DeliveryState.WAITING:
        return
    siblings = [_sibling(one) for one in stored]
    for one, sibling in zip(stored, siblings, strict=True):
        finding = _misplaced(inspection, one, sibling, siblings)
        if finding is not None:
            yield finding


def _misplaced(inspection: Inspection, one: _Stored, sibling: Sibling, siblings: Sequence[Sibling]) -> Finding | None:
    """What is ready must have nothing of its own record ahead; what waits or is held with a core must have something.

    What is ready beside earlier records of its call is legal: a replayed dead letter goes before it.
    """
    if sibling.state is DeliveryState.READY and place_in_record(sibling, siblings) is not DeliveryState.READY:
        return Finding(Kind.OUT_OF_TURN, one.where, "is ready, and what it has to wait for has not ended", one.key)
    with_core = sibling.state is DeliveryState.HELD and sibling.held_for == HELD_FOR_CORE
    if with_core or sibling.state is DeliveryState.WAITING:
        right = place(inspection.connection, one.call_id or "", one.record_id, sibling, siblings)
        if right is DeliveryState.READY:
            return Finding(
                Kind.STUCK, one.where, f"is {sibling.state.name.lower()}, and nothing is ahead of it", one.key
            )
    return None


def _sibling(one: _Stored) -> Sibling:
    return sibling_of(
        (one.destination_id, one.form, one.lane, one.state, one.ordered, one.after_destination_id, one.held_for)
    )
