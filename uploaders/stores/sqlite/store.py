"""The embedded store: one SQLite file, written by one thread and read by another.

Batches come from the caller; each is one transaction with an fsync. Pairing needs no cleverness here: the transaction
holds the only write lock of the file, so it reads the row of a call, applies `completion.add_part` and writes it back.
Several processes may share the file; they take turns.
"""

import asyncio
import os
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from spool.records import Clock
from uploaders.stores.completion import (
    EXPIRED_STATES,
    CallFields,
    CallRow,
    CallState,
    CompletionRule,
    ReceivedPart,
    add_part,
    expire,
    merge,
)
from uploaders.stores.erasure import DeletesCalls
from uploaders.stores.parts import Part, PartKind, key_text
from uploaders.stores.pipeline import SQLITE, Dialect, Rows, Statement
from uploaders.stores.schema import CHECKS, finding, migrations_of, pending
from uploaders.stores.sqlite import rows as backfill
from uploaders.stores.sqlite.connection import Connection, Order, run_orders, wipe
from uploaders.stores.sqlite.rows import decode_head, head_text, merged_rows, put_row, row_of, shown_parts
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
    StoreRefused,
    StoreStatus,
    StoreUnavailable,
    Swept,
    Written,
    day_of,
    is_shown,
    summary_of,
)

APPLICATION_ID: Final = 0x63616C6C
"""Marks the file as a store of calls ("call"): any other database is refused."""
STAGE_BYTES: Final = 4 << 20
"""Frames of a detail that are written in one transaction."""
ABANDONED_AFTER: Final = 24 * 3600 * 1000
"""Milliseconds after which a detail that never got its part is cleared."""

_decode_summary = msgspec.json.Decoder(dict[str, int | float]).decode

_INSERT_PART: Final = """
INSERT INTO call_parts (project, call_id, kind, digest, event, agent_id, call_started_at, call_ended_at, reason,
                        accepted_at, received_at, source_uid, core, detail_id, head)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?) ON CONFLICT DO NOTHING
"""
_OF_PREFIX: Final = "project = ? AND call_id >= ? AND call_id < ?"
_MOST_OF_PREFIX: Final = 5000
"""Of more ids that begin in the same way, the first ones are looked at: neither index has both orders."""
_LAST: Final = "\U0010ffff"
"""Sorts behind all that an id is made of."""
_SUMMARY: Final = """
SELECT project, call_id, state, late, agent_id, customer_number, environment, started_at, ended_at, duration_s, reason,
       summary, first_part_at, completed_at, error, conflicts, detail_digest IS NOT NULL, listed_at
FROM {}
"""
_PARTS: Final = """
SELECT kind, event, digest, accepted_at, source_uid, CAST(core AS BLOB), head, received_at FROM call_parts
WHERE project = ? AND call_id = ? ORDER BY accepted_at, kind, digest
"""
_SHOWN_DETAIL: Final = """
SELECT detail_id, digest FROM call_parts WHERE project = ? AND call_id = ? AND kind = ?
ORDER BY accepted_at DESC, digest DESC LIMIT 1
"""
_CHECKS: Final = {
    "details without frames": (
        f"SELECT count(*) FROM call_parts p WHERE kind = {PartKind.DETAIL:d} AND NOT EXISTS "
        "(SELECT 1 FROM call_details d WHERE d.detail_id = p.detail_id)"
    )
}
_NEXT_FRAME: Final = "SELECT seq, frame FROM call_details WHERE detail_id = ? AND seq > ? ORDER BY seq LIMIT 1"
_PUT_COMPLETION: Final = "INSERT INTO completions (project, call_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
_CLAIMABLE: Final = """
SELECT completion_id, project, call_id FROM completions
WHERE claimed_by IS NULL OR claimed_by = ? OR claimed_at < ? ORDER BY completion_id LIMIT ?
"""
_CLAIM_COMPLETION: Final = "UPDATE completions SET claimed_by = ?, claimed_at = ? WHERE completion_id = ?"
_FORGET_COMPLETION: Final = "DELETE FROM completions WHERE project = ? AND call_id = ?"
_PUT_SPAN: Final = f"INSERT INTO spans VALUES ({', '.join(['?'] * 13)})"
_PUT_DOCUMENT: Final = "INSERT OR REPLACE INTO detail_documents VALUES (?, ?, ?, CAST(? AS TEXT))"


