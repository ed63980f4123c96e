"""The rows of `calls_complete` in SQLite: read and written as the values that `completion` changes, and filled.

The backfill makes them of parts that were stored before they were put together as they came.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import msgspec

from uploaders.stores.completion import (
    CallRow,
    CallState,
    CompletionRule,
    ReceivedPart,
    Shown,
    error_of,
    fields_of,
    merge,
)
from uploaders.stores.parts import Head, PartKind
from uploaders.stores.sqlite.connection import Connection
from uploaders.stores.store import BackfillDay, BackfillStatus, Parity, StoreUnavailable, milliseconds_of

_encode_head = msgspec.json.Encoder().encode
decode_head = msgspec.json.Decoder(Head).decode

_ROW: Final = """
SELECT state, late, start_accepted_at, start_digest, start_head, end_accepted_at, end_digest, end_head,
       detail_accepted_at, detail_digest, self_contained, conflicts, first_part_at, due_at, completed_at, error
FROM calls_complete WHERE project = ? AND call_id = ?
"""
_PUT_ROW: Final = f"INSERT OR REPLACE INTO calls_complete VALUES ({', '.join(['?'] * 27)})"


def row_of(connection: Connection, key: tuple[str, str]) -> CallRow | None:
    rows = connection.execute(_ROW, key)
    if not rows:
        return None
    (state, late, start_at, start_digest, start_head, end_at, end_digest, end_head, detail_at, detail_digest,
     self_contained, conflicts, first_part_at, due_at, completed_at, error) = rows[0]  # fmt: skip
    return CallRow(
        *key,
        first_part_at,
        CallState(state),
        bool(late),
        None if start_at is None else Shown(start_at, start_digest, decode_head(start_head)),
        None if end_at is None else Shown(end_at, end_digest, decode_head(end_head)),
        None if detail_at is None else Shown(detail_at, detail_digest, Head()),
        bool(self_contained),
        conflicts,
        due_at,
        completed_at,
        error,
    )


def put_row(writing: Connection, row: CallRow) -> None:
    fields = fields_of(row.start.head if row.start else None, row.end.head if row.end else None)
    summary = None if fields.summary is None else _encode_head(fields.summary).decode()
    listed_at = row.first_part_at if fields.started_at is None else fields.started_at
    shown: list[object] = []
    for part in (row.start, row.end):
        shown += (None, None, None) if part is None else (part.accepted_at, part.digest, head_text(part.head))
    shown += (None, None) if row.detail is None else (row.detail.accepted_at, row.detail.digest)
    writing.change(
        _PUT_ROW,
        (row.project, row.call_id, row.state, row.late, *shown, row.self_contained, row.conflicts, row.first_part_at,
         row.due_at, row.completed_at, row.error, fields.agent_id, fields.customer_number, fields.environment,
         fields.started_at, fields.ended_at, fields.duration_seconds, fields.reason, summary, listed_at),
    )  # fmt: skip


def head_text(head: Head) -> str:
    return _encode_head(head).decode()


def merged_rows(now: int, rule: CompletionRule) -> str:
    """`calls_merged` as a table with the columns of `calls_complete` that lists read: given up what waited too long."""
    limit = f"CASE state WHEN {CallState.ENDED:d} THEN {rule.timeout} ELSE {rule.open_timeout} END"
    errors = " ".join(
        f"WHEN {state:d} THEN '{error_of(state)}'" for state in (CallState.PENDING, CallState.OPEN, CallState.ENDED)
    )
    return f"""(
    SELECT project, call_id, CASE WHEN NOT given_up THEN state
            WHEN state = {CallState.ENDED:d} THEN {CallState.ORPHAN:d} ELSE {CallState.TIMED_OUT:d} END AS state,
        NOT self_contained AND coalesce(
            end_received_at - start_received_at NOT BETWEEN -{rule.timeout} AND {rule.open_timeout}, 0) AS late,
        agent_id, customer_number, environment, started_at, ended_at,
        CASE WHEN duration_s >= 0 THEN duration_s END AS duration_s, reason, summary, first_part_at, completed_at,
        CASE WHEN given_up THEN CASE state {errors} END END AS error, conflicts, detail_digest, listed_at
    FROM (SELECT *, coalesce(waits_since + {limit} <= {now}, 0) AS given_up FROM calls_merged)
)"""


# The backfill: rows of `calls_complete` from the parts of a day, a page in each transaction.
#
# Run in the thread of the writing connection, but for `compare` and `days`, which read.

PAGE_ROWS: Final = 200
"""Calls in one transaction, while which no live write is possible: some 10 ms."""

_PROGRESS: Final = "SELECT day, status, calls, written, end_only, differing, updated_at FROM backfill_progress"
_BEGIN: Final = """
INSERT INTO backfill_progress VALUES (?, ?, NULL, NULL, 0, 0, 0, 0, ?)
ON CONFLICT (day) DO UPDATE SET status = excluded.status, cursor_project = NULL, cursor_call_id = NULL, calls = 0,
    written = 0, end_only = 0, differing = 0, updated_at = excluded.updated_at
