"""A transaction as operations see it: reading, batch inserts, batched completions, look-ups ahead, and the counters."""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import TypeVar

from spool.db import sql
from spool.db.sql import Row
from spool.db.tokens import TokenStore
from spool.keys import SpoolKeys
from spool.records import DeliveryState, Lane
from spool.stats import LaneCounts

Result = TypeVar("Result")


class Transaction:
    """What an operation may use. Whatever is executed sees the rows that were added before it."""

    def __init__(self, connection: sqlite3.Connection, keys: SpoolKeys, *, counts_tenants: bool = False) -> None:
        self.connection = connection
        self.keys = keys
        """What data keys are wrapped by."""
        self.counters = DeliveryCounters(connection)
        self.tenants = TenantBytes(connection, counts=counts_tenants)
        self.tokens = TokenStore(keys)
        self.chunks = BatchInsert("chunks", sql.CHUNK_COLUMNS)
        self.records = BatchInsert("records", sql.NEW_RECORD_COLUMNS)
        self.deliveries = BatchInsert("deliveries", sql.NEW_DELIVERY_COLUMNS)
        self.completions = Completions(keys)
        self.known = Prefetch(any_live=connection.execute(sql.ANY_LIVE).fetchone() is not None)
        self._batches = (self.chunks, self.records, self.deliveries, self.completions)
        row = connection.execute(sql.LAST_RECORD).fetchone()
        self._last_record_id = int(row[0]) if row else 0
        self._before = (0, 0)
        self.pages, self.free_pages = 0, 0
        """How many the database has, as of the last commit."""
        self.count_pages()

    @property
    def changed_something(self) -> bool:
        """Whether anything was written since `begin`; maintenance often finds nothing to do.

        SQLite counts changed rows, and not the pages that are given back.
        """
        return (self.connection.total_changes, self.pages) != self._before

    def begin(self, calls: Collection[str] = (), records: Iterable[int] = ()) -> None:
        """Take the write lock at once: a transaction that began by reading could not always become a writing one.

        `calls` and `records` are those that the operations of this transaction are about, looked up together.
        """
        self._before = (self.connection.total_changes, self.pages)
        self.connection.execute("BEGIN IMMEDIATE")
        self.known.begin(self.connection, calls, records)

    def execute(self, statement: str, parameters: Row | Mapping[str, object] = ()) -> sqlite3.Cursor:
        """Run one statement, after what was gathered so far."""
        self._flush()
        before = self.connection.total_changes
        cursor = self.connection.execute(statement, parameters)
        if self.connection.total_changes != before:
            self.known.forget_open()
        return cursor

    def new_record_id(self) -> int:
        """An id that no record ever had."""
        self._last_record_id += 1
        return self._last_record_id

    def commit(self) -> None:
        """Write what was gathered and the counters, and make all of it durable."""
        self._flush()
        self.counters.flush(self.connection)
        if self.tokens.changes:
            self.tokens.flush(self.connection)
        self.count_pages()
        self.connection.execute("COMMIT")
        self.counters.committed()
        self.tenants.committed()
        if self.tokens.changes:
            self.tokens.committed()

    def count_pages(self) -> None:
        """See how many pages there are."""
        (self.pages,) = self.connection.execute(sql.PAGE_COUNT).fetchone()
        (self.free_pages,) = self.connection.execute(sql.FREE_PAGES).fetchone()

    def roll_back(self) -> None:
        """Undo everything since `begin`."""
        for rows in self._batches:
            rows.clear()
        self.counters.rolled_back()
        self.tenants.rolled_back()
        self.tokens.rolled_back()
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def _flush(self) -> None:
        for rows in self._batches:
            if rows:
                rows.flush(self.connection)


Operation = Callable[[Transaction], Result]
"""Runs in the writer's thread. It may run again after a rollback, so it changes nothing but the transaction."""


# The counters: how every destination's deliveries stand, kept in the transactions that move them.
#
# The committed counts are held in memory, and the changes of the transaction under way beside them; these are written
# with the transaction and become part of the image when it is durable.

_OWED = 0
_STATE_COLUMN = {state: 1 + int(state) for state in DeliveryState}
_WAITING = _STATE_COLUMN[DeliveryState.WAITING]
_HELD = _STATE_COLUMN[DeliveryState.HELD]
_QUEUED_BYTES = 8
_COLUMNS = 9

LaneKey = tuple[int, Lane]
"""A destination's id and a lane."""


