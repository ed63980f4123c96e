"""The statements of the PostgreSQL store, and the arrays that they take.

Times go in and out as milliseconds since the Unix epoch.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from uploaders.stores.completion import CallState, error_of
from uploaders.stores.parts import PartKind

_INCOMING: Final = """unnest(
    %(projects)b::text[], %(call_ids)b::text[], %(kinds)b::bigint[], %(digests)b::bytea[], %(events)b::text[],
    %(accepted_at)b::bigint[], %(source_uids)b::text[], %(documents)b::json[], %(heads)b::json[]
) AS incoming (project, call_id, kind, digest, event, accepted_at, source_uid, core, head)"""
"""A batch: its columns are parameters, so that one statement, one transaction and one round trip are all it takes."""

INSERT_PARTS: Final = f"""
INSERT INTO call_parts (project, call_id, kind, digest, event, accepted_at, source_uid, core, head)
SELECT project, call_id, kind, digest, event, to_timestamp(accepted_at / 1000.0), source_uid, core, head::jsonb
FROM {_INCOMING} ORDER BY project, call_id, kind, digest
ON CONFLICT DO NOTHING
RETURNING project, call_id, kind, digest, accepted_at, head
"""
"""Sorted, as the rows of calls are: two batches with the same keys wait for each other, and never in a circle."""
_INSERTED_BEFORE: Final = f"""
SELECT project, call_id, kind, digest, to_timestamp(accepted_at / 1000.0) AS accepted_at, head::jsonb FROM {_INCOMING}
"""

_START, _ENDS, _DETAIL = (
    f"kind = {PartKind.START:d}",
    f"kind IN ({PartKind.END:d}, {PartKind.CALL:d})",
    f"kind = {PartKind.DETAIL:d}",
)


def _shown(column: str, kinds: str) -> str:
    """Of the new parts of these kinds, a column of the one with the highest rank."""
    return f"(array_agg({column} ORDER BY accepted_at DESC, digest DESC) FILTER (WHERE {kinds}))[1]"


def _newer(slot: str, column: str) -> str:
    """A column of the part that is shown: the new one's if that has the higher rank."""
    ranks = f"(excluded.{slot}_accepted_at, excluded.{slot}_digest) > (c.{slot}_accepted_at, c.{slot}_digest)"
    return f"""{slot}_{column} = CASE
        WHEN excluded.{slot}_digest IS NOT NULL AND (c.{slot}_digest IS NULL OR {ranks})
        THEN excluded.{slot}_{column} ELSE c.{slot}_{column} END"""


_AFTER: Final = """call_state_after(
        c.state, c.start_digest IS NOT NULL, c.start_digest IS NOT NULL OR excluded.start_digest IS NOT NULL,
        c.end_digest IS NOT NULL OR excluded.end_digest IS NOT NULL, c.self_contained OR excluded.self_contained)"""


def _due(state: str) -> str:
    """When a call that begins to be in this state is given up."""
    return f"""CASE {state}
        WHEN {CallState.ENDED:d} THEN now() + %(timeout)s * interval '1 millisecond'
        WHEN {CallState.COMPLETE:d} THEN NULL
        ELSE now() + %(open_timeout)s * interval '1 millisecond' END"""


