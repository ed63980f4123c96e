-- Calls that were erased by order: what is still to be done, and which posts are refused later.
BEGIN IMMEDIATE;

CREATE TABLE erasures (
    -- HMAC-SHA-256 of the call's id, keyed by `erasure_salt` of meta.
    call_hash  BLOB NOT NULL PRIMARY KEY,
    -- The id itself, until all of the call is erased; then NULL.
    call_id    TEXT,
    ordered_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (name, value) VALUES ('erasure_salt', randomblob(32));

PRAGMA user_version = 15;
COMMIT;
