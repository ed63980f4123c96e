"""The backfill of the SQLite store: rows of `calls_complete` from the parts of a day, a page in each transaction.

Run in the thread of the writing connection, but for `compare` and `days`, which read.
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

from uploaders.stores.completion import CallRow, CompletionRule, ReceivedPart, merge
from uploaders.stores.parts import PartKind
from uploaders.stores.sqlite.connection import Connection
from uploaders.stores.sqlite.rows import decode_head, put_row, row_of
from uploaders.stores.store import BackfillDay, BackfillStatus, Parity, milliseconds_of

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
WHERE day = ?
"""
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
    progress = _progress_of(writing, day)
    if progress is None or progress.status is BackfillStatus.DIFFERING:
        writing.change(_BEGIN, (day.isoformat(), BackfillStatus.RUNNING, now))
        progress = _progress_of(writing, day)
    assert progress is not None
    if progress.status is BackfillStatus.RUNNING:
        writing.execute(_CALLS)
        with writing.transaction():
            writing.change("DELETE FROM backfill_calls", ())
            writing.change(_FIND_CALLS, (day.isoformat(), *milliseconds_of(day)))
    return progress


def write_page(day: date, rows: int, now: int, rule: CompletionRule, writing: Connection) -> tuple[BackfillDay, bool]:
    """Write the rows that the next calls lack, and move the cursor; and whether there may be more."""
    written = 0
    with writing.transaction():
        page = writing.execute(_PAGE, (rows,))
        for key in page:
            found = [_received(each) for each in writing.execute(_PARTS, key)]
            before, after = row_of(writing, key), merge(key, found, now, rule)
            if before is None or _shown_parts(before) != _shown_parts(after):
                put_row(writing, after)
                written += 1
            writing.change("DELETE FROM backfill_calls WHERE project = ? AND call_id = ?", key)
        if page:
            writing.change(_ADVANCE, (*page[-1], len(page), written, now, day.isoformat()))
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


def _shown_parts(row: CallRow) -> list[bytes | None]:
    return [None if part is None else part.digest for part in (row.start, row.end, row.detail)]