def _merge(new: str) -> str:
    return f"""
WITH new AS ({new}), merged AS (
    SELECT project, call_id,
        {_shown("accepted_at", _START)} AS start_accepted_at,
        {_shown("digest", _START)} AS start_digest,
        {_shown("head", _START)} AS start_head,
        {_shown("accepted_at", _ENDS)} AS end_accepted_at,
        {_shown("digest", _ENDS)} AS end_digest,
        {_shown("head", _ENDS)} AS end_head,
        {_shown("accepted_at", _DETAIL)} AS detail_accepted_at,
        {_shown("digest", _DETAIL)} AS detail_digest,
        bool_or(kind = {PartKind.CALL:d}) AS self_contained,
        count(*) FILTER (WHERE {_START}) AS starts,
        count(*) FILTER (WHERE {_ENDS}) AS ends
    FROM new GROUP BY project, call_id
), changed AS (
INSERT INTO calls_complete AS c (
    project, call_id, state, late, start_accepted_at, start_digest, start_head, end_accepted_at, end_digest, end_head,
    detail_accepted_at, detail_digest, self_contained, conflicts, first_part_at, due_at, completed_at)
SELECT project, call_id, state, false, start_accepted_at, start_digest, start_head, end_accepted_at, end_digest,
    end_head, detail_accepted_at, detail_digest, self_contained, greatest(starts - 1, 0) + greatest(ends - 1, 0),
    now(), {_due("state")}, CASE state WHEN {CallState.COMPLETE:d} THEN now() END
FROM merged, call_state_after({CallState.PENDING:d}::smallint, false, starts > 0, ends > 0, self_contained) AS state
ORDER BY project, call_id
ON CONFLICT (project, call_id) DO UPDATE SET
    {_newer("start", "accepted_at")}, {_newer("start", "digest")}, {_newer("start", "head")},
    {_newer("end", "accepted_at")}, {_newer("end", "digest")}, {_newer("end", "head")},
    {_newer("detail", "accepted_at")}, {_newer("detail", "digest")},
    self_contained = c.self_contained OR excluded.self_contained,
    conflicts = c.conflicts + excluded.conflicts
        + (c.start_digest IS NOT NULL AND excluded.start_digest IS NOT NULL)::int
        + (c.end_digest IS NOT NULL AND excluded.end_digest IS NOT NULL)::int,
    state = {_AFTER},
    late = c.late OR (c.state IN ({CallState.TIMED_OUT:d}, {CallState.ORPHAN:d}) AND {_AFTER} <> c.state),
    due_at = CASE WHEN {_AFTER} = c.state THEN c.due_at ELSE {_due(_AFTER)} END,
    completed_at = CASE WHEN c.completed_at IS NULL AND {_AFTER} = {CallState.COMPLETE:d} THEN now()
        ELSE c.completed_at END,
    error = CASE WHEN {_AFTER} = c.state THEN c.error END
RETURNING project, call_id, completed_at IS NOT DISTINCT FROM now() AS completed, late, detail_digest, first_part_at
)
"""


WRITE_PARTS: Final = f"""{_merge(INSERT_PARTS)}, announced AS (
    INSERT INTO completions (project, call_id) SELECT project, call_id FROM changed WHERE completed AND %(announces)s
    ON CONFLICT DO NOTHING
)
SELECT 'part', kind, count(*) FROM new GROUP BY kind
UNION ALL
SELECT 'completed', late::int, count(*) FROM changed WHERE completed GROUP BY late
UNION ALL
SELECT 'wait', ceil(greatest(extract(epoch FROM now() - first_part_at), 0))::int AS seconds, count(*)
FROM changed WHERE completed GROUP BY seconds
"""
"""The whole batch: insert what is new, and bring the rows of its calls up to date."""
MERGE_DETAIL: Final = f"{_merge(_INSERTED_BEFORE)} SELECT detail_digest FROM changed"
"""The row of a call whose DETAIL part this transaction has inserted; returns the detail that the call shows now."""
WRITE_PARTS_ALONE: Final = f"WITH new AS ({INSERT_PARTS}) SELECT 'part', kind, count(*) FROM new GROUP BY kind"
"""The batch without the rows of its calls."""

LOCK_CALL: Final = "SELECT pg_advisory_xact_lock(hashtextextended(%s, hashtext(%s)))"
"""Until the transaction ends; a number that two calls share only makes one wait for the other."""
COPY_FRAMES: Final = "COPY call_details (project, call_id, digest, seq, frame) FROM STDIN (FORMAT BINARY)"
FRAME_TYPES: Final = ("text", "text", "bytea", "int4", "bytea")
DELETE_SPANS: Final = "DELETE FROM spans WHERE project = %s AND call_id = %s"
COPY_SPANS: Final = """
COPY spans (project, call_id, seq, trace_id, span_id, parent_span_id, name, operation, start_ns, duration_ns, status,
            error, body) FROM STDIN
"""
PUT_DOCUMENT: Final = "INSERT INTO detail_documents VALUES (%s, %s, %s, %s::text::json) ON CONFLICT DO NOTHING"

