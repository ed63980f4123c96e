"""Retention: how long receipts are kept, and what could not be delivered, and how the rest of what ended is shredded.

Undelivered records and dead letters expire only where a time is set, each of its own. A tenant's own time stands in
place of the one for everybody. What ended leaves nothing that can be read: its key is destroyed.
"""

import base64
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from spool.db import sql
from spool.db.sql import uid_of
from spool.db.tokens import token_context
from spool.db.transaction import Transaction
from spool.db.writer import Writer
from spool.errors import CorruptPayload
from spool.keys import WrappedKey
from spool.payload.frames import record_context, spans_context, turn_context
from spool.queue.ordering import goes_first, siblings_of, waits
from spool.queue.reclaim import expire
from spool.queue.settle import end_record, free_waiting, read_delivery
from spool.records import Delivery, DeliveryState, DestinationIds, Form, Lane, Record
from spool.space import TenantLimits

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


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what nobody needs any more is kept. Times in milliseconds; None: for ever."""

    expire_after: int | None
    """Deliveries that were not made."""
    dead_keep: int | None
    receipts_keep: int
    receipts_max: int
    tenants: Mapping[str, TenantLimits]
    """Those that have times of their own."""


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

    What waits for a core or an object, or is held with it, expires with it: a detail would meet an endpoint without its
    core, a notice would be of nothing.
    """
    records: dict[int, Record] = {}
    for record_id, destination_id, form, lane in old:
        row = transaction.execute(sql.DELIVERY_STATE, (record_id, destination_id, form)).fetchone()
        state = None if row is None else DeliveryState(row[0])
        if state is None or state not in states:
            continue
        record = read_delivery(transaction, record_id, destination_id, Form(form), destinations).record
        expire(transaction, record, destination_id, Form(form), lane, state, now)
        siblings = siblings_of(transaction, record_id)
        expired = next(one for one in siblings if (one.destination_id, one.form) == (destination_id, form))
        for one in siblings:
            # A notice is of the detail's object, even where the core's lies in the same bucket.
            needs = expired.form is not Form.CORE or expired.destination_id == one.destination_id
            if needs and waits(one) and goes_first(expired, one):
                expire(transaction, record, one.destination_id, one.form, one.lane, one.state, now)
        records[record_id] = record
    freed: list[Delivery] = []
    for record in records.values():
        freed += free_waiting(transaction, record, destinations)
        end_record(transaction, record, now)
    return tuple(freed)


# Shredding: the keys of what ended are destroyed, and with them whatever is left of it in files (`spool.keys`).
#
# What lives on of an epoch is wrapped by another one's key, in bounded steps; when that is durable, the epoch's key is
# overwritten. That is done every `SHRED_SECONDS`, and at once by `Shredder.shred`.

SHRED_SECONDS = 30
"""Most records end within it: the shorter it is, the more keys have to be wrapped anew."""
KEYS_PER_STEP = 500
"""Some 10 ms, between which posts are committed."""
LOST = 0
"""The epoch of a key that cannot be unwrapped any more: it was damaged."""


class Shredder:
    """Destroys the keys of what ended. For the event loop."""

    def __init__(self, writer: Writer, spool_id: str, clock: Callable[[], float]) -> None:
        self._writer = writer
        self._spool_id = spool_id
        self._clock = clock
        self._next = 0.0

    async def shred_in_time(self) -> None:
        """Shred, if `SHRED_SECONDS` have passed since the last time."""
        if self._writer.keys.enabled and self._clock() >= self._next:
            self._next = self._clock() + SHRED_SECONDS
            await self.shred()

    async def shred(self, *, unused: bool = False) -> None:
        """Destroy the keys of all that has ended; with `unused` those of epochs that protect nothing yet, too."""
        if not self._writer.keys.enabled:
            return
        epochs = await self._writer.submit(partial(_retire, unused=unused))
        for epoch in epochs:
            while await self._writer.submit(partial(_move_keys, epoch=epoch, spool_id=self._spool_id)):
                continue
        if epochs:
            await self._writer.submit(partial(_destroy, epochs=epochs))


def _retire(transaction: Transaction, *, unused: bool) -> list[int]:
    retired = transaction.keys.retire()
    if unused:
        others = set(transaction.keys.numbers) - set(retired)
        retired += [epoch for epoch in others if not _is_used(transaction, epoch)]
    return retired


def _is_used(transaction: Transaction, epoch: int) -> bool:
    return any(transaction.execute(statement, (epoch,)).fetchone() is not None for statement in sql.EPOCH_USED)


def _destroy(transaction: Transaction, epochs: Sequence[int]) -> None:
    """What was wrapped anew is durable already: it was committed before."""
    transaction.keys.destroy([epoch for epoch in epochs if not _is_used(transaction, epoch)])


def _move_keys(transaction: Transaction, epoch: int, spool_id: str) -> int:
    """Wrap some of what the key of this epoch wraps by that of another one; returns how many were."""
    moved = 0
    for record_id, origin, key in transaction.execute(sql.RECORD_KEYS, (epoch, KEYS_PER_STEP)).fetchall():
        context = record_context(origin or uid_of(spool_id, record_id))
        wrapped = _wrapped_anew(transaction, WrappedKey(epoch, key), context)
        transaction.execute(sql.SET_RECORD_KEY, (wrapped.epoch, wrapped.value, record_id))
        moved += 1
    for token_id, token_hash, value in transaction.execute(sql.TOKENS_OF_EPOCH, (epoch, KEYS_PER_STEP)).fetchall():
        old = WrappedKey(epoch, base64.b64decode(value))
        wrapped = _wrapped_anew(transaction, old, token_context(token_hash))
        transaction.execute(sql.SET_TOKEN, (base64.b64encode(wrapped.value).decode(), wrapped.epoch, token_id))
        moved += 1
    for row_id, trace_id, key in transaction.execute(sql.SPAN_KEYS, (epoch, KEYS_PER_STEP)).fetchall():
        wrapped = _wrapped_anew(transaction, WrappedKey(epoch, key), spans_context(trace_id))
        transaction.execute(sql.SET_SPANS_KEY, (wrapped.epoch, wrapped.value, row_id))
        moved += 1
    for row_id, call_id, key in transaction.execute(sql.TURN_KEYS, (epoch, KEYS_PER_STEP)).fetchall():
        wrapped = _wrapped_anew(transaction, WrappedKey(epoch, key), turn_context(call_id))
        transaction.execute(sql.SET_TURN_KEY, (wrapped.epoch, wrapped.value, row_id))
        moved += 1
    return moved


def _wrapped_anew(transaction: Transaction, old: WrappedKey, context: bytes) -> WrappedKey:
    try:
        secret = transaction.keys.unwrap(old, context)
    except CorruptPayload:
        return WrappedKey(LOST, old.value)
    return transaction.keys.wrap(secret, context, lived_on=True)
