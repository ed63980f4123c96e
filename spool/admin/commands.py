"""`QueueAdmin`: what operators ask and order about deliveries that have not ended; `Spool.admin`.

Every order is written in bounded transactions, between which posts are committed. What such a step did is durable;
an order that is interrupted is given again, and continues with what is left.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from msgspec.structs import replace

from spool.admin import query
from spool.admin.query import FOLLOW, SET_TOKEN, AdminResult, Page, Selection, combined, find, place_of
from spool.db import sql
from spool.db.sql import DELIVERY_STATE, HELD_FOR_CORE, HELD_FOR_TENANT, MAKE_DUE, checksum_of, record_of
from spool.db.transaction import Operation, Transaction
from spool.db.writer import Writer
from spool.queue.ordering import Sibling, initial_state, siblings_of
from spool.queue.reader import Reader
from spool.queue.reclaim import OrphanChunks
from spool.queue.settle import end_record, enqueue_in_order, free_waiting, held_for_token, read_delivery
from spool.records import Clock, Delivery, DeliveryKey, DeliveryState, DestinationIds, Form, Record, principal_of

KEYS_PER_STEP = 100
"""An order about many deliveries is written in transactions of this many, between which posts are committed."""

Keys = tuple[DeliveryKey, ...]


class QueueAdmin:
    """For the event loop. What an order frees is announced like a new record's deliveries."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        clock: Clock,
        announce: Callable[[tuple[Delivery, ...]], None],
        orphans: OrphanChunks,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._announce = announce
        self._orphans = orphans

    async def record_id(self, uid: str) -> int | None:
        """The number here of the record that is called `uid` outside: one that was imported, or one of this spool."""
        return await self._reader.record_id(uid)

    async def find(self, selection: Selection, *, limit: int, after: DeliveryKey | None = None) -> Page:
        """The next page of what matches `selection`, in commit order; at most `limit` deliveries are looked at."""
        return await find(self._reader, selection, limit, after)

    async def read(self, key: DeliveryKey) -> Delivery | None:
        """A delivery as an uploader sees it, for reading its document; None when there is none."""
        return await self._reader.delivery(key)

    async def replay(self, keys: Iterable[DeliveryKey]) -> AdminResult:
        """Put dead letters back into the queue, in the order of their calls, as if never tried.

        Idempotency keys stay; what was held with a dead letter waits for it still. The time after which they expire
        starts anew. What is no dead letter (any more) is passed over.
        """
        return await self._in_steps(keys, replay)

    async def discard(self, keys: Iterable[DeliveryKey]) -> AdminResult:
        """Give up deliveries that have not ended: they count as discarded, and a record may end with its last.

        A core that is discarded without its detail frees that to be sent.
        """
        done = await self._in_steps(keys, discard)
        self._orphans.appeared.set()
        return done

    async def retry(self, keys: Iterable[DeliveryKey]) -> AdminResult:
        """Make deliveries due now that are ready, but not before a later time; all others are passed over."""
        return await self._in_steps(keys, retry)

    async def reroute(
        self, keys: Iterable[DeliveryKey], to: str, *, forms: frozenset[Form], ordered: bool
    ) -> AdminResult:
        """Move deliveries that have not ended to the destination `to`, which accepts `forms`, as if never tried.

        What one record still owes to a destination moves together, and counts; see `reroute` for what is passed over.
        """
        return await self._in_steps(keys, partial(reroute, to=to, forms=forms, ordered=ordered))

    async def replace_token(self, keys: Iterable[DeliveryKey], token: str) -> AdminResult:
        """Let the call logs of these deliveries be sent with `token`, and free what was held for their old ones."""
        return await self._in_steps(keys, partial(replace_token, token=token))

    async def assign(self, agent_id: str | None, tenant: str, own: frozenset[str], token: str | None = None) -> int:
        """Give what belongs to nobody of this agent (None: without one) to a tenant, for good.

        What was held for destinations in `own` is sent, with `token` in place of the agent's own if there is one; the
        rest of what was held is discarded. Later call logs of the agent are for whoever asks `Reader.assigned_agents`.
        Returns how many records it were.
        """
        count = 0
        while True:
            operation = partial(
                assign, agent_id=agent_id, tenant=tenant, own=own, token=token,
                destinations=self._reader.destinations, now=self._clock(),
            )  # fmt: skip
            done = await self._writer.submit(operation)
            self._announce(done.ready)
            self._orphans.appeared.set()
            count += done.moved
            if done.moved < KEYS_PER_STEP:
                return count

    async def _in_steps(self, keys: Iterable[DeliveryKey], order: Callable[..., AdminResult]) -> AdminResult:
        """Submit the order a transaction's worth at a time; announce what each step freed."""
        done: list[AdminResult] = []
        for step in steps(keys):
            operation: Operation[AdminResult] = partial(
                order, keys=step, destinations=self._reader.destinations, now=self._clock()
            )
            done.append(await self._writer.submit(operation))
            self._announce(done[-1].ready)
        return combined(done)


