"""Retention: how long receipts are kept, and what could not be delivered; for everybody, and for each tenant.

Undelivered records and dead letters expire only where a time is set, each of its own. A tenant's own time stands in
place of the one for everybody.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from spool.db import sql
from spool.db.sql import HELD_FOR_CORE
from spool.db.transaction import Transaction
from spool.queue.ordering import siblings_of
from spool.queue.reclaim import expire
from spool.queue.settle import end_record, free_waiting, read_delivery
from spool.records import Delivery, DeliveryState, DestinationIds, Form, Lane, Record

DELIVERIES_PER_STEP = 25
"""Of each state and lane: some 10 ms, for which posts wait."""
ROWS_PER_STEP = 500


@dataclass(frozen=True, slots=True)
class Rule:
    """How long something is kept, in milliseconds, and whose: one tenant's, or that of all but those named."""

    keep: int
    tenant: str | None = None
    all_but: tuple[str, ...] = ()

    def restrict(self, statement: str) -> str:
        """The statement, about records `r`, for those that this is a rule for."""
        if self.tenant is not None:
            return statement.replace("ORDER BY", "AND r.tenant = :tenant ORDER BY")
        if self.all_but:
            others = "AND coalesce(r.tenant, '') NOT IN (SELECT value FROM json_each(:all_but))"
            return statement.replace("ORDER BY", f"{others} ORDER BY")
        return statement

    @property
    def parameters(self) -> dict[str, str]:
        """What a restricted statement needs besides."""
        if self.tenant is not None:
            return {"tenant": self.tenant}
        return {"all_but": json.dumps(self.all_but)} if self.all_but else {}


def rules(keep: int | None, own: Mapping[str, int | None]) -> tuple[Rule, ...]:
    """A rule for each tenant with a time of its own, and one for everybody else, if there is a time for them."""
    named = {tenant: time for tenant, time in own.items() if time is not None}
    everybody = () if keep is None else (Rule(keep, all_but=tuple(sorted(named))),)
    return (*everybody, *(Rule(time, tenant) for tenant, time in named.items()))


# Receipts.


def purge_old_receipts(transaction: Transaction, rule: Rule, since: int, before: int) -> int:
    """Delete receipts of records that ended from `since` to `before`, at most `ROWS_PER_STEP`; returns how many."""
    parameters = {"since": since, "before": before, "limit": ROWS_PER_STEP, **rule.parameters}
    rows = transaction.execute(rule.restrict(sql.OLD_RECEIPTS), parameters).fetchall()
    return delete_receipts(transaction, [record_id for (record_id,) in rows])


def purge_excess_receipts(transaction: Transaction, too_many: int) -> int:
    """Delete the oldest receipts: `too_many`, and at most `ROWS_PER_STEP`; returns how many were deleted."""
    rows = transaction.execute(sql.OLDEST_RECEIPTS, (min(too_many, ROWS_PER_STEP),)).fetchall()
    return delete_receipts(transaction, [record_id for (record_id,) in rows])


def delete_receipts(transaction: Transaction, record_ids: Sequence[int]) -> int:
    """Delete these records, with what is kept of them; returns how many."""
    for record_id in record_ids:
        transaction.execute(sql.DELETE_ATTEMPTS, (record_id,))
        transaction.execute(sql.DELETE_DELIVERIES, (record_id,))
        transaction.execute(sql.DELETE_RECORD, (record_id,))
    return len(record_ids)


# What could not be delivered.

OldDelivery = tuple[int, int, str, Lane]
"""Record, destination, form and lane."""


QUEUED = frozenset(state for state in DeliveryState if state.queued)
DEAD = frozenset({DeliveryState.DEAD})


def expire_old(
    transaction: Transaction,
    old: Sequence[OldDelivery],
    states: Collection[DeliveryState],
    now: int,
    destinations: DestinationIds,
) -> tuple[Delivery, ...]:
    """Expire those of these deliveries that are in one of the states still; returns what may be sent now instead.

    What is held with a dead core expires with it: sent alone, a detail would meet an endpoint without its core.
    """
    records: dict[int, Record] = {}
    for record_id, destination_id, form, lane in old:
        row = transaction.execute(sql.DELIVERY_STATE, (record_id, destination_id, form)).fetchone()
        state = None if row is None else DeliveryState(row[0])
        if state is None or state not in states:
            continue
        record = read_delivery(transaction, record_id, destination_id, Form(form), destinations).record
        expire(transaction, record, destination_id, Form(form), lane, state, now)
        for one in siblings_of(transaction, record_id) if state is DeliveryState.DEAD and form == Form.CORE else ():
            if one.destination_id == destination_id and one.held_for == HELD_FOR_CORE:
                expire(transaction, record, destination_id, one.form, one.lane, one.state, now)
        records[record_id] = record
    freed: list[Delivery] = []
    for record in records.values():
        freed += free_waiting(transaction, record, destinations)
        end_record(transaction, record, now)
    return tuple(freed)
