"""Promise 4: which delivery waits for which, and which ones the end of a delivery frees.

- Core-lane deliveries of a call to a destination go one after the other, in commit order.
- A detail waits for its own core and for whatever was accepted earlier for the call; nothing waits for a detail but
  later details, and the notice of it.
- A notice waits for its object and for its own record's core; no core or detail waits for a notice, since it may be
  waiting for a detail. Objects in a bucket (`ordered` false) wait for nothing.
- A dead letter blocks nobody, but a detail whose core is dead is held with it, and so is a notice whose object is.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from spool.db import sql
from spool.db.sql import HELD_FOR_CORE, Row
from spool.db.transaction import Transaction
from spool.records import DETAIL_FORMS, DeliveryState, Form, Lane, NewDelivery
from spool.stats import HELD_WITH_DEAD

UNBLOCKED_AT_ONCE = 16
"""Records of a lane that `unblock_stuck` looks at."""


class Database(Protocol):
    """Where the order is looked up: a transaction, or a connection that only reads."""

    def execute(self, statement: str, parameters: Row | Mapping[str, object] = (), /) -> sqlite3.Cursor:
        """Run one statement."""


class Sibling(Struct, frozen=True):
    """A delivery among all those of one record, as the order sees it."""

    destination_id: int
    form: Form
    lane: Lane
    state: DeliveryState
    ordered: bool
    after_destination_id: int | None
    held_for: int | None


def planned(new: NewDelivery, destination_ids: Mapping[str, int]) -> Sibling:
    """A delivery that is still to be owed, READY until its state is known."""
    after = None if new.after is None else destination_ids[new.after]
    return Sibling(destination_ids[new.destination], new.form, new.lane, DeliveryState.READY, new.ordered, after, None)


def siblings_of(transaction: Database, record_id: int) -> list[Sibling]:
    """All deliveries of a record."""
    return [sibling_of(row) for row in transaction.execute(sql.DELIVERIES_OF_RECORD, (record_id,))]


def sibling_of(row: Row) -> Sibling:
    """A delivery as the order sees it, from the columns of `sql.DELIVERIES_OF_RECORD`."""
    destination_id, form, lane, state, ordered, after, held_for = row
    return Sibling(destination_id, Form(form), Lane(lane), DeliveryState(state), bool(ordered), after, held_for)


def initial_state(
    transaction: Database, call_id: str, principal: str | None, record_id: int, one: Sibling, record: Iterable[Sibling]
) -> DeliveryState:
    """The state of a delivery that has not been sent: READY, WAITING, or HELD with a dead one of its own record."""
    state = state_in_record(one, record)
    follows = state is DeliveryState.READY and one.ordered and one.form is not Form.NOTICE
    if follows and _earlier_queued(transaction, call_id, principal, record_id, one):
        return DeliveryState.WAITING
    return state


def state_in_record(one: Sibling, record: Iterable[Sibling]) -> DeliveryState:
    """Its state as far as the other deliveries of its own record decide that."""
    ahead = [other.state for other in record if goes_first(other, one)]
    if DeliveryState.DEAD in ahead:
        return DeliveryState.HELD
    if any(state.queued for state in ahead):
        return DeliveryState.WAITING
    return DeliveryState.READY


def goes_first(other: Sibling, one: Sibling) -> bool:
    """Whether `other`, of the same record, must end before `one` is sent."""
    if one.after_destination_id == other.destination_id and other.form is not Form.NOTICE:
        return True
    own_core = other.destination_id == one.destination_id and other.form is Form.CORE
    return own_core and (one.form is Form.NOTICE or (one.ordered and one.form in DETAIL_FORMS))


def _earlier_queued(transaction: Database, call_id: str, principal: str | None, record_id: int, one: Sibling) -> bool:
    earlier = transaction.execute(
        sql.EARLIER_QUEUED,
        {
            "call_id": call_id,
            "principal": principal,
            "record_id": record_id,
            "destination": one.destination_id,
            "lane": one.lane,
        },
    )
    return earlier.fetchone() is not None


def reevaluate_waiting(
    transaction: Transaction, call_id: str, principal: str | None, record_id: int
) -> list[tuple[int, Sibling]]:
    """After a delivery of this record moved, find new states for what waits because of it, in its own record and later.

    Returns the deliveries that became READY, with their records' ids.
    """
    freed: list[tuple[int, Sibling]] = []
    later = sql.LATER_OF_ANYBODY if principal is None else sql.LATER_OF_PRINCIPAL
    asked = {"call_id": call_id, "record_id": record_id, "principal": principal}
    for later_id, whose in transaction.execute(later, asked).fetchall():
        freed += [(later_id, one) for one in _reevaluate(transaction, call_id, whose, later_id)]
    return freed


def unblock_stuck(transaction: Transaction, destination_id: int, lane: Lane) -> int:
    """Give the oldest waiting deliveries of a lane new states, should nothing be ahead of them any more.

    The end of a delivery frees what waits for it, but looks only so far through a call with thousands of records.
    Returns how many deliveries were freed.
    """
    oldest = transaction.execute(sql.OLDEST_WAITING, (destination_id, lane, UNBLOCKED_AT_ONCE)).fetchall()
    return sum(len(_reevaluate(transaction, *row)) for row in oldest)


def _reevaluate(transaction: Transaction, call_id: str, principal: str | None, record_id: int) -> list[Sibling]:
    """Find new states for what waits in one record; returns the deliveries that became READY."""
    freed = []
    record = siblings_of(transaction, record_id)
    for one in record:
        if not waits(one):
            continue
        state = initial_state(transaction, call_id, principal, record_id, one, record)
        if state is one.state:
            continue
        _set_state(transaction, record_id, one, state)
        if state is DeliveryState.READY:
            freed.append(one)
    return freed


def waits(one: Sibling) -> bool:
    """Whether it waits for the end of another delivery, or is held with a dead one."""
    with_its_core = one.state is DeliveryState.HELD and one.held_for == HELD_FOR_CORE
    return one.state is DeliveryState.WAITING or with_its_core


def _set_state(transaction: Transaction, record_id: int, one: Sibling, state: DeliveryState) -> None:
    """From one queued state to another, so that the bytes that are queued stay as they are."""
    held = state is DeliveryState.HELD
    transaction.execute(
        sql.SET_STATE,
        (
            state,
            None,
            HELD_FOR_CORE if held else None,
            HELD_WITH_DEAD if held else None,
            None,
            record_id,
            one.destination_id,
            one.form,
        ),
    )
    transaction.counters.move(one.destination_id, one.lane, one.state, state, 0)