def steps(keys: Iterable[DeliveryKey]) -> list[Keys]:
    """The keys of an order, without repetitions, in commit order, about a transaction's worth at a time.

    Those of one record stay together: a core that is given up a step before its detail would let that be sent.
    """
    parts: list[list[DeliveryKey]] = []
    for _, of_record in groupby(sorted(set(keys), key=place_of), key=lambda key: key.record_id):
        if not parts or len(parts[-1]) >= KEYS_PER_STEP:
            parts.append([])
        parts[-1].extend(of_record)
    return [tuple(part) for part in parts]


@dataclass(frozen=True, slots=True)
class _Match:
    """The delivery that a key of an order names, as it is now."""

    destination_id: int
    state: DeliveryState
    delivery: Delivery


def _match(transaction: Transaction, key: DeliveryKey, destinations: DestinationIds) -> _Match | None:
    """None when there is none (any more)."""
    destination_id = destinations.ids.get(key.destination)
    row = transaction.execute(DELIVERY_STATE, (key.record_id, destination_id, key.form)).fetchone()
    if row is None or destination_id is None:
        return None
    delivery = read_delivery(transaction, key.record_id, destination_id, key.form, destinations)
    return _Match(destination_id, DeliveryState(row[0]), delivery)


# The orders; each is one bounded transaction.


def discard(transaction: Transaction, keys: Keys, destinations: DestinationIds, now: int) -> AdminResult:
    """Give deliveries up: they count as discarded, free what waited for them, and their records may end.

    A core that is discarded alone frees its detail, which is then sent: discard both in one order. Keys of
    deliveries that have ended are passed over.
    """
    moved = 0
    records: dict[int, Record] = {}
    for key in keys:
        match = _match(transaction, key, destinations)
        if match is not None and not match.state.ended:
            record, lane = match.delivery.record, match.delivery.lane
            transaction.execute(query.DISCARD, (now, record.record_id, match.destination_id, key.form))
            transaction.counters.move(
                match.destination_id, lane, match.state, DeliveryState.DISCARDED, record.bytes_of(key.form)
            )
            records[key.record_id] = record
            moved += 1
    freed: list[Delivery] = []
    for record in records.values():
        freed += free_waiting(transaction, record, destinations)
        end_record(transaction, record, now)
    return AdminResult(moved, tuple(freed))


def replay(transaction: Transaction, keys: Keys, destinations: DestinationIds, now: int) -> AdminResult:
    """Put dead letters back into the queue, with their old idempotency keys, as if never tried.

    Each goes where the order of its call wants it. What was held with it waits for it still. Keys of
    deliveries that are not dead letters (any more) are passed over.
    """
    moved, ready = 0, []
    for key in keys:
        match = _match(transaction, key, destinations)
        if match is not None and match.state is DeliveryState.DEAD:
            ready += _replay_one(transaction, match, destinations, now)
            moved += 1
    return AdminResult(moved, tuple(ready))


def _replay_one(transaction: Transaction, match: _Match, destinations: DestinationIds, now: int) -> list[Delivery]:
    """Returns what may be sent because of it."""
    record, destination_id, form = match.delivery.record, match.destination_id, match.delivery.form
    siblings = siblings_of(transaction, record.record_id)
    one = next(each for each in siblings if (each.destination_id, each.form) == (destination_id, form))
    state = initial_state(transaction, record.call_id, record.principal, record.record_id, one, siblings)
    held_for = HELD_FOR_CORE if state is DeliveryState.HELD else None
    transaction.execute(query.REPLAY, (state, now, held_for, record.record_id, destination_id, form))
    transaction.execute(sql.RENEW, (record.record_id, destination_id, form, now))
    transaction.counters.move(destination_id, match.delivery.lane, DeliveryState.DEAD, state, record.bytes_of(form))
    freed = free_waiting(transaction, record, destinations)
    if state is not DeliveryState.READY:
        return list(freed)
    return [read_delivery(transaction, record.record_id, destination_id, form, destinations), *freed]