class DeliveryCounters:
    """Counts per destination and lane. Written by the writer's thread only; `image` may be read by any."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.image: Mapping[LaneKey, LaneCounts] = {}
        self._changes: dict[LaneKey, list[int]] = {}
        self.reload(connection)

    def reload(self, connection: sqlite3.Connection) -> None:
        """Read the committed counts and forget changes that were not."""
        self._changes.clear()
        self.image = {
            (destination_id, Lane(lane)): LaneCounts(*counts)
            for destination_id, lane, *counts in connection.execute(sql.ALL_COUNTERS)
        }

    def enqueue(self, destination_id: int, lane: Lane, state: DeliveryState, size: int) -> None:
        """A new delivery begins in `state`."""
        changes = self._of(destination_id, lane)
        changes[_OWED] += 1
        changes[_STATE_COLUMN[state]] += 1
        if state.queued:
            changes[_QUEUED_BYTES] += size

    def dequeue(self, destination_id: int, lane: Lane, state: DeliveryState, size: int) -> None:
        """A delivery in `state` is owed no more: others took its place."""
        changes = self._of(destination_id, lane)
        changes[_OWED] -= 1
        changes[_STATE_COLUMN[state]] -= 1
        if state.queued:
            changes[_QUEUED_BYTES] -= size

    def move(self, destination_id: int, lane: Lane, old: DeliveryState, new: DeliveryState, size: int) -> None:
        """A delivery goes from one state to another."""
        changes = self._of(destination_id, lane)
        changes[_STATE_COLUMN[old]] -= 1
        changes[_STATE_COLUMN[new]] += 1
        changes[_QUEUED_BYTES] += (new.queued - old.queued) * size

    def any_waiting_or_held(self) -> bool:
        """Whether any delivery waits for another one's end, this transaction's included."""
        for key, changes in self._changes.items():
            committed = self.image.get(key)
            if changes[_WAITING] + changes[_HELD] + (committed.waiting + committed.held if committed else 0):
                return True
        return any(counts.waiting or counts.held for key, counts in self.image.items() if key not in self._changes)

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write this transaction's changes, as its last statements."""
        for (destination_id, lane), changes in self._changes.items():
            connection.execute(sql.ADD_TO_COUNTERS, (destination_id, str(lane), *changes))

    def committed(self) -> None:
        """The transaction is durable: its changes become part of the image, at once for every reader."""
        if not self._changes:
            return
        image = dict(self.image)
        for key, changes in self._changes.items():
            image[key] = _sum(image.get(key, LaneCounts()), changes)
        self._changes.clear()
        self.image = image

    def rolled_back(self) -> None:
        """The transaction was rolled back, and its changes with it."""
        self._changes.clear()

    def _of(self, destination_id: int, lane: Lane) -> list[int]:
        return self._changes.setdefault((destination_id, lane), [0] * _COLUMNS)


def _sum(counts: LaneCounts, changes: list[int]) -> LaneCounts:
    return LaneCounts(
        counts.owed + changes[0],
        counts.ready + changes[1],
        counts.waiting + changes[2],
        counts.held + changes[3],
        counts.dead + changes[4],
        counts.delivered + changes[5],
        counts.expired + changes[6],
        counts.discarded + changes[7],
        counts.queued_bytes + changes[8],
    )


# What each tenant has in the spool. Only where a tenant has a share: a start then reads every open record once.


class TenantBytes:
    """Stored bytes of open records by tenant. Written by the writer's thread only; `image` may be read by any."""

    def __init__(self, connection: sqlite3.Connection, *, counts: bool) -> None:
        self.image: Mapping[str, int] = dict(connection.execute(sql.OPEN_BYTES).fetchall()) if counts else {}
        self._counts = counts
        self._changes: dict[str, int] = {}

    def add(self, tenant: str | None, byte_count: int) -> None:
        """So many bytes more, or fewer."""
        if self._counts and tenant is not None:
            self._changes[tenant] = self._changes.get(tenant, 0) + byte_count

    def ended(self, connection: sqlite3.Connection, record_id: int) -> None:
        """A record ended. What is counted of it is asked for: an attempt may have begun before that changed."""
        if self._counts:
            tenant, byte_count = connection.execute(sql.WHOSE_BYTES, (record_id,)).fetchone() or (None, 0)
            self.add(tenant, -byte_count)

    def committed(self) -> None:
        """The transaction is durable."""
        if self._changes:
            changes, self._changes = self._changes, {}
            self.image = {**self.image, **{name: self.image.get(name, 0) + change for name, change in changes.items()}}

    def rolled_back(self) -> None:
        """The transaction was rolled back."""
        self._changes.clear()


# Batch insert: new rows are gathered, and written together when something is read, or at the end.
#
# At 2 KB a post the hand-over of Python's lock at each statement, not SQLite, bounded how many were accepted.

_WHOLE_STEP = 16


