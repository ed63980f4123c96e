-- A trace belongs to who posts it: the same trace id of two principals is two traces.
BEGIN IMMEDIATE;

CREATE TABLE owned_traces (
    -- 16 bytes, as OpenTelemetry has them.
    trace_id BLOB NOT NULL,
    principal TEXT NOT NULL,
    -- What the spans said of the call, as soon as any did.
    call_id TEXT,
    agent_id TEXT,
    -- The sender's key in `tokens`, while it is needed.
    token_id INTEGER,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    -- When its root span came, which ends last; NULL: not yet.
    root_at INTEGER,
    -- Of what waits in trace_rows.
    spans INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    -- How many call logs were made of it: what comes after the first is an update.
    closed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (trace_id, principal)
) STRICT, WITHOUT ROWID;

INSERT INTO owned_traces
    SELECT trace_id, principal, call_id, agent_id, token_id, first_at, last_at, root_at, spans, raw_bytes, closed
    FROM traces;

-- One for each post and trace, or several for a large one: a frame of OTLP spans, in the encoding that they came in. The
-- rows of before are spans in the form of call logs; how many there are in each was not counted, only for the trace.
CREATE TABLE owned_rows (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id BLOB NOT NULL,
    principal TEXT NOT NULL,
    spans INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    frame BLOB NOT NULL
) STRICT;

INSERT INTO owned_rows
    SELECT row_id, trace_id, principal, iif(first, spans, 0), iif(first, raw_bytes, 0), crc32, frame
    FROM (
        SELECT r.*, t.principal, t.spans, t.raw_bytes,
            r.row_id = min(r.row_id) OVER (PARTITION BY r.trace_id) AS first
        FROM trace_rows r JOIN traces t USING (trace_id)
    );

DROP TABLE trace_rows;
DROP TABLE traces;
ALTER TABLE owned_traces RENAME TO traces;
ALTER TABLE owned_rows RENAME TO trace_rows;
CREATE INDEX trace_rows_by_trace ON trace_rows (trace_id, principal, row_id);

PRAGMA user_version = 11;
COMMIT;
