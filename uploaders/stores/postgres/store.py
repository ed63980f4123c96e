"""The PostgreSQL store, for several receivers or workers at once.

A batch is one statement of arrays, a column each: it inserts the parts which are new and brings the rows of their calls
up to date. The upsert of a row waits for whoever changes it and then sees what that wrote, so start and end find each
other through whichever processes they come. Due times are by the database's clock.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from datetime import date
from itertools import islice
from typing import Any, Final

import msgspec
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from uploaders.stores.completion import CallFields, CallState, CompletionRule
from uploaders.stores.erasure import DeletesCalls
from uploaders.stores.parts import Part, PartKind, key_text
from uploaders.stores.pipeline import POSTGRES, Dialect, Rows, Statement
from uploaders.stores.postgres import sql
from uploaders.stores.postgres.pool import Connection, ConnectionPool
from uploaders.stores.postgres.sql import Array, Element
from uploaders.stores.schema import CHECKS, finding, migrations_of, pending
from uploaders.stores.store import (
    NOT_COMPLETE,
    OWNER_SILENT_MILLISECONDS,
    BackfillDay,
    BackfillStatus,
    CallKey,
    CallPath,
    CallQuery,
    CallSummary,
    Detail,
    Parity,
    Span,
    StoredCall,
    StoredPart,
    StoreStatus,
    StoreUnavailable,
    Swept,
    Written,
    is_shown,
)

BACKFILL_ROWS: Final = 5000
"""Calls in one transaction of a backfill."""
COPY_BYTES: Final = 4 << 20
"""Frames of a detail in one statement."""
SPANS_AT_ONCE: Final = 1000
"""Spans that are made in one trip to a thread."""

_encode_head = msgspec.json.Encoder().encode
_decode_summary = msgspec.json.Decoder(dict[str, int | float]).decode


class PostgresStore(DeletesCalls):
    """A store in the database that `url` names, with at most `pool` connections."""

    def __init__(
        self, url: str, rule: CompletionRule, *, pool: int = 4, statement_timeout: float = 60.0, announces: bool = False
    ) -> None:
        """With `announces` calls that become complete are put into the outbox."""
        self._pairs = rule.pairs
        self._pool = ConnectionPool(url, pool, statement_timeout)
        self._due = {"timeout": rule.timeout, "open_timeout": rule.open_timeout, "announces": announces}
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
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            values = {**self._due, **_columns_of(parts)}
            await cursor.execute(sql.WRITE_PARTS if self._pairs else sql.WRITE_PARTS_ALONE, values)
            counts = {(what, number): count async for what, number, count in cursor}
        new = {kind: counts["part", kind] for kind in PartKind if ("part", kind) in counts}
        waits = {seconds: count for (what, seconds), count in counts.items() if what == "wait"}
        return Written(new, counts.get(("completed", 0), 0), counts.get(("completed", 1), 0), waits)

    async def write_detail(self, part: Part, detail: Detail) -> Written:
        """See `Store.write_detail`. The call's row is locked only at the end, when all frames are there."""
        await self.open()
        async with self._pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            values = {**self._due, **_columns_of([part])}
            await cursor.execute(sql.INSERT_PARTS, values)
            if cursor.rowcount == 0:
                return Written()
            # Frames may come as slowly as a bandwidth or a bucket lets them: no statement waits for them.
            frames, size, seq = list[bytes](), 0, 0
            async for frame in detail.frames:
                frames.append(frame)
                size += len(frame)
                if size >= COPY_BYTES:
                    await _copy_frames(cursor, part, seq, frames)
                    frames, size, seq = [], 0, seq + len(frames)
            await _copy_frames(cursor, part, seq, frames)
            # Keeps details of one call apart, whose spans have one place, and from a deletion that saw no frames yet.
            await cursor.execute(sql.LOCK_CALL, (part.project, part.call_id))
            if self._pairs:
                await cursor.execute(sql.MERGE_DETAIL, values)
            else:
                await cursor.execute(sql.SHOWN_DETAIL, (part.project, part.call_id))
            if await cursor.fetchone() == (part.digest,):
                await _replace_spans(cursor, part, detail)
            document = await asyncio.to_thread(detail.document)
            if document is not None:
                key = (part.project, part.call_id, part.digest)
                await cursor.execute(sql.PUT_DOCUMENT, (*key, document.decode()))
        return Written({part.kind: 1})

    @property
    def dialect(self) -> Dialect:
        """See `Database`."""
        return POSTGRES

    async def run(self, statements: Sequence[Statement], *, fenced: bool = False) -> list[Rows]:
        """See `Database`."""
        await self.open()
        done: list[Rows] = []
        async with self._pool.connection() as connection, connection.transaction():
            for statement, values in statements:
                done.append(await _rows_of(connection, statement, values))
                if fenced and not done[0]:
                    break
        return done

    async def sweep(self, limit: int = 1000) -> Swept:
        """See `Store.sweep`. What several sweepers find due at once they share."""
        rows = dict(await self._rows(sql.SWEEP, (limit,))) if self._pairs else {}
        ((waiting,),) = await self._rows(sql.WAITING)
        return Swept(rows.get(CallState.TIMED_OUT, 0), rows.get(CallState.ORPHAN, 0), waiting)

    async def claim_completions(self, owner: str, limit: int) -> list[CallKey]:
        """See `Store.claim_completions`. What several receivers find at once they share."""
        await self.open()
        given = {"owner": owner, "limit": limit, "silent": OWNER_SILENT_MILLISECONDS}
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(sql.CLAIM_COMPLETIONS, given)).fetchall()
        return [(project, call_id) for project, call_id in rows]

    async def forget_completions(self, calls: Sequence[CallKey]) -> None:
        """See `Store.forget_completions`."""
        await self.open()
        projects, call_ids = [project for project, _ in calls], [call_id for _, call_id in calls]
        async with self._pool.connection() as connection:
            await connection.execute(sql.FORGET_COMPLETIONS, (projects, call_ids))

    async def calls(self, query: CallQuery, path: CallPath = CallPath.COMPLETE) -> list[CallSummary]:
        """See `Store.calls`."""
        conditions: dict[str, tuple[str, object]] = {
            "project": ("project = %(project)s", query.project),
            "since": ("listed_at >= to_timestamp(%(since)s / 1000.0)", query.since),
            "until": ("listed_at < to_timestamp(%(until)s / 1000.0)", query.until),
            "agent": ("agent_id = %(agent)s", query.agent_id),
            "number": ("customer_number = %(number)s", query.customer_number),
            "state": ("state = %(state)s", query.state),
            "id_prefix": ("starts_with(call_id, %(id_prefix)s)", query.id_prefix),
        }
        given = {name: each for name, each in conditions.items() if each[1] is not None}
        where = " AND ".join(condition for condition, _ in given.values())
        if query.state not in {None, CallState.COMPLETE}:
            where += NOT_COMPLETE
        values = {name: value for name, (_, value) in given.items()}
        if query.after is not None:
            where += f" AND {sql.AFTER}"
            values |= zip(("place", "last_id"), query.after, strict=True)
        source = "calls_complete" if path is CallPath.COMPLETE else sql.merged_rows("project = %(project)s")
        statement = f"{sql.SUMMARY.format(source)} WHERE {where} ORDER BY listed_at DESC, call_id LIMIT %(limit)s"
        return [_summary_of(row) for row in await self._rows(statement, {**values, **self._due, "limit": query.limit})]

    async def call(self, project: str, call_id: str, path: CallPath = CallPath.COMPLETE) -> StoredCall | None:
        """See `Store.call`."""
        await self.open()
        key = {"project": project, "call_id": key_text(call_id), **self._due}
        of_call = "project = %(project)s AND call_id = %(call_id)s"
        source = "calls_complete" if path is CallPath.COMPLETE else sql.merged_rows(of_call)
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = await (await connection.execute(f"{sql.SUMMARY.format(source)} WHERE {of_call}", key)).fetchone()
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
        checks = {**CHECKS, **sql.CHECKS} if self._pairs else sql.CHECKS
        found = {what: (await self._rows(statement))[0][0] for what, statement in checks.items()}
        return tuple([finding(what, count) for what, count in found.items() if count])

    async def oldest_day(self) -> date | None:
        """See `Store.oldest_day`."""
        ((oldest,),) = await self._rows(sql.OLDEST_DAY)
        return None if oldest is None else date.fromisoformat(str(oldest))

    async def parity(self, day: date) -> Parity:
        """See `Store.parity`."""
        (counts,) = await self._rows(sql.PARITY, {"day": day})
        return Parity(*counts)

    async def backfill(self, day: date, page_rows: int | None = None) -> AsyncGenerator[BackfillDay, None]:
        """See `Store.backfill`. It keeps a connection until its end, besides those of the pool, which it asks too."""
        await self.open()
        rows = page_rows or BACKFILL_ROWS
        async with self._pool.own_connection() as connection:
            if await (await connection.execute(sql.BACKFILL_LOCK)).fetchone() != (True,):
                raise StoreUnavailable("another backfill of this database is under way")
            try:
                await connection.execute(sql.BACKFILL_BEGIN, {"day": day})
                progress = await _progress(connection, day)
                if progress.status is BackfillStatus.RUNNING:
                    await connection.execute(sql.BACKFILL_CALLS)
                    await connection.execute(sql.BACKFILL_FIND, {"day": day, "rows": rows})
                    await connection.execute(sql.BACKFILL_INDEX)
                    for page, count in await (await connection.execute(sql.BACKFILL_PAGES)).fetchall():
                        yield await self._backfill_page(connection, day, page, count)
                    parity = await self.parity(day)
                    status = BackfillStatus.COMPLETED if parity.agrees else BackfillStatus.DIFFERING
                    differing = parity.differing + parity.calls - parity.rows
                    found = {"status": status, "end_only": parity.end_only, "differing": differing}
                    await connection.execute(sql.BACKFILL_END, {"day": day, **found})
                    progress = await _progress(connection, day)
                yield progress
            finally:
                if not connection.closed:
                    await connection.execute(sql.BACKFILL_UNLOCK)

    async def _backfill_page(self, connection: Connection, day: date, page: int, count: int) -> BackfillDay:
        """Write a page of so many calls, and move the cursor."""
        values = {"day": day, "page": page, **self._due}
        async with connection.transaction():
            written = (await connection.execute(sql.BACKFILL_INSERT, values)).rowcount
            if written < count:
                await connection.execute(sql.BACKFILL_LOCK_ROWS, values)
                written += (await connection.execute(sql.BACKFILL_UPDATE, values)).rowcount
            await connection.execute(sql.BACKFILL_ADVANCE, {**values, "written": written})
        return await _progress(connection, day)

    async def backfill_days(self) -> list[BackfillDay]:
        """See `Store.backfill_days`."""
        return [_day_of(row) for row in await self._rows(f"{sql.BACKFILL_DAYS} ORDER BY day DESC")]

    async def pause_backfills(self, *, pause: bool) -> None:
        """See `Store.pause_backfills`."""
        await self.open()
        async with self._pool.connection() as connection:
            await connection.execute(sql.PAUSE, (pause,))

    async def backfills_paused(self) -> bool:
        """See `Store.backfills_paused`."""
        ((paused,),) = await self._rows(sql.PAUSED)
        return bool(paused)

    def before(self, keep: int) -> tuple[str, dict[str, object]]:
        """See `DeletesCalls`: by the clock of the server."""
        return "now() - make_interval(secs => CAST(:keep AS double precision) / 1000)", {"keep": keep}

    async def wipe(self) -> None:
        """See `Store.wipe`: PostgreSQL reuses the space by itself (autovacuum)."""

    async def commit_seconds(self) -> float:
        """See `Store.commit_seconds`."""
        await self.open()
        async with self._pool.connection() as connection:
            began = time.perf_counter()
            await connection.execute(sql.PROBE)
            return time.perf_counter() - began

    async def missing_rights(self) -> tuple[str, ...]:
        """See `Store.missing_rights`."""
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(sql.MISSING_RIGHTS)).fetchall()
        return tuple([str(statement) for (statement,) in rows])

    async def close(self) -> None:
        """See `Store.close`."""
        await self._pool.close()

    async def _rows(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> list[tuple[Any, ...]]:  # Any: columns
        await self.open()
        async with self._pool.connection() as connection:
            rows: list[tuple[Any, ...]] = await (await connection.execute(statement, parameters)).fetchall()
        return rows


_NAMED: Final = re.compile(r":([a-z_]+)")


async def _rows_of(connection: Connection, statement: str, values: Mapping[str, object]) -> Rows:
    """The rows of a statement with `:named` parameters; none of one that returns no rows."""
    cursor = await connection.execute(_NAMED.sub(r"%(\1)s", statement), values)
    return [] if cursor.description is None else await cursor.fetchall()


async def _migrate(connection: Connection) -> None:
    """Bring the schema up to date: all of it, or nothing."""
    async with connection.transaction():
        await connection.execute(sql.MIGRATION_LOCK)
        version = 0
        if await (await connection.execute(sql.VERSION)).fetchone() != (0,):
            ((version,),) = await (await connection.execute(sql.LATEST_VERSION)).fetchall()
        for script in pending(migrations_of(__package__), version).values():
            await connection.execute(script)


async def _progress(connection: Connection, day: date) -> BackfillDay:
    (row,) = await (await connection.execute(f"{sql.BACKFILL_DAYS} WHERE day = %s", (day,))).fetchall()
    return _day_of(row)


def _day_of(row: Sequence[Any]) -> BackfillDay:  # Any: columns
    day, status, *counts = row
    return BackfillDay(day, BackfillStatus(status), *counts)


def _columns_of(parts: Sequence[Part]) -> dict[str, Array]:
    return {
        "projects": Array(Element.TEXT, [part.project.encode() for part in parts]),
        "call_ids": Array(Element.TEXT, [part.call_id.encode() for part in parts]),
        "kinds": Array(Element.BIGINT, [part.kind.to_bytes(8) for part in parts]),
        "digests": Array(Element.BYTEA, [part.digest for part in parts]),
        "events": Array(Element.TEXT, [part.event.encode() for part in parts]),
        "accepted_at": Array(Element.BIGINT, [part.accepted_at.to_bytes(8) for part in parts]),
        "source_uids": Array(Element.TEXT, [part.source_uid.encode() for part in parts]),
        "documents": Array(Element.JSON, [part.document or None for part in parts]),
        "heads": Array(Element.JSON, [_encode_head(part.head) for part in parts]),
    }


async def _copy_frames(cursor: AsyncCursor[TupleRow], part: Part, seq: int, frames: Sequence[bytes]) -> None:
    async with cursor.copy(sql.COPY_FRAMES) as copy:
        copy.set_types(sql.FRAME_TYPES)
        for number, frame in enumerate(frames, seq):
            await copy.write_row((part.project, part.call_id, part.digest, number, frame))


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
     first_part_at, completed_at, error, conflicts, has_detail, place, *_digests) = row  # fmt: skip
    figures = None if summary is None else _decode_summary(summary)
    fields = CallFields(agent_id, number, environment, started_at, ended_at, duration, reason, figures)
    return CallSummary(
        project, call_id, CallState(state), late, fields, first_part_at, completed_at, error, conflicts, has_detail,
        place,
    )  # fmt: skip


def _part_of(row: Sequence[Any], shown: Sequence[bytes | None]) -> StoredPart:  # Any: columns
    kind, event, digest, accepted_at, source_uid, document = row
    kind, text = PartKind(kind), (document or "").encode()
    return StoredPart(kind, event, digest, accepted_at, source_uid, text, is_shown(kind, digest, shown))