CLAIM_COMPLETIONS: Final = """
WITH claimable AS (
    SELECT completion_id FROM completions
    WHERE claimed_by IS NULL OR claimed_by = %(owner)s OR claimed_at < now() - %(silent)s * interval '1 millisecond'
    ORDER BY completion_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE completions c SET claimed_by = %(owner)s, claimed_at = now() FROM claimable
WHERE c.completion_id = claimable.completion_id RETURNING project, call_id
"""
FORGET_COMPLETIONS: Final = """
DELETE FROM completions c USING unnest(%s::text[], %s::text[]) AS told (project, call_id)
WHERE c.project = told.project AND c.call_id = told.call_id
"""

SWEEP: Final = f"""
WITH due AS (
    SELECT project, call_id FROM calls_complete WHERE due_at <= now() ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED
), given_up AS (
    UPDATE calls_complete c SET due_at = NULL,
        state = CASE WHEN c.end_digest IS NULL THEN {CallState.TIMED_OUT:d} ELSE {CallState.ORPHAN:d} END,
        error = CASE c.state
            WHEN {CallState.PENDING:d} THEN '{error_of(CallState.PENDING)}'
            WHEN {CallState.OPEN:d} THEN '{error_of(CallState.OPEN)}'
            ELSE '{error_of(CallState.ENDED)}' END
    FROM due WHERE c.project = due.project AND c.call_id = due.call_id
    RETURNING c.state
)
SELECT state, count(*) FROM given_up GROUP BY state
"""


# The old path, and the backfill of the new one. Named parameters: `timeout` and `open_timeout` in milliseconds.

_EXPIRED: Final = f"""CASE state WHEN {CallState.ENDED:d} THEN waits_since + %(timeout)s * interval '1 millisecond'
        ELSE waits_since + %(open_timeout)s * interval '1 millisecond' END"""
_ERRORS: Final = " ".join(
    f"WHEN {state:d} THEN '{error_of(state)}'" for state in (CallState.PENDING, CallState.OPEN, CallState.ENDED)
)


def merged_rows(where: str = "true") -> str:
    """`calls_merged` with the columns of `calls_complete`: what has waited too long is given up.

    OFFSET 0 keeps the planner from joining calls after it has merged those of the whole table: 0.8 s a page, now 0.4.
    """
    return f"""(
    SELECT project, call_id, CASE WHEN due > now() IS NOT FALSE THEN state WHEN state = {CallState.ENDED:d}
            THEN {CallState.ORPHAN:d}::smallint ELSE {CallState.TIMED_OUT:d}::smallint END AS state,
        NOT self_contained AND coalesce(end_received_at - start_received_at
            NOT BETWEEN %(timeout)s * interval '-1 millisecond' AND %(open_timeout)s * interval '1 millisecond',
            false) AS late,
        start_accepted_at, start_digest, start_head, end_accepted_at, end_digest, end_head, detail_accepted_at,
        detail_digest, self_contained, conflicts, first_part_at, CASE WHEN due > now() THEN due END AS due_at,
        completed_at, CASE WHEN due <= now() THEN CASE state {_ERRORS} END END AS error, agent_id, customer_number,
        environment, started_at, ended_at, duration_s, reason, summary, listed_at
    FROM (SELECT *, {_EXPIRED} AS due FROM calls_merged WHERE {where} OFFSET 0) m
) calls"""


