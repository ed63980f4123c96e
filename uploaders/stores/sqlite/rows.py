"""The rows of `calls_complete` in SQLite, read and written as the values that `uploaders.stores.completion` changes."""

from typing import Final

import msgspec

from uploaders.stores.completion import CallRow, CallState, CompletionRule, Shown, error_of, fields_of
from uploaders.stores.parts import Head
from uploaders.stores.sqlite.connection import Connection

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
