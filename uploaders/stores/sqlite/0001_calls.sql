-- Calls by their parts. Times are milliseconds since the Unix epoch; kinds and states are the numbers of
-- uploaders.stores.parts.PartKind and uploaders.stores.completion.CallState. A migration carries its own BEGIN, COMMIT
-- and version, since executescript commits first.
BEGIN IMMEDIATE;

-- Every part that came, once. Its key makes retries and replays harmless.
CREATE TABLE call_parts (
    project         TEXT NOT NULL,
    call_id         TEXT NOT NULL,
    kind            INTEGER NOT NULL,
    digest          BLOB NOT NULL,
    event           TEXT NOT NULL,
    agent_id        TEXT,
    call_started_at INTEGER,
    call_ended_at   INTEGER,
    reason          TEXT,
    accepted_at     INTEGER NOT NULL,
    received_at     INTEGER NOT NULL,
    source_uid      TEXT NOT NULL,
    core            TEXT NOT NULL,
    detail_id       INTEGER,
    UNIQUE (project, call_id, kind, digest)
) STRICT;

-- One row for each call, made and changed in the transaction that writes its parts. `start_`, `end_` and `detail_` name
-- the part of that kind which is shown; the plain columns are what lists and filters need of these.
CREATE TABLE calls_complete (
    project            TEXT NOT NULL,
    call_id            TEXT NOT NULL,
    state              INTEGER NOT NULL,
    late               INTEGER NOT NULL,
    start_accepted_at  INTEGER,
    start_digest       BLOB,
    start_head         TEXT,
    end_accepted_at    INTEGER,
    end_digest         BLOB,
    end_head           TEXT,
    detail_accepted_at INTEGER,
    detail_digest      BLOB,
    self_contained     INTEGER NOT NULL,
    conflicts          INTEGER NOT NULL,
    first_part_at      INTEGER NOT NULL,
    due_at             INTEGER,
    completed_at       INTEGER,
    error              TEXT,
    agent_id           TEXT,
    customer_number    TEXT,
    environment        TEXT,
    started_at         INTEGER,
    ended_at           INTEGER,
    duration_s         REAL,
    reason             TEXT,
    summary            TEXT,
    listed_at          INTEGER NOT NULL,
    PRIMARY KEY (project, call_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX calls_by_time ON calls_complete (project, listed_at DESC);
CREATE INDEX calls_due ON calls_complete (due_at) WHERE due_at IS NOT NULL;

-- Details are written in bounded transactions ahead of their part: one is visible once `call_parts` names it, and
-- cleared by a later sweep if that never happens.
CREATE TABLE details (
    detail_id INTEGER PRIMARY KEY AUTOINCREMENT,
    staged_at INTEGER
) STRICT;
CREATE INDEX details_staged ON details (staged_at) WHERE staged_at IS NOT NULL;

-- The frames of details, as the spool had them: their concatenation is a .zst file.
CREATE TABLE call_details (
    detail_id INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    frame     BLOB NOT NULL,
    PRIMARY KEY (detail_id, seq)
) STRICT;

-- The spans of the detail that a call shows.
CREATE TABLE spans (
    project        TEXT NOT NULL,
    call_id        TEXT NOT NULL,
    seq            INTEGER NOT NULL,
    trace_id       TEXT,
    span_id        TEXT,
    parent_span_id TEXT,
    name           TEXT,
    operation      TEXT,
    start_ns       INTEGER,
    duration_ns    INTEGER,
    status         INTEGER,
    error          INTEGER NOT NULL,
    PRIMARY KEY (project, call_id, seq)
) STRICT, WITHOUT ROWID;

PRAGMA application_id = 0x63616c6c;
PRAGMA user_version = 1;
COMMIT;
