-- Lists of calls that are not complete (state 3), which are few among many: without this a list of them reads all.
BEGIN IMMEDIATE;

CREATE INDEX calls_by_state ON calls_complete (project, state, listed_at DESC, call_id) WHERE state <> 3;

PRAGMA user_version = 6;
COMMIT;