def retry(transaction: Transaction, keys: Keys, destinations: DestinationIds, now: int) -> AdminResult:
    """Make deliveries due now that are ready, but not before a later time.

    What waits for another one, or is held, keeps its place in the order, and is passed over.
    """
    ready: list[Delivery] = []
    for key in keys:
        match = _match(transaction, key, destinations)
        if match is not None and match.state is DeliveryState.READY and match.delivery.due_at > now:
            transaction.execute(MAKE_DUE, (now, key.record_id, match.destination_id, key.form))
            ready.append(read_delivery(transaction, key.record_id, match.destination_id, key.form, destinations))
    return AdminResult(len(ready), tuple(ready))


def assign(
    transaction: Transaction,
    agent_id: str | None,
    tenant: str,
    own: frozenset[str],
    token: str | None,
    destinations: DestinationIds,
    now: int,
) -> AdminResult:
    """Give at most `KEYS_PER_STEP` records of an agent to a tenant, and remember whose agent it is."""
    if agent_id is not None:
        transaction.execute(sql.ASSIGN_AGENT, (agent_id, tenant))
    rows = transaction.execute(sql.UNASSIGNED_RECORDS, (agent_id, KEYS_PER_STEP)).fetchall()
    ready: list[Delivery] = []
    for row in rows:
        before = record_of(row, destinations.spool_id)
        record = replace(before, tenant=tenant, principal=principal_of(tenant, None))
        # What was damaged before stays known as damaged.
        checksum = row[13] if before.damaged else checksum_of(row, tenant, record.principal, record.via)
        transaction.execute(sql.SET_TENANT, (tenant, record.principal, checksum, record.record_id))
        transaction.tenants.add(before.tenant, -record.stored_bytes)
        transaction.tenants.add(tenant, record.stored_bytes)
        siblings = siblings_of(transaction, record.record_id)
        if token is not None:
            queued = {(each.destination_id, each.form) for each in siblings if each.state is DeliveryState.READY}
            of_new = _replace_token_of(transaction, record.record_id, record.token_id, token, destinations, now)
            ready += [one for one in of_new if (destinations.ids[one.destination], one.form) not in queued]
        for one in siblings:
            if one.held_for != HELD_FOR_TENANT:
                continue
            key = (record.record_id, one.destination_id, one.form)
            if destinations.names[one.destination_id] in own:
                state = DeliveryState.WAITING  # what waits for nothing is freed below, in its order
                transaction.execute(sql.SET_STATE, (state, None, None, None, None, *key))
            else:
                state = DeliveryState.DISCARDED
                transaction.execute(query.DISCARD, (now, *key))
            transaction.counters.move(one.destination_id, one.lane, one.state, state, record.bytes_of(one.form))
        ready += free_waiting(transaction, record, destinations)
        end_record(transaction, record, now)
    return AdminResult(len(rows), tuple(ready))


# Moving what is owed to one destination to another one.
#
# In the counters it is owed to the other one from then on, and to the first no more, as with a redirected delivery:
# nothing was given up, so nothing counts as discarded. The idempotency key stays, since no destination is part of it.


def reroute(
    transaction: Transaction,
    keys: Keys,
    to: str,
    forms: frozenset[Form],
    destinations: DestinationIds,
    now: int,
    *,
    ordered: bool,
) -> AdminResult:
    """Move deliveries that have not ended to `to`, as if never tried.

    What one record still owes to a destination moves together: a detail without its core would meet an endpoint that
    does not know the call. It is passed over where `to` does not accept all of it (`forms`) or was owed some of it
    before. `ordered`: whether `to` gets the deliveries of a call one after the other; a bucket does not.
    """
    moved, ready = 0, []
    records: list[Record] = []
    new_id = destinations.ids[to]
    by_record = groupby(sorted(keys, key=place_of), key=lambda key: (key.record_id, key.destination))
    for (record_id, destination), of_record in by_record:
        old_id = destinations.ids.get(destination)
        row = transaction.execute(sql.READ_RECORD, (record_id,)).fetchone()
        leaving = _leaving(transaction, record_id, old_id, new_id, {key.form for key in of_record}, forms)
        if row is not None and old_id is not None and leaving:
            record = record_of(row, destinations.spool_id)
            arriving = [replace(one, ordered=ordered) for one in leaving]
            ready += _move(transaction, record, old_id, new_id, arriving, destinations, now)
            records.append(record)
            moved += len(leaving)
    # Not before all have left: what one of them frees may be the next one to leave.
    for record in records:
        ready += free_waiting(transaction, record, destinations)
    return AdminResult(moved, tuple(ready))


