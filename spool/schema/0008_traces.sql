-- Spans of calls that are still going on: they become one call log when their trace is closed.
BEGIN IMMEDIATE;

CREATE TABLE traces (
    -- 16 bytes, as OpenTelemetry has them.
    trace_id BLOB PRIMARY KEY,
    -- What the spans said of the call, as soon as any did.
    call_id TEXT,
    agent_id TEXT,
    principal TEXT NOT NULL,
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
    closed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- One for each post and trace: a frame of JSON spans, apart by line breaks.
CREATE TABLE trace_rows (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    trace_id BLOB NOT NULL,
    crc32 INTEGER NOT NULL,
    frame BLOB NOT NULL
);

CREATE INDEX trace_rows_by_trace ON trace_rows (trace_id, row_id);

PRAGMA user_version = 8;
COMMIT;