@cache
def statement_for(table: str, columns: tuple[str, ...], rows: int) -> str:
    """The statement that inserts so many rows at once."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {places(rows, len(columns))}"


class BatchInsert:
    """The rows that are still to be inserted into one table."""

    def __init__(self, table: str, columns: str) -> None:
        self._table = table
        self._columns = tuple(columns.split(", "))
        self._rows: list[tuple[object, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: tuple[object, ...]) -> None:
        """One more row, in the order of the columns.

        Of plain values: SQLite's module looks for an adapter of each enum and bool, which was 2 % of a post.
        """
        self._rows.append(row)

    def flush(self, connection: sqlite3.Connection) -> None:
        """Insert all rows, in few statements of which few different ones have to be prepared.

        Up to `_WHOLE_STEP` rows are one statement; of more, multiples of it are one, and the rest another.
        """
        rows, self._rows = self._rows, []
        start = 0
        while start < len(rows):
            left = len(rows) - start
            step = left if left < _WHOLE_STEP else min(LARGEST_STEP, left - left % _WHOLE_STEP)
            batch = rows[start : start + step]
            connection.execute(statement_for(self._table, self._columns, step), tuple(chain.from_iterable(batch)))
            start += step

    def clear(self) -> None:
        """Forget the rows: their transaction was rolled back."""
        self._rows.clear()


# Completions of a transaction, written together: delivered deliveries, receipts, and payloads nobody needs.
#
# Each delivery by itself took five statements; a group of them takes three.


class Completions:
    """The completions that are still to be written. For the writer's thread only."""

    def __init__(self, keys: SpoolKeys) -> None:
        self._keys = keys
        self._delivered: list[tuple[object, ...]] = []
        self._receipts: list[tuple[int, int]] = []
        self._chunks: list[tuple[int]] = []
        self._orphans: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._delivered) + len(self._receipts) + len(self._chunks) + len(self._orphans)

    def delivered(self, record_id: int, destination_id: int, form: str, now: int, location: str | None) -> None:
        """A destination confirmed this delivery."""
        self._delivered.append((record_id, destination_id, form, now, location))

    def receipt(self, record_id: int, now: int) -> None:
        """Nothing of this record is open any more."""
        self._receipts.append((record_id, now))

    def chunks(self, first: int, last: int) -> None:
        """Nothing needs these chunks any more."""
        if first == last:
            self._chunks.append((first,))
        else:  # Large payloads are deleted in steps, between which posts are committed.
            self._orphans.append((first, last))

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write them all."""
        if self._keys.enabled:
            for statement, values in pad_batch(epochs_of_records, [(record_id,) for record_id, _ in self._receipts]):
                self._keys.ended([epoch for (epoch,) in connection.execute(statement, values)])
        for statement, values in (
            *pad_batch(end_delivered, self._delivered),
            *pad_batch(make_receipts, self._receipts),
            *pad_batch(delete_chunks, self._chunks),
        ):
            connection.execute(statement, values)
        if self._orphans:
            connection.executemany(sql.ADD_ORPHAN_CHUNKS, self._orphans)
        self.clear()

    def clear(self) -> None:
        """Forget them: they are written, or their transaction was rolled back."""
        for rows in (self._delivered, self._receipts, self._chunks, self._orphans):
            rows.clear()


# Prefetch: what the operations of a group need to know of the database is looked up for all of them when their
# transaction begins.
#
# An operation announces the call or the record that it is about (`Writer.submit`); that is then known here,
# for as long as nothing else of the transaction changed it. What is not known here has to be asked for.

OpenDeliveries = dict[tuple[int, str], DeliveryState]
"""By destination id and form, what has not ended of a record, dead letters included."""


class Prefetch:
    """What is known about the calls and records of one transaction. For the writer's thread only."""

    def __init__(self, *, any_live: bool = False) -> None:
        """`any_live`: there may be live calls. Where none ever was, posts need not ask for one."""
        self._any_live = any_live
        self._live: set[str] = set()
        self._new_calls: set[str] = set()
        self._open: dict[int, OpenDeliveries] = {}
        self._tokens: dict[int, int | None] = {}

    def begin(self, connection: sqlite3.Connection, calls: Collection[str], records: Iterable[int]) -> None:
        """Look up the announced calls and records; what was known before is forgotten."""
        self._new_calls = set(calls)
        for statement, asked in pad_batch(known_calls, [(call_id,) for call_id in self._new_calls]):
            self._new_calls.difference_update(call_id for (call_id,) in connection.execute(statement, asked).fetchall())
        self._live = set()
        for statement, asked in pad_batch(live_calls, [(call_id,) for call_id in calls]) if self._any_live else ():
            self._live.update(call_id for (call_id,) in connection.execute(statement, asked).fetchall())
        self._open = {record_id: {} for record_id in records}
        self._tokens = {}
        for statement, asked in pad_batch(open_of_records, [(record_id,) for record_id in self._open]):
            for record_id, destination_id, form, state, token_id in connection.execute(statement, asked).fetchall():
                self._open[record_id][destination_id, form] = DeliveryState(state)
                self._tokens[record_id] = token_id

    def begins_call(self, call_id: str) -> bool:
        """Whether no record of this call is known; true once for a call, for whoever asks adds one."""
        new = call_id in self._new_calls
        self._new_calls.discard(call_id)
        return new

    def is_live(self, call_id: str) -> bool:
        """Whether a call of this id may be live."""
        return call_id in self._live

    def note_live(self, call_id: str) -> None:
        """This transaction made one live."""
        self._any_live = True
        self._live.add(call_id)

    def open_of(self, record_id: int) -> OpenDeliveries | None:
        """What has not ended of a record; whoever ends one takes it out. None: not known, ask the database."""
        return self._open.get(record_id)

    def token_of(self, connection: sqlite3.Connection, record_id: int) -> int | None:
        """The token that a record has now; an attempt may have begun with one that was replaced since."""
        if record_id not in self._tokens:
            (self._tokens[record_id],) = connection.execute(sql.RECORD_TOKEN, (record_id,)).fetchone() or (None,)
        return self._tokens[record_id]

    def forget_open(self, record_id: int | None = None) -> None:
        """What is open of this record, or of any, or the record's token, may have changed."""
        if record_id is None:
            self._open.clear()
            self._tokens.clear()
        else:
            self._open.pop(record_id, None)
            self._tokens.pop(record_id, None)


