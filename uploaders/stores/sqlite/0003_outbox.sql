-- Calls that became complete and are still to be announced; written only where somebody subscribes to `call_complete`.
BEGIN IMMEDIATE;

CREATE TABLE completions (
    completion_id INTEGER PRIMARY KEY,
    project       TEXT NOT NULL,
    call_id       TEXT NOT NULL,
    claimed_by    TEXT,
    claimed_at    INTEGER,
    UNIQUE (project, call_id)
) STRICT;

PRAGMA user_version = 3;
COMMIT;
