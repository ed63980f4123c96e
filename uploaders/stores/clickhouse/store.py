"""The ClickHouse store, for analysing more calls than one PostgreSQL takes.

There are no transactions, so nothing depends on one: parts are written first, and then the rows of their calls are made
of all parts that are there, by one INSERT SELECT. Whoever runs last knows most, and its row wins by its version. What a
crash leaves between the two, a sweep finds. Batches should be large (`batch_max`), and inserts few.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from datetime import date
from itertools import islice
from time import perf_counter
from typing import Any, Final

import msgspec

from spool.records import Clock
from uploaders.stores.clickhouse import sql
from uploaders.stores.clickhouse.client import ClickHouse
from uploaders.stores.completion import CallState, CompletionRule, fields_of
from uploaders.stores.parts import Head, Part, PartKind, key_text, storable_text
from uploaders.stores.schema import finding, migrations_of, pending
from uploaders.stores.store import (
    OWNER_SILENT_MILLISECONDS,
    BackfillDay,
    BackfillStatus,
    CallKey,
    CallPath,
    CallQuery,
    CallSummary,
    CallsWanted,
    Detail,
    NumberFound,
    OldCalls,
    Parity,
    StoredCall,
    StoredPart,
    StoreStatus,
    Swept,
    Written,
    day_of,
    is_shown,
    milliseconds_of,
)

BACKFILL_ROWS: Final = 50_000
"""Calls of one page of a backfill."""
STAGE_BYTES: Final = 16 << 20
"""Frames of a detail in one insert."""
SPANS_AT_ONCE: Final = 10_000
ERASED_AT_ONCE: Final = 1_000
"""Calls that are deleted by one rewriting of each table."""
REPAIR_EVERY: Final = 60_000
"""Milliseconds between two looks for calls whose rows lack parts."""
REPAIR_SINCE: Final = 3600 * 1000
"""How long ago these parts may have been received; the first look after a start goes back a day."""
ANNOUNCED_WITHIN: Final = 7 * 24 * 3600 * 1000
"""How long after its completion a call is announced, as when its batch is written again; what was announced is known
for a month."""
TOLD: Final = 1 << 62
"""The version of what was announced: no claim outdoes it."""
ABANDONED_AFTER: Final = 24 * 3600 * 1000
"""Milliseconds after which a detail that never got its part is cleared."""
CLEAR_EVERY: Final = 3600 * 1000
"""Milliseconds between two looks for such details: the ids of all are compared."""

_PART_TYPES: Final = {
    "project": "String", "call_id": "String", "kind": "UInt8", "digest": "String", "event": "String",
    "accepted_at": "Int64", "received_at": "Int64", "source_uid": "String", "core": "String", "head": "String",
    "detail_id": "String",
}  # fmt: skip
_FRAME_TYPES: Final = {
    "detail_id": "String", "seq": "UInt32", "staged_at": "Int64", "frame": "String", "project": "String",
    "call_id": "String", "digest": "String",
}  # fmt: skip
_DOCUMENT_TYPES: Final = dict.fromkeys(("project", "call_id", "digest", "document"), "String")
_SPAN_TYPES: Final = {
    "project": "String", "call_id": "String", "digest": "String", "seq": "UInt32",
    **dict.fromkeys(("trace_id", "span_id", "parent_span_id", "name", "operation"), "Nullable(String)"),
    "start_ns": "Nullable(Int64)", "duration_ns": "Nullable(Int64)", "status": "Nullable(Int16)", "error": "Bool",
    "body": "Nullable(String)",
}  # fmt: skip
_PROGRESS_TYPES: Final = {
    "day": "Date", "status": "String", "calls": "UInt64", "written": "UInt64", "end_only": "UInt64",
    "differing": "UInt64", "updated_at": "Int64", "cursor_project": "String", "cursor_call_id": "String",
    "version": "UInt64",
}  # fmt: skip

_encode_head = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(Head).decode


class ClickHouseStore:
    """A store in the database that `url` names: `clickhouse://user:password@host:8123/database`."""

    def __init__(
        self, url: str, clock: Clock, rule: CompletionRule, *, timeout: float = 60.0, announces: bool = False
    ) -> None:
        self._server = ClickHouse(url, timeout)
        self._announces = announces
        self._clock = clock
        self._rule = rule
        self._opening = asyncio.Lock()
        self._open = False
        self._repaired_at: int | None = None
        self._cleared_at: int | None = None

    async def open(self) -> None:
        """See `Store.open`."""
        if self._open:
            return
        async with self._opening:
            if not self._open:
                await self._migrate()
                self._open = True

    async def write(self, parts: Sequence[Part]) -> Written:
        """See `Store.write`; what another process writes at the same moment may be counted by both."""
        await self.open()
        keys = sorted({(part.project, part.call_id) for part in parts})
        if not keys:
            return Written()
        found = await self._server.rows(sql.KNOWN, _named(keys))
        known = {(project, call_id, kind, digest) for project, call_id, kind, digest in found}
        new = {key: part for part in parts if (key := _key_of(part)) not in known}
        if new:
            await self._insert(list(new.values()))
        completed = await self._put_rows(keys)
        return replace(completed, new=Counter(part.kind for part in new.values()))

    async def write_detail(self, part: Part, detail: Detail) -> Written:
        """See `Store.write_detail`. The part comes after all that belongs to it, and makes it visible: where something
        fails before, all is written again, and what is there twice counts once."""
        await self.open()
        key = (part.project, part.call_id)
        found = await self._server.rows(sql.KNOWN, _named([key]))
        if _key_of(part) in {(project, call_id, kind, digest) for project, call_id, kind, digest in found}:
            await self._end_detail(key)
            return Written()
        detail_id = uuid.uuid4().hex
        seq, size, frames = 0, 0, list[bytes]()
        async for frame in detail.frames:
            frames.append(frame)
            size += len(frame)
            if size >= STAGE_BYTES:
                await self._stage(part, detail_id, seq, frames)
                seq, size, frames = seq + len(frames), 0, []
        if frames:
            await self._stage(part, detail_id, seq, frames)
        document = await asyncio.to_thread(detail.document)
        if document is not None:
            row = (part.project, part.call_id, part.digest, document)
            await self._server.insert("detail_documents", _DOCUMENT_TYPES, [row])
        others = await self._server.rows(sql.DETAILS, {"project": part.project, "call_id": part.call_id})
        if not any(part.rank < (accepted_at, digest) for _, digest, accepted_at in others):
            await self._put_spans(part, detail)
        await self._insert([part], detail_id)
        await self._end_detail(key)
        return Written({part.kind: 1})

    async def sweep(self, limit: int = 1000) -> Swept:
        """See `Store.sweep`. It also finds rows that a writer who died left behind."""
        await self.open()
        now = self._clock()
        if self._repaired_at is None or now - self._repaired_at >= REPAIR_EVERY:
            await self._repair(now, limit)
        if not self._rule.pairs:
            return Swept()
        due: list[CallKey] = [(project, call_id) for project, call_id in await self._server.rows(
            sql.DUE, {"now": now, "limit": limit}
        )]  # fmt: skip
        given_up = Counter[CallState]()
        if due:
            await self._put_rows(due)
            given_up.update(state for state, *_ in (await self._states(due)).values())
        ((waiting,),) = await self._server.rows(sql.WAITING)
        return Swept(given_up[CallState.TIMED_OUT], given_up[CallState.ORPHAN], waiting)

    async def claim_completions(self, owner: str, limit: int) -> list[CallKey]:
        """See `Store.claim_completions`. Of two who claim at once the later one wins; both may have been given it."""
        await self.open()
        given = {"owner": owner, "silent": self._clock() - OWNER_SILENT_MILLISECONDS, "limit": limit}
        found = await self._server.rows(sql.CLAIMABLE, given)
        keys: list[CallKey] = [(project, call_id) for project, call_id, _ in found]
        if any(claimed_by != owner for *_, claimed_by in found):
            await self._server.run(sql.CLAIM, {**given, **_named(keys), "now": self._clock()})
            claimed = await self._server.rows(sql.CLAIMED, {**_named(keys), "owner": owner})
            mine = {(project, call_id) for project, call_id in claimed}
            keys = [key for key in keys if key in mine]
        return keys

    async def forget_completions(self, calls: Sequence[CallKey]) -> None:
        """See `Store.forget_completions`."""
        await self.open()
        if calls:
            values = {**_named(calls), "keys": list(calls), "now": self._clock(), "told": TOLD}
            await self._server.run(sql.FORGET, values)

    async def calls(self, query: CallQuery, path: CallPath = CallPath.COMPLETE) -> list[CallSummary]:
        """See `Store.calls`."""
        await self.open()
        conditions: dict[str, tuple[str, object]] = {
            "project": ("project = %(project)s", query.project),
            "since": ("listed_at >= %(since)s", query.since),
            "until": ("listed_at < %(until)s", query.until),
            "agent": ("agent_id = %(agent)s", query.agent_id),
            "number": ("customer_number = %(number)s", query.customer_number),
            "state": ("state = %(state)s", None if query.state is None else int(query.state)),
            "id_prefix": ("startsWith(call_id, %(id_prefix)s)", query.id_prefix),
        }
        given = {name: each for name, each in conditions.items() if each[1] is not None}
        where = " AND ".join(condition for condition, _ in given.values())
        values = {name: value for name, (_, value) in given.items()}
        if query.after is not None:
            where += " AND listed_at <= %(place)s AND (listed_at < %(place)s OR call_id > %(last_id)s)"
            values |= zip(("place", "last_id"), query.after, strict=True)
        order = "ORDER BY listed_at DESC, call_id LIMIT %(limit)s"
        statement = f"{sql.SUMMARY.format(self._source(path, 'project = %(project)s'), where)} {order}"
        found = await self._server.rows(statement, {**values, "now": self._clock(), "limit": query.limit})
        return [_summary_of(row) for row in found]

    async def call(self, project: str, call_id: str, path: CallPath = CallPath.COMPLETE) -> StoredCall | None:
        """See `Store.call`."""
        await self.open()
        where = "project = %(project)s AND call_id = %(call_id)s"
        values = {"project": project, "call_id": key_text(call_id), "now": self._clock()}
        parts = await self._server.rows(sql.PARTS, values)
        rows = await self._server.rows(sql.SUMMARY.format(self._source(path, where), where), values)
        if not rows:
            return None
        return StoredCall(_summary_of(rows[0]), tuple([_part_of(part, rows[0][-3:]) for part in parts]))

    async def detail(self, project: str, call_id: str) -> AsyncIterator[bytes]:
        """See `Store.detail`. Each frame is a question of its own: nothing is held while the caller sends one."""
        await self.open()
        values = {"project": project, "call_id": key_text(call_id)}
        for detail_id, *_ in (await self._server.rows(sql.DETAILS, values))[:1]:
            seq = -1
            while frames := await self._server.rows(sql.NEXT_FRAME, {"detail_id": detail_id, "seq": seq}):
                ((seq, frame),) = frames
                yield frame

    async def status(self) -> StoreStatus:
        """See `Store.status`."""
        await self.open()
        states = await self._server.rows("SELECT state, count() FROM calls_complete FINAL GROUP BY state")
        ((version,),) = await self._server.rows("SELECT max(version) FROM store_version")
        ((server,),) = await self._server.rows("SELECT version()")
        return StoreStatus(f"ClickHouse {server}", version, {CallState(state): count for state, count in states})

    async def check(self) -> tuple[str, ...]:
        """See `Store.check`."""
        await self.open()
        checks = {**sql.CHECKS, **sql.DETAIL_CHECKS} if self._rule.pairs else sql.DETAIL_CHECKS
        found = {what: (await self._server.rows(statement))[0][0] for what, statement in checks.items()}
        return tuple([finding(what, count) for what, count in found.items() if count])

    async def oldest_day(self) -> date | None:
        """See `Store.oldest_day`."""
        await self.open()
        ((count, oldest),) = await self._server.rows(sql.OLDEST)
        return day_of(oldest) if count else None

    async def parity(self, day: date) -> Parity:
        """See `Store.parity`."""
        await self.open()
        ((calls, rows, end_only),) = await self._server.rows(sql.CALLS_OF_DAY, _bounds(day))
        ((right,),) = await self._server.rows(sql.RIGHT_OF_DAY, _bounds(day))
        return Parity(calls, rows, rows - right, end_only)

    async def backfill(self, day: date, page_rows: int | None = None) -> AsyncGenerator[BackfillDay, None]:
        """See `Store.backfill`. One INSERT SELECT writes a page, and the cursor moves after it: a page that was written
        and not noted is written again, which changes nothing."""
        await self.open()
        progress, cursor, version = await self._progress(day)
        if progress.status is BackfillStatus.RUNNING:
            while page := await self._page(day, cursor, page_rows or BACKFILL_ROWS):
                bounds, count, cursor = page
                ((right,),) = await self._server.rows(sql.RIGHT_OF_PAGE, bounds)
                written = count - right
                if written:
                    where = f"(project, call_id) IN ({sql.PAGE})"
                    await self._server.run(sql.put_rows(where, self._rule), {**bounds, "now": self._clock()})
                calls, written = progress.calls + count, progress.written + written
                progress = BackfillDay(day, BackfillStatus.RUNNING, calls, written, 0, 0, self._clock())
                version = await self._note(progress, cursor, version)
                yield progress
            parity = await self.parity(day)
            progress = BackfillDay(
                day,
                BackfillStatus.COMPLETED if parity.agrees else BackfillStatus.DIFFERING,
                progress.calls,
                progress.written,
                parity.end_only,
                parity.differing + parity.calls - parity.rows,
                self._clock(),
            )
            await self._note(progress, cursor, version)
        yield progress

    async def backfill_days(self) -> list[BackfillDay]:
        """See `Store.backfill_days`."""
        await self.open()
        return [_day_of(row) for row in await self._server.rows(f"{sql.PROGRESS} ORDER BY day DESC")]

    async def pause_backfills(self, *, pause: bool) -> None:
        """See `Store.pause_backfills`."""
        await self.open()
        await self._server.insert("backfill_control", {"singleton": "UInt8", "paused": "Bool"}, [(1, pause)])

    async def backfills_paused(self) -> bool:
        """See `Store.backfills_paused`."""
        await self.open()
        return any(paused for (paused,) in await self._server.rows(sql.PAUSED))

    async def find_calls(self, wanted: CallsWanted) -> list[CallKey]:
        """See `Store.find_calls`."""
        await self.open()
        rows = list[Sequence[Any]]()  # Any: columns
        if wanted.call_ids:
            rows += await self._server.rows(sql.FIND_CALLS, {"call_ids": list(map(key_text, wanted.call_ids))})
        if wanted.agent_id:
            rows += await self._server.rows(sql.CALLS_OF_AGENT, {"agent_id": storable_text(wanted.agent_id)})
        return sorted({(project, call_id) for project, call_id in rows})

    async def find_numbers(self, like: str) -> list[NumberFound]:
        """See `Store.find_numbers`."""
        await self.open()
        return sorted(NumberFound(*row) for row in await self._server.rows(sql.NUMBERS, {"like": like}))

    async def old_calls(self, wanted: OldCalls) -> list[CallKey]:
        """See `Store.old_calls`."""
        await self.open()
        conditions = ["1"]
        conditions += ["project = %(project)s"] if wanted.project is not None else []
        conditions += ["project NOT IN %(all_but)s"] if wanted.all_but else []
        values = {
            "project": wanted.project, "all_but": list(wanted.all_but), "before": self._clock() - wanted.keep,
            "limit": wanted.limit,
        }  # fmt: skip
        rows = await self._server.rows(sql.OLD_CALLS.format(" AND ".join(conditions)), values)
        return [(project, call_id) for project, call_id in rows]

    async def wipe(self) -> None:
        """See `Store.wipe`: what is deleted is written anew without it."""

    async def delete(self, keys: Sequence[CallKey]) -> int:
        """See `Store.delete`. Each table is rewritten where it has some of a thousand calls, the parts last: they name
        the rest."""
        await self.open()
        count = 0
        for project in sorted({project for project, _ in keys}):
            call_ids = [call_id for whose, call_id in keys if whose == project]
            for start in range(0, len(call_ids), ERASED_AT_ONCE):
                named = {"project": project, "call_ids": call_ids[start : start + ERASED_AT_ONCE]}
                ((parts,),) = await self._server.rows(sql.COUNT_PARTS, named)
                for statement in sql.ERASE:
                    await self._server.run(statement, named)
                count += parts
        return count

    async def commit_seconds(self) -> float:
        """See `Store.commit_seconds`."""
        paused = await self.backfills_paused()
        began = perf_counter()
        await self._server.insert("backfill_control", {"singleton": "UInt8", "paused": "Bool"}, [(1, paused)])
        return perf_counter() - began

    async def missing_rights(self) -> tuple[str, ...]:
        """See `Store.missing_rights`; ClickHouse says it itself, in the error of the first statement that lacks one."""
        await self.open()
        await self.commit_seconds()
        return ()

    async def close(self) -> None:
        """See `Store.close`."""
        await self._server.close()

    async def _migrate(self) -> None:
        """Bring the schema up to date. Each statement may run twice, and the version comes last."""
        version = 0
        ((exists,),) = await self._server.rows("EXISTS TABLE store_version")
        if exists:
            ((version,),) = await self._server.rows("SELECT max(version) FROM store_version")
        for script in pending(migrations_of(__package__), version).values():
            for statement in script.split(";\n"):
                if any(line and not line.startswith("--") for line in statement.splitlines()):
                    await self._server.run(statement)

    def _source(self, path: CallPath, where: str) -> str:
        """The table that a path reads, as far as `where` is true."""
        return "calls_complete FINAL" if path is CallPath.COMPLETE else f"({sql.merged_calls(where, self._rule)})"

    async def _insert(self, parts: Sequence[Part], detail_id: str = "") -> None:
        now = self._clock()
        rows = [
            (part.project, part.call_id, int(part.kind), part.digest, part.event, part.accepted_at, now,
             part.source_uid, part.document, _encode_head(part.head), detail_id)
            for part in parts
        ]  # fmt: skip
        # Of this insert alone: the same parts are written again after they were erased.
        await self._server.insert("call_parts", _PART_TYPES, rows, uuid.uuid4().hex)

    async def _put_rows(self, keys: Sequence[CallKey]) -> Written:
        """Make the rows of these calls anew; which of them became complete."""
        if not self._rule.pairs:
            return Written()
        before, now = await self._states(keys), self._clock()
        await self._server.run(sql.put_rows(sql.OF_KEYS, self._rule), {**_named(keys), "now": now})
        after = await self._states(keys)
        if self._announces and any(state is CallState.COMPLETE for state, *_ in after.values()):
            await self._server.run(sql.PUT_COMPLETIONS, {**_named(keys), "since": now - ANNOUNCED_WITHIN})
        completed = [
            (late, max(now - first_part_at, 0))
            for key, (state, late, first_part_at) in after.items()
            if state is CallState.COMPLETE and (key not in before or before[key][0] is not state)
        ]
        late = sum(was_late for was_late, _ in completed)
        return Written({}, len(completed) - late, late, Counter(-(-waited // 1000) for _, waited in completed))

    async def _states(self, keys: Sequence[CallKey]) -> dict[CallKey, tuple[CallState, bool, int]]:
        found = await self._server.rows(sql.STATES_OF, _named(keys))
        states = {(project, call_id): (CallState(state), late, at) for project, call_id, state, late, at in found}
        return {key: states[key] for key in keys if key in states}

    async def _stage(self, part: Part, detail_id: str, seq: int, frames: Sequence[bytes]) -> None:
        now, whose = self._clock(), (part.project, part.call_id, part.digest)
        rows = [(detail_id, number, now, frame, *whose) for number, frame in enumerate(frames, seq)]
        await self._server.insert("call_details", _FRAME_TYPES, rows)

    async def _end_detail(self, key: CallKey) -> None:
        """What is left to be done for a detail that is there: of several the shown one alone has spans.

        Those of a detail whose part is not there yet stay: it comes to this later, and sees the others.
        """
        named = dict(zip(("project", "call_id"), key, strict=True))
        others = [digest.hex() for _, digest, _ in (await self._server.rows(sql.DETAILS, named))[1:]]
        if others:
            await self._server.run(f"DELETE FROM spans WHERE {sql.OF_DETAILS}", {**named, "digests": others})
        await self._put_rows([key])

    async def _put_spans(self, part: Part, detail: Detail) -> None:
        spans = await asyncio.to_thread(detail.spans)
        key = (part.project, part.call_id, part.digest)

        def some() -> list[tuple[object, ...]]:
            """The next rows: taking a detail apart holds up nobody."""
            return [(*key, *msgspec.structs.astuple(span)) for span in islice(spans, SPANS_AT_ONCE)]

        while rows := await asyncio.to_thread(some):
            await self._server.insert("spans", _SPAN_TYPES, rows)

    async def _repair(self, now: int, limit: int) -> None:
        since = now - (ABANDONED_AFTER if self._repaired_at is None else REPAIR_SINCE)
        if self._rule.pairs:
            behind = await self._server.rows(sql.BEHIND, {"since": since, "limit": limit})
            if behind:
                await self._put_rows([(project, call_id) for project, call_id in behind])
            if len(behind) == limit:
                return  # there may be more, from before the time that the next look goes back to
        self._repaired_at = now
        if self._cleared_at is None or now - self._cleared_at >= CLEAR_EVERY:
            found = await self._server.rows(sql.ABANDONED, {"before": now - ABANDONED_AFTER})
            for detail_id, project, call_id, digest in found:
                named = {"detail_id": detail_id, "project": project, "call_id": call_id, "digests": [digest]}
                for statement in sql.CLEAR:
                    await self._server.run(statement, named)
            self._cleared_at = None if found else now

    async def _progress(self, day: date) -> tuple[BackfillDay, CallKey | None, int]:
        """What was done of a day, the cursor, and the version of its row; a day that did not agree begins anew."""
        rows = await self._server.rows(f"{sql.PROGRESS} WHERE day = %(day)s", {"day": day})
        fresh = BackfillDay(day, BackfillStatus.RUNNING, 0, 0, 0, 0, self._clock())
        if not rows:
            return fresh, None, 0
        *_, project, call_id, version = rows[0]
        progress = _day_of(rows[0])
        if progress.status is BackfillStatus.DIFFERING:
            return fresh, None, version
        return progress, (project, call_id), version

    async def _page(
        self, day: date, cursor: CallKey | None, rows: int
    ) -> tuple[dict[str, object], int, CallKey] | None:
        """The next calls of a day: what names them in a statement, how many there are, and the last one."""
        project, call_id = cursor or ("", "")
        bounds = {**_bounds(day), "first": int(cursor is None), "project": project, "call_id": call_id, "rows": rows}
        ((count, last),) = await self._server.rows(sql.PAGE_END, bounds)
        return (bounds, count, (last[0], last[1])) if count else None

    async def _note(self, progress: BackfillDay, cursor: CallKey | None, version: int) -> int:
        """Write down what was done; the version of that."""
        project, call_id = cursor or ("", "")
        row = (progress.day, progress.status.value, progress.calls, progress.written, progress.end_only,
               progress.differing, progress.updated_at, project, call_id, version + 1)  # fmt: skip
        await self._server.insert("backfill_progress", _PROGRESS_TYPES, [row])
        return version + 1


def _key_of(part: Part) -> tuple[str, str, int, bytes]:
    return (part.project, part.call_id, int(part.kind), part.digest)


def _named(keys: Sequence[CallKey]) -> dict[str, object]:
    """As `sql.OF_KEYS` wants them."""
    return {"projects": sorted({project for project, _ in keys}), "call_ids": sorted({call_id for _, call_id in keys})}


def _bounds(day: date) -> dict[str, object]:
    begin, end = milliseconds_of(day)
    return {"begin": begin, "end": end}


def _day_of(row: Sequence[Any]) -> BackfillDay:  # Any: columns
    day, status, calls, written, end_only, differing, updated_at, *_ = row
    return BackfillDay(day, BackfillStatus(status), calls, written, end_only, differing, updated_at)


def _summary_of(row: Sequence[Any]) -> CallSummary:  # Any: columns
    (project, call_id, state, late, start_head, end_head, first_part_at, completed_at, error, conflicts, place, _start,
     _end, detail_digest) = row  # fmt: skip
    heads = [_decode_head(head) if head else None for head in (start_head, end_head)]
    return CallSummary(
        project, call_id, CallState(state), bool(late), fields_of(*heads), first_part_at, completed_at or None,
        error or None, conflicts, bool(detail_digest), place,
    )  # fmt: skip


def _part_of(row: Sequence[Any], shown: Sequence[bytes]) -> StoredPart:  # Any: columns
    kind, event, digest, accepted_at, source_uid, document = row
    kind = PartKind(kind)
    return StoredPart(kind, event, digest, accepted_at, source_uid, document, is_shown(kind, digest, shown))
