-- The old path beside the new one: `calls_merged` makes each call of its parts when it is asked, `calls_complete` holds
-- what was made when they came. A backfill brings the second up to date from `call_parts`, a day at a time.
BEGIN IMMEDIATE;

-- What lists need of a document, so that a call can be made of its parts again without reading documents.
ALTER TABLE call_parts ADD COLUMN head TEXT;
UPDATE call_parts AS p SET head = coalesce(
    (SELECT c.start_head FROM calls_complete c
     WHERE c.project = p.project AND c.call_id = p.call_id AND p.kind = 1 AND c.start_digest = p.digest),
    (SELECT c.end_head FROM calls_complete c
     WHERE c.project = p.project AND c.call_id = p.call_id AND p.kind IN (2, 3) AND c.end_digest = p.digest),
    json_patch('{}', json_object('agent_id', p.agent_id, 'started_at', p.call_started_at, 'ended_at', p.call_ended_at,
                                 'reason', p.reason)));

CREATE INDEX call_parts_by_time ON call_parts (received_at);
CREATE INDEX calls_by_agent ON calls_complete (project, agent_id, listed_at DESC) WHERE agent_id IS NOT NULL;
CREATE INDEX calls_by_number ON calls_complete (project, customer_number, listed_at DESC)
    WHERE customer_number IS NOT NULL;

-- `state` is what the parts say; whether a call has been waited for long enough is up to who asks. `waits_since` is when
-- it began to wait for its other part.
CREATE VIEW calls_merged AS
WITH merged AS (
    SELECT project, call_id,
        min(received_at) AS first_part_at,
        min(CASE WHEN kind = 1 THEN received_at END) AS start_received_at,
        min(CASE WHEN kind IN (2, 3) THEN received_at END) AS end_received_at,
        min(CASE WHEN kind = 3 THEN received_at END) AS call_received_at,
        max(kind = 3) AS self_contained,
        max(sum(kind = 1) - 1, 0) + max(sum(kind IN (2, 3)) - 1, 0) AS conflicts
    FROM call_parts GROUP BY project, call_id
)
SELECT m.project, m.call_id,
    CASE WHEN m.self_contained OR (s.digest IS NOT NULL AND e.digest IS NOT NULL) THEN 3
         WHEN e.digest IS NOT NULL THEN 2 WHEN s.digest IS NOT NULL THEN 1 ELSE 0 END AS state,
    CASE WHEN m.self_contained OR (s.digest IS NOT NULL AND e.digest IS NOT NULL) THEN NULL
         ELSE coalesce(m.end_received_at, m.start_received_at, m.first_part_at) END AS waits_since,
    m.start_received_at, m.end_received_at,
    s.accepted_at AS start_accepted_at, s.digest AS start_digest, s.head AS start_head,
    e.accepted_at AS end_accepted_at, e.digest AS end_digest, e.head AS end_head,
    d.accepted_at AS detail_accepted_at, d.digest AS detail_digest,
    m.self_contained, m.conflicts, m.first_part_at,
    coalesce(min(m.call_received_at, max(m.start_received_at, m.end_received_at)), m.call_received_at,
             max(m.start_received_at, m.end_received_at)) AS completed_at,
    coalesce(json_extract(e.head, '$.agent_id'), json_extract(s.head, '$.agent_id')) AS agent_id,
    coalesce(json_extract(e.head, '$.customer_number'), json_extract(s.head, '$.customer_number')) AS customer_number,
    coalesce(json_extract(e.head, '$.environment'), json_extract(s.head, '$.environment')) AS environment,
    coalesce(json_extract(e.head, '$.started_at'), json_extract(s.head, '$.started_at')) AS started_at,
    coalesce(json_extract(e.head, '$.ended_at'), json_extract(s.head, '$.ended_at')) AS ended_at,
    (coalesce(json_extract(e.head, '$.ended_at'), json_extract(s.head, '$.ended_at'))
     - coalesce(json_extract(e.head, '$.started_at'), json_extract(s.head, '$.started_at'))) / 1000.0 AS duration_s,
    coalesce(json_extract(e.head, '$.reason'), json_extract(s.head, '$.reason')) AS reason,
    coalesce(json_extract(e.head, '$.summary'), json_extract(s.head, '$.summary')) AS summary,
    coalesce(json_extract(e.head, '$.started_at'), json_extract(s.head, '$.started_at'), m.first_part_at) AS listed_at
FROM merged m
LEFT JOIN call_parts s ON s.rowid = (
    SELECT p.rowid FROM call_parts p WHERE p.project = m.project AND p.call_id = m.call_id AND p.kind = 1
    ORDER BY p.accepted_at DESC, p.digest DESC LIMIT 1)
LEFT JOIN call_parts e ON e.rowid = (
    SELECT p.rowid FROM call_parts p WHERE p.project = m.project AND p.call_id = m.call_id AND p.kind IN (2, 3)
    ORDER BY p.accepted_at DESC, p.digest DESC LIMIT 1)
LEFT JOIN call_parts d ON d.rowid = (
    SELECT p.rowid FROM call_parts p WHERE p.project = m.project AND p.call_id = m.call_id AND p.kind = 5
    ORDER BY p.accepted_at DESC, p.digest DESC LIMIT 1);

-- A row for each day (UTC) that a backfill has begun; the cursor is moved in the transaction that writes the rows.
CREATE TABLE backfill_progress (
    day            TEXT PRIMARY KEY,
    status         TEXT NOT NULL,
    cursor_project TEXT,
    cursor_call_id TEXT,
    calls          INTEGER NOT NULL,
    written        INTEGER NOT NULL,
    end_only       INTEGER NOT NULL,
    differing      INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: whether backfills have been asked to pause, and what their probe of the commit latency writes.
CREATE TABLE backfill_control (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    paused    INTEGER NOT NULL,
    probed_at INTEGER NOT NULL
) STRICT;
INSERT INTO backfill_control VALUES (1, 0, 0);

PRAGMA user_version = 2;
COMMIT;
