"""The PostgreSQL store, for several receivers or workers at once.

A batch is one transaction: COPY into a temporary table, then one statement that inserts the parts which are new and
brings the rows of their calls up to date. The upsert of a row waits for whoever changes it and then sees what that
wrote, so start and end find each other through whichever processes they come. Due times are by the database's clock.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from uploaders.stores.completion import CallFields, CallState, CompletionRule
from uploaders.stores.parts import Part, PartKind, key_text
from uploaders.stores.postgres import sql
from uploaders.stores.postgres.pool import Connection, ConnectionPool
from uploaders.stores.schema import CHECKS, finding, migrations_of, pending
from uploaders.stores.store import (
    CallQuery,
    CallSummary,
    Detail,
    Span,
    StoredCall,
    StoredPart,
    StoreStatus,
    Swept,
    Written,
)

SPANS_AT_ONCE: Final = 1000
"""Spans that are made in one trip to a thread."""

_encode_head = msgspec.json.Encoder().encode
_decode_summary = msgspec.json.Decoder(dict[str, int | float]).decode


class PostgresStore:
    """A store in the database that `url` names, with at most `pool` connections."""

    def __init__(self, url: str, rule: CompletionRule, *, pool: int = 4, statement_timeout: float = 60.0) -> None:
        self._pool = ConnectionPool(url, pool, statement_timeout)
        self._due = {"timeout": rule.timeout, "open_timeout": rule.open_timeout}
        self._opening = asyncio.Lock()
        self._open = False

    async def open(self) -> None:
        """See `Store.open`."""
        if self._open:
            return
        async with self._opening:
            if not self._open:
                async with self._pool.connection() as connection:
                    await _migrate(connection)
                self._open = True

    async def write(self, parts: Sequence[Part]) -> Written:
        """See `Store.write`."""
        await self.open()
        async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            await _copy_parts(cursor, parts)
            await cursor.execute(sql.WRITE_PARTS, self._due)
            counts = {(what, number): count async for what, number, count in cursor}
        new = {kind: counts["part", kind] for kind in PartKind if ("part", kind) in counts}
        return Written(new, counts.get(("completed", 0), 0), counts.get(("completed", 1), 0))

    async def write_detail(self, part: Part, detail: Detail) -> Written:
        """See `Store.write_detail`. The call's row is locked only at the end, when all frames are there."""
        await self.open()
        async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            await _copy_parts(cursor, [part])
            await cursor.execute(sql.INSERT_PARTS)
            if cursor.rowcount == 0:
                return Written()
            async with cursor.copy(sql.COPY_FRAMES) as copy:
                copy.set_types(sql.FRAME_TYPES)
                seq = 0
                async for frame in detail.frames:
                    await copy.write_row((part.project, part.call_id, part.digest, seq, frame))
                    seq += 1
            await cursor.execute(sql.MERGE_DETAIL, self._due)
            if await cursor.fetchone() == (part.digest,):
                await _replace_spans(cursor, part, detail)
        return Written({part.kind: 1})

    async def sweep(self, limit: int = 1000) -> Swept:
        """See `Store.sweep`. What several sweepers find due at once they share."""
        rows = dict(await self._rows(sql.SWEEP, (limit,)))
        ((waiting,),) = await self._rows(sql.WAITING)
        return Swept(rows.get(CallState.TIMED_OUT, 0), rows.get(CallState.ORPHAN, 0), waiting)

    async def calls(self, query: CallQuery) -> list[CallSummary]:
        """See `Store.calls`."""
        conditions: dict[str, object] = {
            "project = %s": query.project,
            "listed_at >= to_timestamp(%s / 1000.0)": query.since,
            "listed_at < to_timestamp(%s / 1000.0)": query.until,
            "agent_id = %s": query.agent_id,
            "customer_number = %s": query.customer_number,
            "state = %s": query.state,
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        statement = f"{sql.SUMMARY} WHERE {' AND '.join(given)} ORDER BY listed_at DESC, call_id LIMIT %s"
        return [_summary_of(row) for row in await self._rows(statement, (*given.values(), query.limit))]

    async def call(self, project: str, call_id: str) -> StoredCall | None:
        """See `Store.call`."""
        await self.open()
        key = (project, key_text(call_id))
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = await (
                await connection.execute(f"{sql.SUMMARY} WHERE project = %s AND call_id = %s", key)
            ).fetchone()
            parts = await (await connection.execute(sql.PARTS, key)).fetchall()
        if found is None:
            return None
        return StoredCall(_summary_of(found), tuple([_part_of(row, found[-3:]) for row in parts]))

    async def detail(self, project: str, call_id: str) -> AsyncIterator[bytes]:
        """See `Store.detail`. Each frame is a question of its own: nothing is held while the caller sends one."""
        key = (project, key_text(call_id))
        shown = await self._rows(sql.SHOWN_DETAIL, key)
        seq = -1
        while shown:
            frames = await self._rows(sql.NEXT_FRAME, (*key, shown[0][0], seq))
            if not frames:
                return
            ((seq, frame),) = frames
            yield frame

    async def status(self) -> StoreStatus:
        """See `Store.status`."""
        states = await self._rows(sql.STATES)
        ((version,),) = await self._rows(sql.LATEST_VERSION)
        ((server,),) = await self._rows("SELECT current_setting('server_version')")
        return StoreStatus(f"PostgreSQL {server.split()[0]}", version, {CallState(state): n for state, n in states})

    async def check(self) -> tuple[str, ...]:
        """See `Store.check`."""
        found = {what: (await self._rows(statement))[0][0] for what, statement in {**CHECKS, **sql.CHECKS}.items()}
        return tuple([finding(what, count) for what, count in found.items() if count])

    async def close(self) -> None:
        """See `Store.close`."""
        await self._pool.close()

    async def _rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:  # Any: columns
        await self.open()
        async with self._pool.connection() as connection:
            rows: list[tuple[Any, ...]] = await (await connection.execute(statement, parameters)).fetchall()
        return rows


async def _migrate(connection: Connection) -> None:
    """Bring the schema up to date: all of it, or nothing."""
    async with connection.transaction():
        await connection.execute(sql.MIGRATION_LOCK)
        version = 0
        if await (await connection.execute(sql.VERSION)).fetchone() != (0,):
            ((version,),) = await (await connection.execute(sql.LATEST_VERSION)).fetchall()
        for script in pending(migrations_of(__package__), version).values():
            await connection.execute(script)


async def _copy_parts(cursor: AsyncCursor[TupleRow], parts: Sequence[Part]) -> None:
    async with cursor.copy(sql.COPY_INCOMING) as copy:
        for part in parts:
            document = part.document.decode() or None
            await copy.write_row(
                (part.project, part.call_id, part.kind, part.digest, part.event, part.accepted_at, part.source_uid,
                 document, _encode_head(part.head).decode()),
            )  # fmt: skip


async def _replace_spans(cursor: AsyncCursor[TupleRow], part: Part, detail: Detail) -> None:
    key = (part.project, part.call_id)
    await cursor.execute(sql.DELETE_SPANS, key)
    spans = await asyncio.to_thread(detail.spans)

    def some() -> list[tuple[object, ...]]:
        """The next rows: taking a detail apart holds up nobody."""
        return [_columns(key, span) for span in islice(spans, SPANS_AT_ONCE)]

    async with cursor.copy(sql.COPY_SPANS) as copy:
        while rows := await asyncio.to_thread(some):
            for row in rows:
                await copy.write_row(row)


def _columns(key: tuple[str, str], span: Span) -> tuple[object, ...]:
    return (*key, *msgspec.structs.astuple(span))


def _summary_of(row: Sequence[Any]) -> CallSummary:  # Any: columns
    (project, call_id, state, late, agent_id, number, environment, started_at, ended_at, duration, reason, summary,
     first_part_at, completed_at, error, conflicts, has_detail, *_digests) = row  # fmt: skip
    figures = None if summary is None else _decode_summary(summary)
    fields = CallFields(agent_id, number, environment, started_at, ended_at, duration, reason, figures)
    return CallSummary(
        project, call_id, CallState(state), late, fields, first_part_at, completed_at, error, conflicts, has_detail
    )  # fmt: skip


def _part_of(row: Sequence[Any], shown: Collection[bytes | None]) -> StoredPart:  # Any: columns
    kind, event, digest, accepted_at, source_uid, document = row
    is_shown = kind in {PartKind.UPDATE, PartKind.REFERENCE} or digest in shown
    return StoredPart(PartKind(kind), event, digest, accepted_at, source_uid, (document or "").encode(), is_shown)