_COLUMNS: Final = (
    "project", "call_id", "state", "late", "start_accepted_at", "start_digest", "start_head", "end_accepted_at",
    "end_digest", "end_head", "detail_accepted_at", "detail_digest", "self_contained", "conflicts", "first_part_at",
    "due_at", "completed_at", "error",
)  # fmt: skip
_OF_PAGE: Final = merged_rows("project = page.project AND call_id = page.call_id")
_OF_DAY: Final = (
    "received_at >= %(day)s::timestamp AT TIME ZONE 'UTC' "
    "AND received_at < (%(day)s::timestamp + interval '1 day') AT TIME ZONE 'UTC'"
)

BACKFILL_LOCK: Final = "SELECT pg_try_advisory_lock(7717771802)"
BACKFILL_UNLOCK: Final = "SELECT pg_advisory_unlock(7717771802)"
"""One backfill at a time: another one would count the same calls again."""
BACKFILL_CALLS: Final = "DROP TABLE IF EXISTS pg_temp.backfill_calls"
BACKFILL_BEGIN: Final = """
INSERT INTO backfill_progress AS b (day, status, calls, written, end_only, differing)
VALUES (%(day)s, 'running', 0, 0, 0, 0)
ON CONFLICT (day) DO UPDATE SET status = 'running', cursor_project = NULL, cursor_call_id = NULL, calls = 0,
    written = 0, end_only = 0, differing = 0, updated_at = now()
WHERE b.status = 'differing'
"""
BACKFILL_FIND: Final = f"""
CREATE TEMPORARY TABLE backfill_calls AS
SELECT project, call_id, (row_number() OVER (ORDER BY project, call_id) - 1) / %(rows)s AS page FROM (
    SELECT DISTINCT p.project, p.call_id FROM call_parts p JOIN backfill_progress b ON b.day = %(day)s
    WHERE {_OF_DAY} AND (b.cursor_project IS NULL OR (p.project, p.call_id) > (b.cursor_project, b.cursor_call_id))
) calls ORDER BY project, call_id
"""
"""What is left of the day, found once: a page is then a range of this table."""
BACKFILL_INDEX: Final = "CREATE INDEX ON pg_temp.backfill_calls (page); ANALYZE pg_temp.backfill_calls"
BACKFILL_INSERT: Final = f"""
INSERT INTO calls_complete ({", ".join(_COLUMNS)})
SELECT {", ".join(f"calls.{column}" for column in _COLUMNS)}
FROM backfill_calls page CROSS JOIN LATERAL {_OF_PAGE} WHERE page.page = %(page)s
ORDER BY calls.project, calls.call_id ON CONFLICT DO NOTHING
"""
"""The rows that are not there. A live write of the same call is waited for, and then nothing is done."""
BACKFILL_LOCK_ROWS: Final = """
SELECT FROM calls_complete c JOIN backfill_calls page USING (project, call_id) WHERE page.page = %(page)s
ORDER BY project, call_id FOR UPDATE OF c
"""
BACKFILL_UPDATE: Final = f"""
UPDATE calls_complete c SET {", ".join(f"{column} = calls.{column}" for column in _COLUMNS[2:])}
FROM backfill_calls page CROSS JOIN LATERAL {_OF_PAGE}
WHERE page.page = %(page)s AND c.project = page.project AND c.call_id = page.call_id
    AND (c.start_digest, c.end_digest, c.detail_digest)
        IS DISTINCT FROM (calls.start_digest, calls.end_digest, calls.detail_digest)
"""
"""The rows that show other parts than they should. They are locked before, so that this statement sees every part whose
transaction has changed them."""
BACKFILL_ADVANCE: Final = """
UPDATE backfill_progress SET cursor_project = p.project, cursor_call_id = p.call_id, calls = calls + p.count,
    written = written + %(written)s, updated_at = now()
FROM (
    SELECT project, call_id, count(*) OVER () AS count FROM backfill_calls WHERE page = %(page)s
    ORDER BY project DESC, call_id DESC LIMIT 1
) p WHERE day = %(day)s
"""
BACKFILL_PAGES: Final = "SELECT page, count(*) FROM backfill_calls GROUP BY page ORDER BY page"
BACKFILL_END: Final = """
UPDATE backfill_progress SET status = %(status)s, end_only = %(end_only)s, differing = %(differing)s, updated_at = now()
WHERE day = %(day)s
"""
PARITY: Final = f"""
SELECT count(*), count(c.call_id),
    count(*) FILTER (WHERE c.call_id IS NOT NULL AND (c.start_digest, c.end_digest, c.detail_digest)
        IS DISTINCT FROM (m.start_digest, m.end_digest, m.detail_digest)),
    count(*) FILTER (WHERE m.end_digest IS NOT NULL AND m.start_digest IS NULL AND NOT m.self_contained)
FROM (SELECT DISTINCT project, call_id FROM call_parts WHERE {_OF_DAY}) k
CROSS JOIN LATERAL (SELECT * FROM calls_merged m WHERE m.project = k.project AND m.call_id = k.call_id OFFSET 0) m
LEFT JOIN calls_complete c ON c.project = k.project AND c.call_id = k.call_id
"""
OLDEST_DAY: Final = "SELECT (min(received_at) AT TIME ZONE 'UTC')::date FROM call_parts"
PAUSE: Final = "UPDATE backfill_control SET paused = %s"
PAUSED: Final = "SELECT paused FROM backfill_control"
PROBE: Final = "UPDATE backfill_control SET probed_at = now()"