"""
_CALLS: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS backfill_calls (
    project TEXT, call_id TEXT, PRIMARY KEY (project, call_id)
) WITHOUT ROWID
"""
_FIND_CALLS: Final = """
INSERT INTO backfill_calls
SELECT DISTINCT p.project, p.call_id FROM call_parts p JOIN backfill_progress b ON b.day = ?
WHERE p.received_at >= ? AND p.received_at < ?
    AND (b.cursor_project IS NULL OR (p.project, p.call_id) > (b.cursor_project, b.cursor_call_id))
"""
_PAGE: Final = "SELECT project, call_id FROM backfill_calls ORDER BY project, call_id LIMIT ?"
_PARTS: Final = """
SELECT kind, accepted_at, digest, head, received_at FROM call_parts WHERE project = ? AND call_id = ?
"""
_ADVANCE: Final = """
UPDATE backfill_progress SET cursor_project = ?, cursor_call_id = ?, calls = calls + ?, written = written + ?,
    updated_at = ?
WHERE day = ? AND calls = ?
"""
"""Nothing is changed where another backfill of the day has counted calls since."""
_END: Final = "UPDATE backfill_progress SET status = ?, end_only = ?, differing = ?, updated_at = ? WHERE day = ?"


def _shown(kinds: str) -> str:
    """The digest of the part of these kinds that the call `k` should show."""
    return f"""(
        SELECT p.digest FROM call_parts p WHERE p.project = k.project AND p.call_id = k.call_id AND p.kind IN ({kinds})
        ORDER BY p.accepted_at DESC, p.digest DESC LIMIT 1)"""


_PARITY: Final = f"""
SELECT count(*), count(state),
    coalesce(sum(state IS NOT NULL AND (s IS NOT start_digest OR e IS NOT end_digest OR d IS NOT detail_digest)), 0),
    coalesce(sum(e IS NOT NULL AND s IS NULL AND NOT whole), 0)
FROM (
    SELECT c.state, c.start_digest, c.end_digest, c.detail_digest, {_shown(f"{PartKind.START:d}")} AS s,
        {_shown(f"{PartKind.END:d}, {PartKind.CALL:d}")} AS e, {_shown(f"{PartKind.DETAIL:d}")} AS d,
        EXISTS (SELECT 1 FROM call_parts p
                WHERE p.project = k.project AND p.call_id = k.call_id AND p.kind = {PartKind.CALL:d}) AS whole
    FROM (SELECT DISTINCT project, call_id FROM call_parts WHERE received_at >= ? AND received_at < ?) k
    LEFT JOIN calls_complete c ON c.project = k.project AND c.call_id = k.call_id
)
"""


def begin(day: date, now: int, writing: Connection) -> BackfillDay:
    """Find the calls that are left of a day. Returns what was done before; a day that did not agree begins anew."""
    writing.execute(_CALLS)
    with writing.transaction():
        progress = _progress_of(writing, day)
        if progress is None or progress.status is BackfillStatus.DIFFERING:
            writing.change(_BEGIN, (day.isoformat(), BackfillStatus.RUNNING, now))
            progress = _progress_of(writing, day)
        assert progress is not None
        if progress.status is BackfillStatus.RUNNING:
            writing.change("DELETE FROM backfill_calls", ())
            writing.change(_FIND_CALLS, (day.isoformat(), *milliseconds_of(day)))
    return progress


def write_page(
    reached: BackfillDay, rows: int, now: int, rule: CompletionRule, writing: Connection
) -> tuple[BackfillDay, bool]:
    """Write the rows that the next calls lack, and move the cursor; and whether there may be more.

    Raises `StoreUnavailable`, and writes nothing, where the day is no longer as this backfill left it.
    """
    written, day = 0, reached.day
    with writing.transaction():
        page = writing.execute(_PAGE, (rows,))
        for key in page:
            found = [_received(each) for each in writing.execute(_PARTS, key)]
            before, after = row_of(writing, key), merge(key, found, now, rule)
            if before is None or shown_parts(before) != shown_parts(after):
                put_row(writing, after)
                written += 1
            writing.change("DELETE FROM backfill_calls WHERE project = ? AND call_id = ?", key)
        if page and not writing.change(_ADVANCE, (*page[-1], len(page), written, now, day.isoformat(), reached.calls)):
            raise StoreUnavailable(f"another backfill of this database works on {day}: this one stopped")
    progress = _progress_of(writing, day)
    assert progress is not None
    return progress, len(page) == rows


def end(day: date, parity: Parity, now: int, writing: Connection) -> BackfillDay:
    """Completed, if both paths agree."""
    status = BackfillStatus.COMPLETED if parity.agrees else BackfillStatus.DIFFERING
    differing = parity.differing + parity.calls - parity.rows
    writing.change(_END, (status, parity.end_only, differing, now, day.isoformat()))
    progress = _progress_of(writing, day)
    assert progress is not None
    return progress


def compare(day: date, reading: Connection) -> Parity:
    """Both paths of a day."""
    ((calls, rows, differing, end_only),) = reading.execute(_PARITY, milliseconds_of(day))
    return Parity(calls, rows, differing, end_only)


def days(reading: Connection) -> list[BackfillDay]:
    """What has been done, the newest day first."""
    return [_day_of(each) for each in reading.execute(f"{_PROGRESS} ORDER BY day DESC")]


def _progress_of(connection: Connection, day: date) -> BackfillDay | None:
    rows = connection.execute(f"{_PROGRESS} WHERE day = ?", (day.isoformat(),))
    return _day_of(rows[0]) if rows else None


def _day_of(row: Sequence[Any]) -> BackfillDay:  # Any: a row
    day, status, *counts = row
    return BackfillDay(date.fromisoformat(day), BackfillStatus(status), *counts)


def _received(row: Sequence[Any]) -> ReceivedPart:  # Any: a row
    kind, accepted_at, digest, head, received_at = row
    return ReceivedPart(PartKind(kind), accepted_at, digest, decode_head(head), received_at)


def shown_parts(row: CallRow) -> list[bytes | None]:
    """The digests of the start, the end and the detail that a call shows."""
    return [None if part is None else part.digest for part in (row.start, row.end, row.detail)]
