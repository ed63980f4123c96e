"""`Orders`: what operators ask and decide about deliveries that have not ended; `Spool.orders`.

Every order is written in bounded transactions, between which posts are committed. What such a step did is durable;
an order that is interrupted is given again, and goes on with what is left.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from spool.admin import query
from spool.admin.query import FOLLOW, SET_TOKEN, Ordered, Page, Selection, find, place_of, together
from spool.db import sql
from spool.db.sql import DELIVERY_STATE, HELD_FOR_CORE, WAKE, record_of
from spool.db.transaction import Operation, Transaction
from spool.db.writer import Writer
from spool.queue.ordering import Sibling, place, siblings_of
from spool.queue.reader import Reader
from spool.queue.settle import Names, end_record, free_waiting, held_for_token, owe_in_place, read_delivery
from spool.records import Delivery, DeliveryKey, DeliveryState, Form, Record

KEYS_PER_STEP = 100
"""An order about many deliveries is written in transactions of this many, between which posts are committed."""

Keys = tuple[DeliveryKey, ...]


class Orders:
    """For the event loop. What an order frees is announced like a new record's deliveries."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        clock: Callable[[], int],
        announce: Callable[[tuple[Delivery, ...]], None],
        chunks_are_loose: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._announce = announce
        self._chunks_are_loose = chunks_are_loose

    async def record_id(self, uid: str) -> int | None:
        """The number here of the record that is called `uid` outside: one that was brought in, or one of this spool."""
        return await self._reader.record_id(uid)

    async def find(self, selection: Selection, *, limit: int, after: DeliveryKey | None = None) -> Page:
        """The next page of what `selection` takes, in commit order; at most `limit` deliveries are looked at."""
        return await find(self._reader, selection, limit, after)

    async def read(self, key: DeliveryKey) -> Delivery | None:
        """A delivery as an uploader sees it, for reading its document; None when there is none."""
        return await self._reader.delivery(key)

    async def replay(self, keys: Iterable[DeliveryKey]) -> Ordered:
        """Put dead letters back into the queue, in the order of their calls, as if never tried.

        Idempotency keys stay; what was held with a dead letter goes on waiting for it. What is no dead letter (any
        more) is passed over.
        """
        names = self._reader.names
        return await self._in_steps(keys, lambda step: Replay(step, names, self._clock()))

    async def discard(self, keys: Iterable[DeliveryKey]) -> Ordered:
        """Give up deliveries that have not ended: they count as discarded, and a record may end with its last.

        A core that is discarded without its detail frees that to be sent.
        """
        names = self._reader.names
        done = await self._in_steps(keys, lambda step: Discard(step, names, self._clock()))
        self._chunks_are_loose()
        return done

    async def retry(self, keys: Iterable[DeliveryKey]) -> Ordered:
        """Make deliveries due now that are ready, but not before a later time; all others are passed over."""
        names = self._reader.names
        return await self._in_steps(keys, lambda step: Retry(step, names, self._clock()))

    async def reroute(self, keys: Iterable[DeliveryKey], to: str, *, forms: frozenset[Form], ordered: bool) -> Ordered:
        """Move deliveries that have not ended to the destination `to`, which takes `forms`, as if never tried.

        What one record still owes to a destination moves together, and counts; see `Reroute` for what is passed over.
        """
        names = self._reader.names
        return await self._in_steps(keys, lambda step: Reroute(step, to, forms, ordered, names, self._clock()))

    async def replace_token(self, keys: Iterable[DeliveryKey], token: str) -> Ordered:
        """Let the call logs of these deliveries be sent with `token`, and free what was held for their old ones."""
        names = self._reader.names
        return await self._in_steps(keys, lambda step: ReplaceToken(step, token, names, self._clock()))

    async def _in_steps(self, keys: Iterable[DeliveryKey], operation: Callable[[Keys], Operation[Ordered]]) -> Ordered:
        """Submit the order a transaction's worth at a time; announce what each step freed."""
        done: list[Ordered] = []
        for step in steps(keys):
            done.append(await self._writer.submit(operation(step)))
            self._announce(done[-1].ready)
        return together(done)


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


# Looking up the delivery that a key of an order names.


@dataclass(frozen=True, slots=True)
class Found:
    """A delivery as it is now."""

    destination_id: int
    state: DeliveryState
    delivery: Delivery


def find_addressed(transaction: Transaction, key: DeliveryKey, names: Names) -> Found | None:
    """The delivery that a key names; None when there is none (any more)."""
    destination_id = names.ids.get(key.destination)
    row = transaction.execute(DELIVERY_STATE, (key.record_id, destination_id, key.form)).fetchone()
    if row is None or destination_id is None:
        return None
    delivery = read_delivery(transaction, key.record_id, destination_id, key.form, names)
    return Found(destination_id, DeliveryState(row[0]), delivery)