def _milliseconds(column: str) -> str:
    return f"(extract(epoch FROM {column}) * 1000)::bigint"


BACKFILL_DAYS: Final = f"""
SELECT day, status, calls, written, end_only, differing, {_milliseconds("updated_at")} FROM backfill_progress
"""

SUMMARY: Final = f"""
SELECT project, call_id, state, late, agent_id, customer_number, environment, {_milliseconds("started_at")},
    {_milliseconds("ended_at")}, CASE WHEN duration_s >= 0 THEN duration_s END, reason, summary::text,
    {_milliseconds("first_part_at")}, {_milliseconds("completed_at")}, error, conflicts, detail_digest IS NOT NULL,
    (extract(epoch FROM listed_at) * 1000000)::bigint, start_digest, end_digest, detail_digest
FROM {{}}
"""
_PLACE: Final = (
    "timestamptz 'epoch' + %(place)s / 1000000 * interval '1 second' + %(place)s %% 1000000 * interval '1 microsecond'"
)
AFTER: Final = f"listed_at <= {_PLACE} AND (listed_at < {_PLACE} OR call_id > %(last_id)s)"
PARTS: Final = f"""
SELECT kind, event, digest, {_milliseconds("accepted_at")}, source_uid, core::text FROM call_parts
WHERE project = %(project)s AND call_id = %(call_id)s ORDER BY accepted_at, kind, digest
"""
SHOWN_DETAIL: Final = f"""
SELECT digest FROM call_parts WHERE project = %s AND call_id = %s AND kind = {PartKind.DETAIL:d}
ORDER BY accepted_at DESC, digest DESC LIMIT 1
"""
NEXT_FRAME: Final = """
SELECT seq, frame FROM call_details WHERE project = %s AND call_id = %s AND digest = %s AND seq > %s
ORDER BY seq LIMIT 1
"""
CHECKS: Final = {
    "details without frames": (
        f"SELECT count(*) FROM call_parts p WHERE kind = {PartKind.DETAIL:d} AND NOT EXISTS "
        "(SELECT 1 FROM call_details d WHERE d.project = p.project AND d.call_id = p.call_id AND d.digest = p.digest)"
    )
}
WAITING: Final = "SELECT count(*) FROM calls_complete WHERE due_at IS NOT NULL"
STATES: Final = "SELECT state, count(*) FROM calls_complete GROUP BY state"
VERSION: Final = "SELECT CASE WHEN to_regclass('store_version') IS NULL THEN 0 ELSE -1 END"
LATEST_VERSION: Final = "SELECT coalesce(max(version), 0) FROM store_version"
MIGRATION_LOCK: Final = "SELECT pg_advisory_xact_lock(7717771801)"
"""So that of several processes one migrates, and the others find it done."""