Waiting = tuple[Order, "asyncio.Future[list[Rows]]"]


class SqliteStore(DeletesCalls):
    """A store in the file `path`, which is made, with its directory, when it is opened."""

    def __init__(self, path: Path, clock: Clock, rule: CompletionRule, *, announces: bool = False) -> None:
        """With `announces` calls that become complete are put into the outbox."""
        self._announces = announces
        self._path = path
        self._clock = clock
        self._rule = rule
        self._writing = Connection("store-writer")
        self._reading = Connection("store-reader")
        self._opening = asyncio.Lock()
        self._waiting: list[Waiting] = []
        """Statements that the next transaction takes."""
        self._committer: asyncio.Task[None] | None = None
        self._being_written = set[int]()
        """Details of which frames are written ahead of their part."""

    async def open(self) -> None:
        """See `Store.open`."""
        async with self._opening:
            if not (self._writing.is_open and self._reading.is_open):
                await self._writing.run(self._open_writer)
                await self._reading.run(self._open_reader)

    async def write(self, parts: Sequence[Part]) -> Written:
        """See `Store.write`."""
        await self.open()
        return await self._writing.run(partial(self._write, parts))

    async def write_detail(self, part: Part, detail: Detail) -> Written:
        """See `Store.write_detail`."""
        await self.open()
        staged: int | None = None
        seq, size, frames = 0, 0, list[bytes]()
        try:
            async for frame in detail.frames:
                frames.append(frame)
                size += len(frame)
                if size >= STAGE_BYTES:
                    staged = await self._writing.run(partial(self._stage, staged, seq, frames))
                    self._being_written.add(staged)
                    seq, size, frames = seq + len(frames), 0, []
            return await self._writing.run(partial(self._write_detail, part, staged, seq, frames, detail))
        finally:
            self._being_written.discard(staged or 0)

    @property
    def dialect(self) -> Dialect:
        """See `Database`."""
        return SQLITE

    async def run(self, statements: Sequence[Statement], *, fenced: bool = False) -> list[Rows]:
        """See `Database`. What only reads goes through the reading connection, beside a write that waits."""
        await self.open()
        if all(statement.lstrip().startswith(("SELECT", "WITH")) for statement, _ in statements):
            return await self._reading.run(lambda reading: [reading.execute(*each) for each in statements])
        result: asyncio.Future[list[Rows]] = asyncio.get_running_loop().create_future()
        self._waiting.append(((statements, fenced), result))
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_waiting())
        return await result

    async def _commit_waiting(self) -> None:
        """Group commit: what waits while one is written is the next one. Of a group that fails, each goes alone."""
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                done = await self._writing.run(partial(run_orders, [order for order, _ in group]))
            except Exception as error:  # noqa: BLE001  # whoever waits gets it
                if len(group) == 1:
                    _settle(group[0][1], error)
                else:
                    for one in group:
                        await self._commit_alone(one)
            else:
                for (_, result), rows in zip(group, done, strict=True):
                    _settle(result, rows)
        self._committer = None

    async def _commit_alone(self, one: Waiting) -> None:
        try:
            (rows,) = await self._writing.run(partial(run_orders, [one[0]]))
        except Exception as error:  # noqa: BLE001  # as above
            _settle(one[1], error)
        else:
            _settle(one[1], rows)

    async def sweep(self, limit: int = 1000) -> Swept:
        """See `Store.sweep`."""
        await self.open()
        return await self._writing.run(partial(self._sweep, limit))

    async def claim_completions(self, owner: str, limit: int) -> list[CallKey]:
        """See `Store.claim_completions`."""
        await self.open()
        return await self._writing.run(partial(self._claim_completions, owner, limit))

    async def forget_completions(self, calls: Sequence[CallKey]) -> None:
        """See `Store.forget_completions`."""
        await self.open()
        await self._writing.run(partial(_forget_completions, calls))

    async def calls(self, query: CallQuery, path: CallPath = CallPath.COMPLETE) -> list[CallSummary]:
        """See `Store.calls`."""
        await self.open()
        source = "calls_complete" if path is CallPath.COMPLETE else merged_rows(self._clock(), self._rule)
        conditions = {
            "project = ?": query.project,
            "listed_at >= ?": query.since,
            "listed_at < ?": query.until,
            "agent_id = ?": query.agent_id,
            "customer_number = ?": query.customer_number,
            "state = ?": query.state,
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = " AND ".join(given)
        if query.state not in {None, CallState.COMPLETE}:
            where += NOT_COMPLETE
        values: list[object] = [*given.values(), query.limit]
        if query.after is not None:
            where += " AND listed_at <= ? AND (listed_at < ? OR call_id > ?)"
            values[-1:-1] = (query.after[0], *query.after)
        if query.id_prefix is not None:
            source = f"(SELECT * FROM {source} WHERE {_OF_PREFIX} ORDER BY call_id LIMIT {_MOST_OF_PREFIX})"
            values = [query.project, query.id_prefix, query.id_prefix + _LAST, *values]
        statement = f"{_SUMMARY.format(source)} WHERE {where} ORDER BY listed_at DESC, call_id LIMIT ?"
        rows = await self._reading.run(lambda reading: reading.execute(statement, tuple(values)))
        return [_summary_of(row) for row in rows]

    async def call(self, project: str, call_id: str, path: CallPath = CallPath.COMPLETE) -> StoredCall | None:
        """See `Store.call`."""
        await self.open()
        key = (project, key_text(call_id))
        if path is CallPath.MERGED:
            return await self._reading.run(partial(_merge_call, key, self._clock(), self._rule))
        return await self._reading.run(partial(_read_call, key))

    async def detail(self, project: str, call_id: str) -> AsyncIterator[bytes]:
        """See `Store.detail`. Each frame is a question of its own: no snapshot is held while the caller sends one."""
        await self.open()
        key = (project, key_text(call_id), PartKind.DETAIL)
        found = await self._reading.run(lambda reading: reading.execute(_SHOWN_DETAIL, key))
        seq = -1
        while found:
            frames = await self._reading.run(partial(_read_frame, found[0][0], seq))
            if not frames:
                return
            ((seq, frame),) = frames
            yield frame

    async def status(self) -> StoreStatus:
        """See `Store.status`."""
        await self.open()
        counted = "SELECT state, count(*) FROM calls_complete GROUP BY state"
        rows = await self._reading.run(lambda reading: reading.execute(counted))
        ((version,),) = await self._reading.run(lambda reading: reading.execute("PRAGMA user_version"))
        calls = {CallState(state): count for state, count in rows}
        return StoreStatus(f"SQLite {sqlite3.sqlite_version}", version, calls)

    async def check(self) -> tuple[str, ...]:
        """See `Store.check`."""
        await self.open()
        checks = {**CHECKS, **_CHECKS} if self._rule.pairs else _CHECKS
        found = {what: await self._reading.run(partial(_count, sql)) for what, sql in checks.items()}
        return tuple([finding(what, count) for what, count in found.items() if count])

    async def oldest_day(self) -> date | None:
        """See `Store.oldest_day`."""
        await self.open()
        ((oldest,),) = await self._reading.run(
            lambda reading: reading.execute("SELECT min(received_at) FROM call_parts")
        )
        return None if oldest is None else day_of(oldest)

    async def parity(self, day: date) -> Parity:
        """See `Store.parity`."""
        await self.open()
        return await self._reading.run(partial(backfill.compare, day))

    async def backfill(self, day: date, page_rows: int | None = None) -> AsyncGenerator[BackfillDay, None]:
        """See `Store.backfill`. A page holds up live writes for as long as it takes, so it is small."""
        await self.open()
        progress = await self._writing.run(partial(backfill.begin, day, self._clock()))
        if progress.status is BackfillStatus.RUNNING:
            rows, more = page_rows or backfill.PAGE_ROWS, True
            while more:
                write = partial(backfill.write_page, progress, rows, self._clock(), self._rule)
                progress, more = await self._writing.run(write)
                yield progress
            progress = await self._writing.run(partial(backfill.end, day, await self.parity(day), self._clock()))
        yield progress

    async def backfill_days(self) -> list[BackfillDay]:
        """See `Store.backfill_days`."""
        await self.open()
        return await self._reading.run(backfill.days)

    async def pause_backfills(self, *, pause: bool) -> None:
        """See `Store.pause_backfills`."""
        await self.open()
        await self._writing.run(lambda writing: writing.change("UPDATE backfill_control SET paused = ?", (pause,)))

    async def backfills_paused(self) -> bool:
        """See `Store.backfills_paused`."""
        await self.open()
        ((paused,),) = await self._reading.run(lambda reading: reading.execute("SELECT paused FROM backfill_control"))
        return bool(paused)

    def before(self, keep: int) -> tuple[str, dict[str, object]]:
        """See `DeletesCalls`."""
        return ":before", {"before": self._clock() - keep}

    async def wipe(self) -> None:
        """See `Store.wipe`."""
        await self.open()
        await self._writing.run(partial(wipe, frozenset(self._being_written)))

    async def commit_seconds(self) -> float:
        """See `Store.commit_seconds`."""
        await self.open()
        began = time.perf_counter()
        await self._writing.run(
            lambda writing: writing.change("UPDATE backfill_control SET probed_at = ?", (self._clock(),))
        )
        return time.perf_counter() - began

    async def missing_rights(self) -> tuple[str, ...]:
        """See `Store.missing_rights`: a file that can be opened can be written."""
        await self.open()
        return ()

    async def close(self) -> None:
        """See `Store.close`."""
        if self._committer is not None:
            await self._committer
        await self._writing.close()
        await self._reading.close()

    # In the threads of the connections --------------------------------------------------------------------------

    def _open_writer(self, writing: Connection) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made before SQLite would, with its own mode: what calls say is nobody else's matter.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise StoreUnavailable(f"cannot open the store {self._path}: {reason}") from error
        if not writing.is_open:
            writing.connect(self._path)
        try:
            _check_it_is_ours(writing, self._path)
            writing.write_ahead()
            writing.execute("PRAGMA synchronous = FULL")
            # Debian compiles secure_delete on: deleting a detail would write all of it once more.
            writing.execute("PRAGMA secure_delete = FAST")
            _migrate(writing)
            if writing.distrusts_disk:
                _flush_again(writing)
        except BaseException:
            writing.disconnect()
            raise

    def _open_reader(self, reading: Connection) -> None:
        if not reading.is_open:
            reading.connect(self._path)
        reading.execute("PRAGMA query_only = 1")

    def _write(self, parts: Sequence[Part], writing: Connection) -> Written:
        with writing.transaction():
            return self._add(writing, [part for part in parts if self._insert(writing, part)])

    def _stage(self, staged: int | None, seq: int, frames: Sequence[bytes], writing: Connection) -> int:
        """Write some frames of a detail ahead of its part."""
        with writing.transaction():
            if staged is None:
                inserted = "INSERT INTO details (staged_at) VALUES (?) RETURNING detail_id"
                ((staged,),) = writing.execute(inserted, (self._clock(),))
            _put_frames(writing, staged, seq, frames)
        return staged

    def _write_detail(
        self, part: Part, staged: int | None, seq: int, frames: Sequence[bytes], detail: Detail,
        writing: Connection,
    ) -> Written:  # fmt: skip
        with writing.transaction():
            if staged is None:
                ((staged,),) = writing.execute("INSERT INTO details (staged_at) VALUES (NULL) RETURNING detail_id")
            if not self._insert(writing, part, staged):
                _delete_detail(writing, staged)
                return Written()
            _put_frames(writing, staged, seq, frames)
            writing.execute("UPDATE details SET staged_at = NULL WHERE detail_id = ?", (staged,))
            document = detail.document()
            if document is not None:
                writing.change(_PUT_DOCUMENT, (part.project, part.call_id, part.digest, document))
            written = self._add(writing, [part])
            shown = writing.execute(_SHOWN_DETAIL, (part.project, part.call_id, PartKind.DETAIL))
            if shown == [(staged, part.digest)]:
                _replace_spans(writing, part, detail.spans())
            return written

    def _insert(self, writing: Connection, part: Part, detail_id: int | None = None) -> bool:
        """Whether the store did not have it."""
        head = part.head
        return writing.change(
            _INSERT_PART,
            (part.project, part.call_id, part.kind, part.digest, part.event, head.agent_id, head.started_at,
             head.ended_at, head.reason, part.accepted_at, self._clock(), part.source_uid, part.document, detail_id,
             head_text(head)),
        ) == 1  # fmt: skip

    def _add(self, writing: Connection, parts: Sequence[Part]) -> Written:
        """Bring the rows of calls up to date with new parts."""
        if not self._rule.pairs:
            return Written(Counter(part.kind for part in parts))
        now = self._clock()
        rows: dict[tuple[str, str], CallRow] = {}
        new: dict[PartKind, int] = {}
        completed: list[CallRow] = []
        for part in parts:
            key = (part.project, part.call_id)
            before = rows.get(key) or row_of(writing, key)
            after = rows[key] = add_part(before, part, now, self._rule)
            if after.state is CallState.COMPLETE and (before is None or before.state is not after.state):
                completed.append(after)
            new[part.kind] = new.get(part.kind, 0) + 1
        for row in rows.values():
            put_row(writing, row)
        if self._announces and completed:
            writing.change_many(_PUT_COMPLETION, ((row.project, row.call_id) for row in completed))
        late = sum(row.late for row in completed)
        waits = Counter(-(-max(now - row.first_part_at, 0) // 1000) for row in completed)
        return Written(new, len(completed) - late, late, waits)

    def _claim_completions(self, owner: str, limit: int, writing: Connection) -> list[CallKey]:
        now = self._clock()
        asked = (owner, now - OWNER_SILENT_MILLISECONDS, limit)
        if not writing.execute(_CLAIMABLE, asked):  # as nearly always: nothing to lock the file for
            return []
        with writing.transaction():
            found = writing.execute(_CLAIMABLE, asked)
            writing.change_many(_CLAIM_COMPLETION, ((owner, now, completion_id) for completion_id, _, _ in found))
        return [(project, call_id) for _, project, call_id in found]

    def _sweep(self, limit: int, writing: Connection) -> Swept:
        now = self._clock()
        due = "SELECT project, call_id FROM calls_complete WHERE due_at <= ? ORDER BY due_at LIMIT ?"
        abandoned = "SELECT detail_id FROM details WHERE staged_at <= ? LIMIT 1"
        given_up = dict.fromkeys(EXPIRED_STATES, 0)
        with writing.transaction():
            for key in writing.execute(due, (now, limit)) if self._rule.pairs else ():
                row = row_of(writing, key)
                assert row is not None
                row = expire(row, now)
                put_row(writing, row)
                given_up[row.state] += 1
            for (detail_id,) in writing.execute(abandoned, (now - ABANDONED_AFTER,)):
                _delete_detail(writing, detail_id)
        ((waiting,),) = writing.execute("SELECT count(*) FROM calls_complete WHERE due_at IS NOT NULL")
        return Swept(given_up[CallState.TIMED_OUT], given_up[CallState.ORPHAN], waiting)


def _settle(waiting: "asyncio.Future[list[Rows]]", result: list[Rows] | Exception) -> None:
    """Give whoever waits the result, unless it no longer waits."""
    if not waiting.done():
        if isinstance(result, Exception):
            waiting.set_exception(result)
        else:
            waiting.set_result(result)


def _forget_completions(calls: Sequence[CallKey], writing: Connection) -> None:
    with writing.transaction():
        writing.change_many(_FORGET_COMPLETION, iter(calls))


def _check_it_is_ours(writing: Connection, path: Path) -> None:
    """Refuse a database that holds something else: nothing in it is touched."""
    # In this order: both are written by one commit, which another process may make in between.
    ((tables,),) = writing.execute("SELECT count(*) FROM sqlite_schema")
    ((application_id,),) = writing.execute("PRAGMA application_id")
    if tables and application_id != APPLICATION_ID:
        raise StoreRefused(f"{path} is the database of something else: name a file of its own for the store")


def _migrate(writing: Connection) -> None:
    """Bring the schema up to date. Several processes may open a new file at once: the lock lets one do it."""
    known = migrations_of(__package__)
    while True:
        ((version,),) = writing.execute("PRAGMA user_version")
        lacking = pending(known, version)
        if not lacking:
            return
        try:
            writing.run_script(next(iter(lacking.values())))
        except sqlite3.Error:
            if writing.execute("PRAGMA user_version") == [(version,)]:
                raise


def _flush_again(writing: Connection) -> None:
    """After an I/O error, what the kernel holds of the log may not be on the disk, and it says so only once.

    So everything is written again, into the database, before a part that seems to be there counts as stored.
    """
    ((busy, _, _),) = writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if busy:
        raise StoreUnavailable("the store's log cannot be written again yet: another process reads it")
    writing.distrusts_disk = False


def _put_frames(writing: Connection, detail_id: int, seq: int, frames: Sequence[bytes]) -> None:
    if not writing.execute("SELECT 1 FROM details WHERE detail_id = ?", (detail_id,)):
        raise StoreUnavailable("what was written of a detail was cleared meanwhile: it is written anew")
    rows = ((detail_id, number, frame) for number, frame in enumerate(frames, seq))
    writing.change_many("INSERT INTO call_details VALUES (?, ?, ?)", rows)


def _delete_detail(writing: Connection, detail_id: int) -> None:
    writing.change("DELETE FROM call_details WHERE detail_id = ?", (detail_id,))
    writing.change("DELETE FROM details WHERE detail_id = ?", (detail_id,))


def _replace_spans(writing: Connection, part: Part, spans: Iterator[Span]) -> None:
    key = (part.project, part.call_id)
    writing.change("DELETE FROM spans WHERE project = ? AND call_id = ?", key)
    writing.change_many(_PUT_SPAN, ((*key, *msgspec.structs.astuple(span)) for span in spans))


def _summary_of(row: Sequence[Any]) -> CallSummary:  # Any: a row
    (project, call_id, state, late, agent_id, number, environment, started_at, ended_at, duration, reason, summary,
     first_part_at, completed_at, error, conflicts, has_detail, place) = row  # fmt: skip
    figures = None if summary is None else _decode_summary(summary)
    fields = CallFields(agent_id, number, environment, started_at, ended_at, duration, reason, figures)
    return CallSummary(
        project, call_id, CallState(state), bool(late), fields, first_part_at, completed_at, error, conflicts,
        bool(has_detail), place,
    )  # fmt: skip


def _read_call(key: tuple[str, str], reading: Connection) -> StoredCall | None:
    """In one snapshot: a part that is shown is among the parts."""
    reading.execute("BEGIN")
    try:
        summaries = reading.execute(f"{_SUMMARY.format('calls_complete')} WHERE project = ? AND call_id = ?", key)
        row = row_of(reading, key)
        parts = reading.execute(_PARTS, key)
    finally:
        reading.execute("COMMIT")
    if not summaries or row is None:
        return None
    return StoredCall(_summary_of(summaries[0]), tuple([_part_of(each, shown_parts(row)) for each in parts]))


def _merge_call(key: tuple[str, str], now: int, rule: CompletionRule, reading: Connection) -> StoredCall | None:
    """From its parts alone."""
    parts = reading.execute(_PARTS, key)
    if not parts:
        return None
    row = merge(key, [_received(each) for each in parts], now, rule)
    return StoredCall(summary_of(row), tuple([_part_of(each, shown_parts(row)) for each in parts]))


def _received(columns: Sequence[Any]) -> ReceivedPart:  # Any: a row
    kind, _event, digest, accepted_at, _uid, _document, head, received_at = columns
    return ReceivedPart(PartKind(kind), accepted_at, digest, decode_head(head), received_at)


def _part_of(columns: Sequence[Any], shown: Sequence[bytes | None]) -> StoredPart:  # Any: a row
    kind, event, digest, accepted_at, source_uid, document, _head, _received_at = columns
    kind = PartKind(kind)
    return StoredPart(kind, event, digest, accepted_at, source_uid, document, is_shown(kind, digest, shown))


def _count(statement: str, reading: Connection) -> int:
    ((count,),) = reading.execute(statement)
    return int(count)


def _read_frame(detail_id: int, after: int, reading: Connection) -> list[Any]:  # Any: a row
    return reading.execute(_NEXT_FRAME, (detail_id, after))