# Giving deliveries up by an operator's order.


@dataclass(frozen=True, slots=True)
class Discard:
    """Give deliveries up: they count as discarded, free what waited for them, and their records may end.

    A core that is discarded alone frees its detail, which is then sent: discard both in one order. Keys of
    deliveries that have ended are passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        moved = 0
        records: dict[int, Record] = {}
        for key in self.keys:
            found = find_addressed(transaction, key, self.names)
            if found is not None and not found.state.ended:
                self._give_up(transaction, found)
                records[key.record_id] = found.delivery.record
                moved += 1
        freed: list[Delivery] = []
        for record in records.values():
            freed += free_waiting(transaction, record, self.names)
            end_record(transaction, record, self.now)
        return Ordered(moved, tuple(freed))

    def _give_up(self, transaction: Transaction, found: Found) -> None:
        """In the queue and in the books."""
        delivery = found.delivery
        transaction.execute(query.DISCARD, (self.now, delivery.record.record_id, found.destination_id, delivery.form))
        transaction.counters.move(
            found.destination_id, delivery.lane, found.state, DeliveryState.DISCARDED, delivery.record.raw_bytes
        )


# Sending dead letters again, in the order of their calls.


@dataclass(frozen=True, slots=True)
class Replay:
    """Put dead letters back into the queue, with their old idempotency keys and all attempts before them.

    Each goes where the order of its call wants it. What was held with it goes on waiting for it. Keys of
    deliveries that are not dead letters (any more) are passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        moved, ready = 0, []
        for key in self.keys:
            found = find_addressed(transaction, key, self.names)
            if found is not None and found.state is DeliveryState.DEAD:
                ready += self._replay(transaction, found)
                moved += 1
        return Ordered(moved, tuple(ready))

    def _replay(self, transaction: Transaction, found: Found) -> list[Delivery]:
        """Returns what may be sent because of it."""
        record, destination_id, form = found.delivery.record, found.destination_id, found.delivery.form
        siblings = siblings_of(transaction, record.record_id)
        one = next(each for each in siblings if (each.destination_id, each.form) == (destination_id, form))
        state = place(transaction, record.call_id, record.record_id, one, siblings)
        held_for = HELD_FOR_CORE if state is DeliveryState.HELD else None
        transaction.execute(query.REPLAY, (state, self.now, held_for, record.record_id, destination_id, form))
        transaction.counters.move(destination_id, found.delivery.lane, DeliveryState.DEAD, state, record.raw_bytes)
        freed = free_waiting(transaction, record, self.names)
        if state is not DeliveryState.READY:
            return list(freed)
        return [read_delivery(transaction, record.record_id, destination_id, form, self.names), *freed]


# Moving what is owed to one destination to another one.
#
# In the books it is owed to the other one from then on, and to the first no more, as with a diverted delivery: nothing
# was given up, so nothing counts as discarded. The idempotency key stays, since no destination is part of it.


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
        row = transaction.execute(sql.READ_RECORD, (record_id,)).fetchone()
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
            transaction.execute(sql.DISOWN, (record.record_id, old_id, one.form))
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


# Giving call logs another key than the one that came with them.


@dataclass(frozen=True, slots=True)
class ReplaceToken:
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
            row = transaction.execute(sql.READ_RECORD, (record_id,)).fetchone()
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
                transaction.execute(sql.SET_STATE, (DeliveryState.READY, None, None, None, None, *key))
                transaction.execute(sql.WAKE, (self.now, *key))
                raw_bytes = delivery.record.raw_bytes
                transaction.counters.move(one.destination_id, one.lane, one.state, DeliveryState.READY, raw_bytes)
                delivery = read_delivery(transaction, *key, self.names)
            ready.append(delivery)
        return ready


# Making deliveries due now that were to be tried later.


@dataclass(frozen=True, slots=True)
class Retry:
    """Make deliveries due now that are ready, but not before a later time.

    What waits for another one, or is held, keeps its place in the order, and is passed over.
    """

    keys: tuple[DeliveryKey, ...]
    names: Names
    now: int

    def __call__(self, transaction: Transaction) -> Ordered:
        """One bounded transaction."""
        ready: list[Delivery] = []
        for key in self.keys:
            found = find_addressed(transaction, key, self.names)
            if found is not None and found.state is DeliveryState.READY and found.delivery.due_at > self.now:
                transaction.execute(WAKE, (self.now, key.record_id, found.destination_id, key.form))
                ready.append(read_delivery(transaction, key.record_id, found.destination_id, key.form, self.names))
        return Ordered(len(ready), tuple(ready))