def _leaving(
    transaction: Transaction,
    record_id: int,
    old_id: int | None,
    new_id: int,
    named: set[Form],
    accepts: frozenset[Form],
) -> list[Sibling]:
    """All that a record still owes to a destination; nothing where it cannot be moved."""
    siblings = siblings_of(transaction, record_id)
    leaving = [one for one in siblings if one.destination_id == old_id and not one.state.ended]
    there = {one.form for one in siblings if one.destination_id == new_id}
    forms = {one.form for one in leaving}
    stays = old_id == new_id or not named & forms or not forms <= accepts or forms & there
    return [] if stays else leaving


def _move(
    transaction: Transaction,
    record: Record,
    old_id: int,
    new_id: int,
    leaving: Sequence[Sibling],
    destinations: DestinationIds,
    now: int,
) -> list[Delivery]:
    """Owe it to the other destination instead; returns what may be sent there at once."""
    forms = {one.form for one in leaving}
    siblings = siblings_of(transaction, record.record_id)
    staying = [one for one in siblings if not (one.destination_id == old_id and one.form in forms)]
    for one in leaving:
        transaction.execute(sql.DEQUEUE, (record.record_id, old_id, one.form))
        transaction.execute(sql.RENEW, (record.record_id, new_id, one.form, now))
        transaction.counters.dequeue(old_id, one.lane, one.state, record.bytes_of(one.form))
    # A notice waits for its object wherever that goes.
    transaction.execute(FOLLOW, (new_id, record.record_id, old_id))
    staying = [_following(one, old_id, new_id) for one in staying]
    arriving = [
        _following(replace(one, destination_id=new_id, state=DeliveryState.READY, held_for=None), old_id, new_id)
        for one in leaving
    ]
    return enqueue_in_order(transaction, record, staying, arriving, destinations, now)


def _following(one: Sibling, old_id: int, new_id: int) -> Sibling:
    return replace(one, after_destination_id=new_id) if one.after_destination_id == old_id else one


# Giving call logs another key than the one that came with them.


def replace_token(
    transaction: Transaction, keys: Keys, token: str, destinations: DestinationIds, now: int
) -> AdminResult:
    """Let the records of these deliveries be sent with `token`, and free what was held for their old ones.

    A key belongs to the call log: every delivery of it that forwards one uses the new one from now on. The old one is
    overwritten when nothing uses it any more. Dead letters stay dead letters.
    """
    moved, ready = 0, []
    for record_id, of_record in groupby(sorted(keys, key=place_of), key=lambda key: key.record_id):
        row = transaction.execute(sql.READ_RECORD, (record_id,)).fetchone()
        still_open = {
            (destinations.names[one.destination_id], one.form)
            for one in siblings_of(transaction, record_id)
            if not one.state.ended
        }
        matching = sum((key.destination, key.form) in still_open for key in of_record)
        if row is not None and matching:
            old = record_of(row, destinations.spool_id).token_id
            moved += matching
            ready += _replace_token_of(transaction, record_id, old, token, destinations, now)
    return AdminResult(moved, tuple(ready))


def _replace_token_of(
    transaction: Transaction, record_id: int, old: int | None, token: str, destinations: DestinationIds, now: int
) -> list[Delivery]:
    """Returns the deliveries of the record that may be sent with its new token."""
    new = transaction.tokens.use(transaction.connection, token)
    if old is not None:
        transaction.tokens.release(old)
    transaction.execute(SET_TOKEN, (new, record_id))
    transaction.known.forget_open(record_id)
    ready = []
    for one in siblings_of(transaction, record_id):
        held = one.state is DeliveryState.HELD and one.held_for == held_for_token(old)
        if not held and one.state is not DeliveryState.READY:
            continue
        key = (record_id, one.destination_id, one.form)
        delivery = read_delivery(transaction, *key, destinations)
        if held:
            transaction.execute(sql.SET_STATE, (DeliveryState.READY, None, None, None, None, *key))
            transaction.execute(MAKE_DUE, (now, *key))
            size = delivery.record.bytes_of(one.form)
            transaction.counters.move(one.destination_id, one.lane, one.state, DeliveryState.READY, size)
            delivery = read_delivery(transaction, *key, destinations)
        ready.append(delivery)
    return ready
