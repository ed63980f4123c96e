-- What is made of calls after they ended. The statements are in uploaders.stores.pipeline, for every engine the same;
-- times are milliseconds since the Unix epoch, states the numbers of JobState. The full-text index is made where a
-- pipeline is used: not every SQLite has FTS5.
BEGIN IMMEDIATE;

-- The queue: a row for each call, with what is needed of it. Rows are kept, so that a step can be done anew.
CREATE TABLE pipeline_jobs (
    project       TEXT NOT NULL,
    call_id       TEXT NOT NULL,
    accepted_at   INTEGER NOT NULL,
    digest        BLOB NOT NULL,
    text          BLOB NOT NULL,
    state         INTEGER NOT NULL,
    due_at        INTEGER NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    bad_answers   INTEGER NOT NULL DEFAULT 0,
    asking        INTEGER NOT NULL DEFAULT 0,
    claimed_by    TEXT,
    claimed_until INTEGER NOT NULL DEFAULT 0,
    reason        TEXT,
    PRIMARY KEY (project, call_id)
) STRICT;
CREATE INDEX pipeline_jobs_waiting ON pipeline_jobs (state, project, due_at);

-- The journal: what each step made, and of what. A step whose input is the same is not done again.
CREATE TABLE pipeline_steps (
    project    TEXT NOT NULL,
    call_id    TEXT NOT NULL,
    step       TEXT NOT NULL,
    input_hash BLOB NOT NULL,
    output     BLOB NOT NULL,
    made_by    TEXT NOT NULL,
    made_at    INTEGER NOT NULL,
    PRIMARY KEY (project, call_id, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE call_insights (
    insight_id      INTEGER PRIMARY KEY,
    project         TEXT NOT NULL,
    call_id         TEXT NOT NULL,
    summary         TEXT NOT NULL,
    summary_source  TEXT NOT NULL,
    sentiment       TEXT,
    agent_id        TEXT,
    customer_number TEXT,
    listed_at       INTEGER NOT NULL,
    made_at         INTEGER NOT NULL,
    UNIQUE (project, call_id)
) STRICT;
CREATE INDEX call_insights_by_time ON call_insights (project, listed_at);

-- In the order in which a tenant's are read: one after the other.
CREATE TABLE call_vectors (
    project TEXT NOT NULL,
    model   TEXT NOT NULL,
    call_id TEXT NOT NULL,
    vector  BLOB NOT NULL,
    PRIMARY KEY (project, model, call_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE callbacks (
    project       TEXT NOT NULL,
    call_id       TEXT NOT NULL,
    due_at        INTEGER NOT NULL,
    zone          TEXT NOT NULL,
    words         TEXT NOT NULL,
    number        TEXT NOT NULL,
    agent_id      TEXT,
    state         TEXT NOT NULL,
    reason        TEXT,
    created_at    INTEGER NOT NULL,
    fired_at      INTEGER,
    record_uid    TEXT,
    claimed_by    TEXT,
    claimed_until INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (project, call_id)
) STRICT;
CREATE INDEX callbacks_due ON callbacks (state, due_at);
CREATE INDEX callbacks_by_number ON callbacks (project, number, fired_at);

CREATE TABLE do_not_call (
    project TEXT NOT NULL,
    number  TEXT NOT NULL,
    since   INTEGER NOT NULL,
    PRIMARY KEY (project, number)
) STRICT, WITHOUT ROWID;

-- What models were asked for, by day (UTC).
CREATE TABLE model_usage (
    project    TEXT NOT NULL,
    day        TEXT NOT NULL,
    requests   INTEGER NOT NULL,
    tokens     INTEGER NOT NULL,
    PRIMARY KEY (project, day)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 5;
COMMIT;