_NEEDED: Final = {
    "call_parts": "SELECT, INSERT", "calls_complete": "SELECT, INSERT, UPDATE", "call_details": "SELECT, INSERT",
    "spans": "SELECT, INSERT, DELETE", "detail_documents": "SELECT, INSERT", "calls_merged": "SELECT",
    "store_version": "SELECT",
    "completions": "SELECT, INSERT, UPDATE, DELETE", "backfill_progress": "SELECT, INSERT, UPDATE",
    "backfill_control": "SELECT, UPDATE",
}  # fmt: skip
_NEEDED_ROWS: Final = ", ".join(
    f"('{name}', '{right}')" for name, rights in _NEEDED.items() for right in rights.split(", ")
)
MISSING_RIGHTS: Final = f"""
WITH needed (name, privilege) AS (VALUES {_NEEDED_ROWS}), here AS (
    SELECT coalesce(
        current_schema(), nullif(btrim(split_part(current_setting('search_path'), ',', 1), ' "'), '$user'), 'public'
    ) AS schema, current_user AS role
), tables AS (
    SELECT n.name, n.privilege, c.oid FROM needed n CROSS JOIN here
    LEFT JOIN pg_namespace s ON s.nspname = here.schema
    LEFT JOIN pg_class c ON c.relname = n.name AND c.relnamespace = s.oid
)
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', schema, role) FROM here JOIN pg_namespace s ON s.nspname = schema
WHERE NOT has_schema_privilege(s.oid, 'USAGE')
UNION ALL
SELECT format('GRANT CREATE ON SCHEMA %I TO %I', schema, role) FROM here JOIN pg_namespace s ON s.nspname = schema
WHERE NOT has_schema_privilege(s.oid, 'CREATE') AND EXISTS (SELECT 1 FROM tables WHERE oid IS NULL)
UNION ALL
SELECT format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), role) FROM here
WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
UNION ALL
SELECT format('GRANT %s ON %I.%I TO %I', string_agg(privilege, ', ' ORDER BY privilege), schema, name, role)
FROM tables, here
WHERE oid IS NOT NULL AND NOT has_table_privilege(oid, privilege) GROUP BY schema, name, role
"""
"""One statement for each thing that the role lacks; of tables that are not there yet, the right to make them."""


# Arrays: the columns of a batch in PostgreSQL's binary format, so that one statement takes all rows: `unnest`.
#
# psycopg makes such arrays of lists, value by value; a document, which is bytes already, would be decoded and encoded
# for it and three times as long on its way.

_HEADER: Final = struct.Struct(">5i")
_LENGTH: Final = struct.Struct(">i")
_NULL: Final = _LENGTH.pack(-1)


class Element(IntEnum):
    """The types of elements, by their numbers in the catalogue of every PostgreSQL."""

    BYTEA = 17
    BIGINT = 20
    TEXT = 25
    JSON = 114


class Array:
    """Values of one type as they go over the wire, for a parameter that is cast to its array: `%(name)b::text[]`."""

    def __init__(self, element: Element, values: Iterable[bytes | None]) -> None:
        self.element = element
        self.values = list(values)

    def encoded(self) -> bytes:
        """One dimension that begins at 1, then each value behind its length."""
        pack, pieces = _LENGTH.pack, [_HEADER.pack(1, 1, self.element, len(self.values), 1)]
        for value in self.values:
            pieces += (_NULL,) if value is None else (pack(len(value)), value)
        return b"".join(pieces)


class _ArrayDumper(Dumper):
    """Leaves the type to the cast."""

    format = Format.BINARY

    def dump(self, obj: Array) -> bytes:
        """See `Dumper.dump`."""
        return obj.encoded()


psycopg.adapters.register_dumper(Array, _ArrayDumper)
