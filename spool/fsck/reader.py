"""What a check reads: the inspection of a spool beside a running gateway or where none runs, and its statements."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spool.db.connection import reading
from spool.db.sql import COUNTER_COLUMNS
from spool.directory import DATABASE_NAME
from spool.records import FRAGMENTS_OF

Tell = Callable[[str, int, int], None]
"""Hears of progress: what is being checked, how much of it is done, and how much there is (0: not known)."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A spool that is being looked into."""

    directory: Path
    connection: sqlite3.Connection
    live: bool
    """Whether a gateway owns it at the moment."""
    tell: Tell


@contextmanager
def inspecting(directory: Path, *, live: bool, tell: Tell) -> Iterator[Inspection]:
    """Look into the spool in `directory`."""
    with reading(directory / DATABASE_NAME, live=live) as connection:
        yield Inspection(directory, connection, live, tell)


# What a check asks of the database, named; all of it reads only.

META = "SELECT name FROM meta"
LARGEST_RECORD = "SELECT max(record_id) FROM records"
SEQUENCE = "SELECT seq FROM sqlite_sequence WHERE name = 'records'"

OPEN_RECORDS = (
    "SELECT record_id, call_id, first_chunk, fragments, stored_bytes FROM records WHERE settled_at IS NULL "
    "ORDER BY first_chunk"
)
CHUNK_IDS = "SELECT chunk_id FROM chunks ORDER BY chunk_id"
CHUNKS_BETWEEN = "SELECT chunk_id, crc32, frame FROM chunks WHERE chunk_id BETWEEN ? AND ? ORDER BY chunk_id"
ORPHANS = "SELECT first_chunk, last_chunk FROM orphan_chunks ORDER BY first_chunk"

# All of a record's deliveries lie side by side, so this needs no sorting.
DELIVERIES = (
    "SELECT d.record_id, r.call_id, r.record_id IS NULL, r.settled_at IS NOT NULL, d.destination_id, "
    "n.name, d.form, d.lane, d.state, d.ordered, d.after_destination_id, d.held_for, d.settled_at, d.attempts, "
    "r.principal "
    "FROM deliveries d LEFT JOIN records r USING (record_id) LEFT JOIN destinations n USING (destination_id) "
    "ORDER BY d.record_id"
)
OPEN_WITHOUT_DELIVERY = (
    "SELECT record_id, call_id FROM records r WHERE settled_at IS NULL AND NOT EXISTS "
    "(SELECT 1 FROM deliveries d WHERE d.record_id = r.record_id AND +d.state <= 3)"
)

COUNTERS = f"SELECT destination_id, lane, {COUNTER_COLUMNS} FROM counters"
DESTINATIONS = "SELECT destination_id, name FROM destinations"
_PARTS = ", ".join(f"('{form}', '$.{part}[1]')" for form, parts in FRAGMENTS_OF.items() for part in parts)
# As `Record.bytes_of`; a record whose fragments cannot be read carries none.
BYTES_OF_FORM = (
    f"(SELECT coalesce(sum(json_extract(r.fragments, p.column2)), 0) FROM (VALUES {_PARTS}) p "
    "WHERE p.column1 = d.form AND json_valid(r.fragments))"
)
COUNTED = (
    f"SELECT d.destination_id, d.lane, d.state, count(*), sum({BYTES_OF_FORM}) FROM deliveries d "
    "JOIN records r USING (record_id) GROUP BY d.destination_id, d.lane, d.state"
)

