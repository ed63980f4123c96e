"""Everything that is read beside the writer: the queue, payloads, traces, tokens, upload addresses.

Each statement is a snapshot of its own; no snapshot is held while anything else is awaited, since a held one would
keep the write-ahead log from being reset.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from difflib import get_close_matches
from itertools import product
from pathlib import Path

import aiosqlite

from spool.db import sql
from spool.db.connection import address_of, reader_pragmas, translated
from spool.db.sql import HELD_FOR_SHARED_TOKEN, RECORD_WIDTH, Row, delivery_of, number_in, record_of
from spool.db.tokens import token_in
from spool.errors import CorruptDatabase, CorruptPayload, NotStorable, SpoolUnavailable
from spool.keys import SpoolKeys, WrappedKey
from spool.ownership import CorruptionLatch
from spool.payload.frames import Seal, chunk_range, is_sealed, is_whole, places, record_context
from spool.queue.retention import OldDelivery, Rule
from spool.records import (
    NO_OUTLINE,
    Delivery,
    DeliveryKey,
    DeliveryState,
    DestinationIds,
    Due,
    Form,
    Fragment,
    Lane,
    OfTenant,
    Outline,
    Record,
    Upload,
)
from spool.stats import (
    Attempt,
    CallFilter,
    CallPage,
    CallRow,
    FailedAttempt,
    LiveCall,
    OpenDelivery,
    TracedDelivery,
    TracedRecord,
)

Value = str | bytes | int | None
"""What a parameter of a statement may be."""
CLOCK_TOLERANCE = 60 * 1000
"""A delivery that was deferred by so much later than now was deferred by a clock that ran ahead, and is due."""
CHUNKS_PER_READ = 4
_CANDIDATES = 200
"""Call ids that begin alike and are compared with one that is not known."""
REASONS_LOOKED_AT = 2000
"""Dead letters of a lane, the newest, whose reasons are counted: a few milliseconds, and at most half a megabyte."""

WINDOW = 20_000
"""Records that one statement of a list of calls looks at: some ten milliseconds."""
LOOKED_AT = 200_000
"""Records that one page of such a list looks at."""
SELECTIVE_PREFIX = 4
"""From so many characters on the beginning of a call id is looked up in the index."""
MOST_BY_PREFIX = 1000
"""Where so many calls or more begin alike, all are searched from the newest on."""


class ReadConnection:
    """A connection on a thread of its own that can change nothing: one statement after the other. Made by `open`."""

    def __init__(self, connection: aiosqlite.Connection, corruption: CorruptionLatch) -> None:
        self._connection = connection
        self._corruption = corruption
        self._closed = False

    @classmethod
    async def open(cls, path: Path, corruption: CorruptionLatch) -> "ReadConnection":
        """Open the database, which must exist; on an error nothing is left open. Reports to `corruption`."""
        with translated("opening the spool for reading"):
            # Not to be cancelled: its thread would open the file nevertheless, and nobody would close it.
            connecting = asyncio.ensure_future(aiosqlite.connect(address_of(path), uri=True, isolation_level=None))
            try:
                connection = await asyncio.shield(connecting)
            except asyncio.CancelledError:
                await (await connecting).close()
                raise
            try:
                for pragma in reader_pragmas():
                    # Not `execute`: while the cursor that it returns is alive, SQLite keeps a closed file open.
                    await connection.execute_fetchall(pragma)
            except BaseException:
                await connection.close()
                raise
        return cls(connection, corruption)

    async def ask(self, statement: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> list[Row]:
        """The rows of one statement; raises the spool's errors."""
        if self._closed:
            raise SpoolUnavailable("the spool is closed")
        try:
            with translated("reading from the spool"):
                return list(await self._connection.execute_fetchall(statement, parameters))
        except CorruptDatabase as error:
            self._corruption.report(str(error))
            raise

    async def close(self) -> None:
        """Finish what was asked, and end the thread."""
        self._closed = True
        await self._connection.close()