# Statements that take many rows at once, of which only few different ones are ever prepared.
#
# Each statement that the writer runs gives up Python's global lock and has to get it back from a busy event loop, so
# one for many rows costs little more than one for a single row. The number of rows is rounded up to a power of two, at
# most `LARGEST_STEP`; what is missing is filled up with the first row once more, which changes nothing.

LARGEST_STEP = 64

ForRows = Callable[[int], str]
"""Makes the statement for so many rows."""


def pad_batch(for_rows: ForRows, rows: Sequence[Row]) -> Iterator[tuple[str, tuple[object, ...]]]:
    """The statements that together take all `rows`, each with its parameters."""
    for start in range(0, len(rows), LARGEST_STEP):
        step = rows[start : start + LARGEST_STEP]
        count = 1 << (len(step) - 1).bit_length()
        yield for_rows(count), (*chain.from_iterable(step), *(tuple(step[0]) * (count - len(step))))


@cache
def places(rows: int, columns: int) -> str:
    """The places of so many rows of parameters: `(?,?),(?,?)`."""
    return ",".join([f"({','.join('?' * columns)})"] * rows)


@cache
def known_calls(count: int) -> str:
    """Which of `count` calls have a record: one look-up in the index for each, all in one statement."""
    return (
        f"SELECT column1 FROM (VALUES {places(count, 1)}) WHERE EXISTS (SELECT 1 FROM records WHERE call_id = column1)"
    )


@cache
def live_calls(count: int) -> str:
    """Which of `count` calls are live, whoever posts them."""
    return f"SELECT call_id FROM live_calls WHERE call_id IN ({','.join('?' * count)})"


@cache
def open_of_records(count: int) -> str:
    """What has not ended of `count` records."""
    return (
        "SELECT record_id, destination_id, form, state, "
        "(SELECT token_id FROM records WHERE records.record_id = deliveries.record_id) FROM deliveries "
        f"WHERE record_id IN ({','.join('?' * count)}) AND +state <= 3"
    )


@cache
def end_delivered(count: int) -> str:
    """Confirmed deliveries: record, destination, form, the time, and the location or NULL of each."""
    return (
        f"UPDATE deliveries SET state = {int(DeliveryState.DELIVERED)}, settled_at = ended.column4, held_for = NULL, "
        "error = NULL, location = coalesce(ended.column5, location) "
        f"FROM (VALUES {places(count, 5)}) AS ended "
        "WHERE record_id = ended.column1 AND destination_id = ended.column2 AND form = ended.column3"
    )


@cache
def make_receipts(count: int) -> str:
    """Records of which nothing is open any more: the record and the time of each."""
    return (
        "UPDATE records SET settled_at = ended.column2, token_id = NULL, key_epoch = NULL, payload_key = NULL "
        f"FROM (VALUES {places(count, 2)}) AS ended WHERE record_id = ended.column1"
    )


@cache
def epochs_of_records(count: int) -> str:
    """The epochs by whose keys those of `count` records are wrapped."""
    return (
        f"SELECT DISTINCT key_epoch FROM records WHERE record_id IN ({','.join('?' * count)}) AND key_epoch IS NOT NULL"
    )


@cache
def delete_chunks(count: int) -> str:
    """`count` chunks of as many payloads."""
    return f"DELETE FROM chunks WHERE chunk_id IN ({','.join('?' * count)})"