TOKENS = "SELECT token_id, uses FROM tokens"
TOKEN_USES = (
    "SELECT token_id, count(*) FROM (SELECT token_id FROM records UNION ALL SELECT token_id FROM uploads "
    "UNION ALL SELECT token_id FROM traces UNION ALL SELECT token_id FROM live_calls) "
    "WHERE token_id IS NOT NULL GROUP BY token_id"
)
TRACES = """
    SELECT trace_id, principal, sum(counted), sum(counted_bytes), sum(found), sum(found_bytes) FROM (
        SELECT trace_id, principal, spans AS counted, raw_bytes AS counted_bytes, 0 AS found, 0 AS found_bytes,
            1 AS known
        FROM traces UNION ALL SELECT trace_id, principal, 0, 0, spans, raw_bytes, 0 FROM trace_rows
    ) GROUP BY trace_id, principal
    HAVING sum(counted) != sum(found) OR sum(counted_bytes) != sum(found_bytes) OR NOT max(known)
"""
LIVE_CALLS = """
    SELECT call_id, principal, sum(counted), sum(counted_bytes), sum(found), sum(found_bytes) FROM (
        SELECT call_id, principal, turns AS counted, raw_bytes AS counted_bytes, 0 AS found, 0 AS found_bytes,
            1 AS known
        FROM live_calls UNION ALL SELECT call_id, principal, 0, 0, turn != 'about', raw_bytes, 0 FROM live_turns
    ) GROUP BY call_id, principal
    HAVING sum(counted) != sum(found) OR sum(counted_bytes) != sum(found_bytes) OR NOT max(known)
"""
TURN_ROWS = "SELECT row_id FROM live_turns ORDER BY row_id"
TURNS = "SELECT call_id, crc32, frame FROM live_turns WHERE row_id = ?"
SPAN_ROWS = "SELECT row_id FROM trace_rows ORDER BY row_id"
SPANS = "SELECT trace_id, crc32, frame FROM trace_rows WHERE row_id = ?"
WITHOUT_TOKEN = (
    "SELECT record_id, call_id FROM records r WHERE token_id IS NOT NULL AND NOT EXISTS "
    "(SELECT 1 FROM tokens t WHERE t.token_id = r.token_id)"
)
STRAY_PARTS = (
    "SELECT DISTINCT p.record_id, p.destination_id, p.form FROM multipart_parts p LEFT JOIN multiparts m "
    "USING (record_id, destination_id, form) WHERE m.record_id IS NULL"
)

# Repairs

# Dead letters whose reason says that what the spool has of them is damaged: nothing more is to be done about them.
QUARANTINED = (
    "SELECT record_id FROM deliveries WHERE +state <= 3 GROUP BY record_id "
    "HAVING min(state) = 3 AND min(coalesce(error, '') LIKE 'corrupt:%')"
)
BURY_RECORD = (
    "UPDATE deliveries SET state = 3, settled_at = ?, held_for = NULL, error = ? WHERE record_id = ? AND +state <= 3"
)
BURY_DELIVERY = (
    "UPDATE deliveries SET state = 3, settled_at = ?, held_for = NULL, attempts = max(0, attempts), error = ? "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
COUNT_TRACE = """
    INSERT INTO traces (trace_id, principal, first_at, last_at, spans, raw_bytes)
    SELECT trace_id, principal, :now, :now, 0, 0 FROM trace_rows
    WHERE trace_id = :trace_id AND principal = :principal LIMIT 1
    ON CONFLICT DO NOTHING;
"""
SUM_TRACE = """
    UPDATE traces SET
        spans = (SELECT coalesce(sum(r.spans), 0) FROM trace_rows r
            WHERE r.trace_id = traces.trace_id AND r.principal = traces.principal),
        raw_bytes = (SELECT coalesce(sum(r.raw_bytes), 0) FROM trace_rows r
            WHERE r.trace_id = traces.trace_id AND r.principal = traces.principal)
    WHERE trace_id = :trace_id AND principal = :principal
"""
COUNT_LIVE = """
    INSERT INTO live_calls (call_id, principal, first_at, last_at, turns, raw_bytes, version, open)
    SELECT call_id, principal, :now, :now, 0, 0, 1, 1 FROM live_turns
    WHERE call_id = :call_id AND principal = :principal LIMIT 1
    ON CONFLICT DO NOTHING
"""
SUM_LIVE = """
    UPDATE live_calls SET (turns, raw_bytes) = (
        SELECT coalesce(sum(t.turn != 'about'), 0), coalesce(sum(t.raw_bytes), 0) FROM live_turns t
        WHERE t.call_id = live_calls.call_id AND t.principal = live_calls.principal
    ) WHERE call_id = :call_id AND principal = :principal
"""
LANE_OF = "SELECT lane FROM deliveries WHERE record_id = ? AND destination_id = ? AND form = ?"
FORGET_SEQUENCE = "DELETE FROM sqlite_sequence WHERE name = 'records'"
SET_SEQUENCE = "INSERT INTO sqlite_sequence (name, seq) VALUES ('records', ?)"
FORGET_COUNTER = "DELETE FROM counters WHERE destination_id = ? AND lane = ?"
SETTLE = "UPDATE records SET settled_at = ?, token_id = NULL WHERE record_id = ?"