class Reader:
    """Reading connections for questions, payloads, counting and lists of calls, so that none waits for another."""

    def __init__(
        self,
        questions: ReadConnection,
        payloads: ReadConnection,
        counting: ReadConnection,
        calls: ReadConnection,
        destinations: DestinationIds,
        keys: SpoolKeys,
    ) -> None:
        self._keys = keys
        self._questions = questions
        self._payloads = payloads
        self._counting = counting
        self._calls = calls
        self.destinations = destinations

    @classmethod
    async def open(
        cls, path: Path, destinations: DestinationIds, corruption: CorruptionLatch, keys: SpoolKeys
    ) -> "Reader":
        """Open the connections; on an error none is left open."""
        async with AsyncExitStack() as opened:
            questions, payloads, counting, calls = [await _opened(path, corruption, opened) for _ in range(4)]
            opened.pop_all()
        return cls(questions, payloads, counting, calls, destinations, keys)

    async def close(self) -> None:
        """Close the connections; what is being read is finished first."""
        for connection in (self._questions, self._payloads, self._counting, self._calls):
            await connection.close()

    async def due(
        self, destination_id: int, lane: Lane, *, now: int, limit: int, of_tenant: OfTenant | None = None
    ) -> Due:
        """See `uploaders.base.Queue.due`."""
        bounds: dict[str, Value] = {
            "destination": destination_id,
            "lane": lane,
            "now": now,
            "horizon": now + CLOCK_TOLERANCE,
        }
        due, next_due = sql.DUE, sql.NEXT_DUE
        if of_tenant is not None:
            due, next_due, bounds = sql.DUE_OF_TENANT, sql.NEXT_DUE_OF_TENANT, {**bounds, "tenant": of_tenant.tenant}
        rows = await self._questions.ask(due, {**bounds, "limit": limit})
        deliveries = tuple(delivery_of(row, self.destinations.spool_id, self.destinations.names) for row in rows)
        if len(deliveries) == limit:
            return Due(deliveries, now)
        earliest = await self._questions.ask(next_due, bounds)
        return Due(deliveries, earliest[0][0])

    async def held_tokens(self, destination_id: int) -> tuple[int | None, ...]:
        """See `uploaders.base.Queue.held_tokens`."""
        rows = await self._questions.ask(sql.HELD_TOKENS, (destination_id,))
        return tuple(None if held_for == HELD_FOR_SHARED_TOKEN else held_for for (held_for,) in rows)

    async def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        """The frames of a fragment, verified and decrypted; raises `CorruptPayload`."""
        wanted = chunk_range(record.first_chunk, record.fragments, fragment)
        placed = places(fragment, len(wanted), wanted.start - record.first_chunk)
        seal: Seal | None = None
        for start in range(wanted.start, wanted.stop, CHUNKS_PER_READ):
            stop = min(start + CHUNKS_PER_READ, wanted.stop)
            rows = await self._payloads.ask(sql.READ_CHUNKS, (start, stop - 1))
            stored = {chunk_id: (checksum, frame) for chunk_id, checksum, frame in rows}
            for chunk_id, place in zip(range(start, stop), placed, strict=False):
                checksum, frame = stored.get(chunk_id, (None, b""))
                if not is_whole(frame, checksum):
                    reason = "missing" if checksum is None else "damaged: its checksum differs"
                    raise CorruptPayload(f"chunk {chunk_id} of record {record.uid} is {reason}")
                if not is_sealed(frame):
                    yield frame
                    continue
                if seal is None:
                    context = record_context(record.uid)
                    seal = await self.seal(sql.READ_RECORD_KEY, record.record_id, context, f"record {record.uid}")
                try:
                    yield seal.open(frame, place)
                except CorruptPayload as error:
                    raise CorruptPayload(f"chunk {chunk_id} of record {record.uid} is damaged: {error}") from error

    async def seal(self, statement: str, row_id: int, context: bytes, what: str) -> Seal:
        """What was sealed with the data key that `statement` finds in a row. Raises `CorruptPayload`."""
        for last_time in (False, True):  # it may have been wrapped anew since the row was read
            rows = await self._payloads.ask(statement, (row_id,))
            if not rows or rows[0][0] is None:
                break
            try:
                return Seal(self._keys.unwrap(WrappedKey(*rows[0]), context))
            except CorruptPayload as error:
                if last_time:
                    raise CorruptPayload(f"{what} cannot be decrypted: {error}") from error
        raise CorruptPayload(f"{what} cannot be decrypted: its key is not there")

    async def token(self, token_id: int) -> str | None:
        """The agent's own token by its id; None once it was overwritten. Raises `CorruptPayload` for a damaged one."""
        rows = await self._questions.ask(sql.READ_TOKEN, (token_id,))
        if not rows:
            return None
        value, token_hash, epoch = rows[0]
        try:
            return token_in(value, token_hash, epoch, self._keys)
        except CorruptPayload as error:
            raise CorruptPayload(f"token {token_id} {error}") from error

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """The newest 256 records of a call, the oldest first."""
        try:
            rows = await self._questions.ask(sql.TRACE_RECORDS, (call_id,))
        except NotStorable:  # what cannot be stored was never accepted
            return ()
        return tuple([await self._traced(row, with_history=True) for row in reversed(rows)])

    async def similar_call_ids(self, call_id: str) -> tuple[str, ...]:
        """Up to three call ids that somebody may have meant who typed this one: they begin alike."""
        for length in (len(call_id), len(call_id) - 1, len(call_id) * 3 // 4, len(call_id) // 2):
            start = call_id[: max(length, 2)]
            try:
                rows = await self._questions.ask(sql.CALL_IDS_FROM, (start, f"{start}\U0010ffff", _CANDIDATES))
            except NotStorable:
                return ()
            if found := get_close_matches(call_id, [str(row[0]) for row in rows], n=3, cutoff=0.5):
                return tuple(found)
        return ()

    async def newest(self, after: int, limit: int) -> tuple[TracedRecord, ...]:
        """The newest records behind that number, receipts included, the oldest first."""
        rows = await self._questions.ask(sql.NEWEST_RECORDS, (after, limit))
        return tuple([await self._traced(row) for row in reversed(rows)])

    async def live_calls(self, since: int, limit: int) -> list[LiveCall]:
        """The newest calls that began since then and have not ended, the oldest first."""
        rows = await self._questions.ask(sql.LIVE_CALLS, (since, limit))
        return [LiveCall(*row) for row in reversed(rows)]

    async def open_tenants(self) -> list[str | None]:
        """The tenants of records that have not ended."""
        return [tenant for (tenant,) in await self._questions.ask(sql.OPEN_TENANTS)]

    async def assigned_agents(self) -> list[tuple[str, str]]:
        """Agents that an operator assigned, each with its tenant."""
        return [(agent_id, tenant) for agent_id, tenant in await self._questions.ask(sql.ASSIGNED_AGENTS)]

    async def unassigned_agents(self, limit: int) -> list[tuple[str | None, int, int]]:
        """Agents of open records that belong to nobody yet: how many there are, and since when."""
        rows = await self._counting.ask(sql.UNASSIGNED_AGENTS, (limit,))
        return [(agent_id, count, since) for agent_id, count, since in rows]

    async def open_before(
        self, before: int, rule: Rule, states: Collection[DeliveryState], limit: int
    ) -> list[OldDelivery]:
        """Deliveries in these states of records that this is a rule for and that were accepted before then, the oldest
        first; not what is held with a dead letter, and none of a record that an order renewed since.

        Of each state of each lane `limit` are looked at.
        """
        statement = rule.restrict(sql.OLDEST_OPEN)
        found: list[OldDelivery] = []
        for destination_id, lane, state in product(self.destinations.names, Lane, states):
            place: dict[str, Value] = {
                "destination": destination_id,
                "lane": str(lane),
                "state": int(state),
                "before": before,
                "limit": limit,
            }
            rows = await self._counting.ask(statement, {**place, **rule.parameters})
            found += [(record_id, destination_id, form, lane) for record_id, form, at in rows if at < before]
        return found

    async def find(self, statement: str, parameters: Sequence[Value]) -> list[OpenDelivery]:
        """The deliveries that `statement` names, which begins with the columns of a record and those of a trace."""
        rows = await self._questions.ask(statement, parameters)
        return [
            OpenDelivery(record_of(row, self.destinations.spool_id), self._traced_delivery(row[RECORD_WIDTH:]))
            for row in rows
        ]

    async def record_id(self, uid: str) -> int | None:
        """The number of the record that has this name; for a name of this spool's own, whether it is there or not."""
        rows = await self._questions.ask(sql.OF_ORIGIN, (uid,))
        return rows[0][0] if rows else number_in(uid, self.destinations.spool_id)

    async def delivery(self, key: DeliveryKey) -> Delivery | None:
        """The delivery that a key names, as an uploader sees it; None when there is none."""
        parameters = (key.record_id, self.destinations.ids.get(key.destination), key.form)
        rows = await self._questions.ask(sql.READ_DELIVERY, parameters)
        return delivery_of(rows[0], self.destinations.spool_id, self.destinations.names) if rows else None

    async def upload(self, statement: str, key: bytes | str) -> Upload | None:
        """The upload address that `statement` finds by `key`."""
        rows = await self._questions.ask(statement, (key,))
        if not rows:
            return None
        s3_key, call_id, token_id, *rest = rows[0]
        return Upload(s3_key, call_id, None if token_id is None else await self.token(token_id), *rest)

    async def ask(self, statement: str, parameters: Row = ()) -> list[Row]:
        """Rows of what stands beside the queue, such as traces."""
        return list(await self._questions.ask(statement, parameters))

    async def oldest(self, destination_id: int, lane: Lane) -> Mapping[DeliveryState, int]:
        """When the oldest record with a delivery there in each state of the queue was accepted."""
        found = {}
        for state in (DeliveryState.READY, DeliveryState.WAITING, DeliveryState.HELD):
            for (accepted_at,) in await self._counting.ask(sql.OLDEST_IN_STATE, (destination_id, lane, int(state))):
                found[state] = int(accepted_at)
        return found

    async def dead_reasons(self, destination_id: int, lane: Lane) -> Mapping[str, int]:
        """Why the newest dead letters there are some, and how many have each reason."""
        rows = await self._counting.ask(sql.DEAD_REASONS, (destination_id, lane, REASONS_LOOKED_AT))
        return {str(reason): int(count) for reason, count in rows}

    async def recount(self) -> list[Row]:
        """What is open by the counters beside what is open by the deliveries themselves, of one snapshot."""
        return await self._counting.ask(sql.RECOUNT)

    async def count_receipts(self) -> int:
        """How many receipts are kept."""
        rows = await self._counting.ask(sql.COUNT_RECEIPTS)
        return int(rows[0][0])

    async def _traced(self, row: Row, *, with_history: bool = False) -> TracedRecord:
        record = record_of(row, self.destinations.spool_id)
        superseded, settled_at = row[RECORD_WIDTH:]
        rows = await self._questions.ask(sql.TRACE_DELIVERIES, (record.record_id,))
        deliveries = tuple(self._traced_delivery(delivery) for delivery in rows)
        if with_history:
            deliveries = await self._with_history(record.record_id, deliveries)
        return TracedRecord(record, bool(superseded), settled_at, deliveries)

    async def _with_history(self, record_id: int, deliveries: tuple[TracedDelivery, ...]) -> tuple[TracedDelivery, ...]:
        attempts: dict[tuple[str, str], list[Attempt]] = {}
        for destination_id, form, *attempt in await self._questions.ask(sql.ATTEMPTS_OF_RECORD, (record_id,)):
            attempts.setdefault((self.destinations.names[destination_id], form), []).append(Attempt(*attempt))
        located = await self._questions.ask(sql.LOCATIONS_OF_RECORD, (record_id,))
        locations = {
            (self.destinations.names[each]): str(location) for each, form, location in located if form != "notice"
        }
        return tuple(
            replace(
                one,
                history=tuple(attempts.get((one.destination, one.form), ())),
                location=locations.get(one.destination) if one.form is not Form.NOTICE else None,
            )
            for one in deliveries
        )

    async def recent_attempts(self, destination: str, limit: int) -> list[FailedAttempt]:
        """The latest attempts that failed at a destination, among those of the newest records; the latest first."""
        destination_id = self.destinations.ids.get(destination)
        rows = await self._questions.ask(sql.RECENT_ATTEMPTS, (destination_id, limit))
        return [FailedAttempt(call_id, Form(form), Attempt(*attempt)) for call_id, form, *attempt in rows]

    def _traced_delivery(self, row: Row) -> TracedDelivery:
        destination_id, form, lane, state, attempts, due_at, settled_at, error = row
        return TracedDelivery(
            self.destinations.names[destination_id],
            Form(form),
            Lane(lane),
            DeliveryState(state),
            attempts,
            due_at,
            settled_at,
            error,
        )

    # Lists of calls ------------------------------------------------------------------------------------------------

    async def calls(self, wanted: CallFilter, limit: int) -> CallPage:
        """A page of calls, the newest first: of each call its newest record, receipts included.

        It looks at `WINDOW` records at a time, and ends after `LOOKED_AT`, so that it takes milliseconds however few
        match.
        """
        end, first = await self._numbers(wanted.after)
        asked: dict[str, Value] = {
            "tenant": wanted.tenant, "agent": wanted.agent, "number": wanted.number_end, "state": wanted.state,
            "before": wanted.before, "prefix": wanted.id_prefix, "beyond": f"{wanted.id_prefix or ''}\U0010ffff",
        }  # fmt: skip
        rows: list[Row] = []
        try:
            if wanted.id_prefix is not None and len(wanted.id_prefix) >= SELECTIVE_PREFIX:
                found = await self._calls.ask(sql.CALLS_BY_PREFIX, {**asked, "end": end, "limit": MOST_BY_PREFIX})
                if len(found) < MOST_BY_PREFIX:
                    rows = sorted(found, key=lambda row: -int(row[0]))[: limit + 1]
                    end = first
            stop = max(first, end - LOOKED_AT)
            while end > stop and len(rows) <= limit:
                begin = max(stop, end - WINDOW)
                bounds = {"first": begin, "end": end, "limit": limit + 1 - len(rows)}
                rows += await self._calls.ask(sql.CALLS_IN_WINDOW, {**asked, **bounds})
                end = begin
        except NotStorable:  # what cannot be stored was never accepted
            return CallPage((), None, searched_all=True)
        more = len(rows) > limit
        found_all = more or end <= first
        listed = [await self._call_row(row) for row in rows[:limit]]
        older = listed[-1].record.record_id if more else None if found_all else end
        return CallPage(tuple(listed), older, found_all)

    async def _numbers(self, after: int | None) -> tuple[int, int]:
        """Behind the newest record that may be listed, and the oldest that there is."""
        ((newest,),) = await self._calls.ask(sql.NEWEST_NUMBER)
        ((oldest,),) = await self._calls.ask(sql.OLDEST_NUMBER)
        end = (newest or 0) + 1
        return (end if after is None else min(end, after)), oldest or 0

    async def _call_row(self, row: Row) -> CallRow:
        record = record_of(row, self.destinations.spool_id)
        number, length, reason, superseded, _settled_at = row[RECORD_WIDTH:]
        rows = await self._calls.ask(sql.TRACE_DELIVERIES, (record.record_id,))
        deliveries = tuple(self._traced_delivery(delivery) for delivery in rows)
        return CallRow(record, Outline(number, length, reason), bool(superseded), deliveries)

    async def outline(self, record_id: int) -> Outline:
        """What is known of a record besides."""
        rows = await self._calls.ask(sql.OUTLINE, (record_id,))
        return Outline(*rows[0]) if rows else NO_OUTLINE

    async def agents(self, tenant: str | None) -> list[str]:
        """The agents of the newest records."""
        return [str(agent) for (agent,) in await self._calls.ask(sql.AGENTS_AMONG_NEWEST, {"tenant": tenant})]


async def _opened(path: Path, corruption: CorruptionLatch, stack: AsyncExitStack) -> ReadConnection:
    connection = await ReadConnection.open(path, corruption)
    stack.push_async_callback(connection.close)
    return connection
