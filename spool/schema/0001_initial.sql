-- The first schema. A migration carries its own BEGIN, COMMIT and version, since executescript commits first.
-- Times are milliseconds since the Unix epoch; states are the numbers of spool.records.DeliveryState.
BEGIN IMMEDIATE;

-- Facts about this spool: its id, when it was made, the quota that was worked out at the first start.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- Every destination that was ever owed something. Names come and go with the configuration, rows stay.
CREATE TABLE destinations (
    destination_id INTEGER PRIMARY KEY,
    name           TEXT NOT NULL UNIQUE
) STRICT;

-- How deliveries stand, kept in the transactions that move them, so that nothing ever has to be counted.
CREATE TABLE counters (
    destination_id INTEGER NOT NULL,
    lane           TEXT NOT NULL,
    owed           INTEGER NOT NULL DEFAULT 0,
    ready          INTEGER NOT NULL DEFAULT 0,
    waiting        INTEGER NOT NULL DEFAULT 0,
    held           INTEGER NOT NULL DEFAULT 0,
    dead           INTEGER NOT NULL DEFAULT 0,
    delivered      INTEGER NOT NULL DEFAULT 0,
    expired        INTEGER NOT NULL DEFAULT 0,
    discarded      INTEGER NOT NULL DEFAULT 0,
    queued_bytes   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (destination_id, lane)
) STRICT, WITHOUT ROWID;

-- The agents' own tokens, here and nowhere else; overwritten and deleted when nothing uses them any more.
-- AUTOINCREMENT: whoever remembers an id must never find another agent's token under it.
CREATE TABLE tokens (
    token_id   INTEGER PRIMARY KEY AUTOINCREMENT,
    token_hash BLOB NOT NULL UNIQUE,
    value      TEXT NOT NULL,
    uses       INTEGER NOT NULL
) STRICT;

-- Accepted call logs. With settled_at a row is a receipt: its payload, token and chunks are gone.
-- AUTOINCREMENT: an id is never used twice, for keys that destinations remember are made of it.
CREATE TABLE records (
    record_id    INTEGER PRIMARY KEY AUTOINCREMENT,
    call_id      TEXT NOT NULL,
    agent_id     TEXT,
    event        TEXT NOT NULL,
    environment  TEXT,
    digest       BLOB NOT NULL,
    raw_bytes    INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    accepted_at  INTEGER NOT NULL,
    token_id     INTEGER,
    first_chunk  INTEGER NOT NULL,
    fragments    TEXT NOT NULL,
    superseded   INTEGER NOT NULL DEFAULT 0,
    settled_at   INTEGER
) STRICT;
CREATE INDEX records_by_call ON records (call_id);
CREATE INDEX receipts_by_age ON records (settled_at) WHERE settled_at IS NOT NULL;

-- Stored frames. A record's chunks have consecutive ids, so that they are read and deleted as one range.
CREATE TABLE chunks (
    chunk_id INTEGER PRIMARY KEY,
    crc32    INTEGER NOT NULL,
    frame    BLOB NOT NULL
) STRICT;

-- Ranges of chunks that belong to no record: still coming in, or on their way out. All of it is deleted at start.
CREATE TABLE loose_chunks (
    first_chunk INTEGER PRIMARY KEY,
    last_chunk  INTEGER NOT NULL
) STRICT;

-- What is owed to whom. A record's deliveries lie side by side.
CREATE TABLE deliveries (
    record_id            INTEGER NOT NULL,
    destination_id       INTEGER NOT NULL,
    form                 TEXT NOT NULL,
    lane                 TEXT NOT NULL,
    state                INTEGER NOT NULL,
    ordered              INTEGER NOT NULL,
    after_destination_id INTEGER,
    attempts             INTEGER NOT NULL DEFAULT 0,
    due_at               INTEGER NOT NULL,
    first_failed_at      INTEGER,
    settled_at           INTEGER,
    held_for             INTEGER,
    location             TEXT,
    error                TEXT,
    PRIMARY KEY (record_id, destination_id, form)
) STRICT, WITHOUT ROWID;
-- The queue and the dead letters: one lookup for the oldest of any state, one range for what is due.
-- The plus keeps the planner from using "state <= 3" as a range instead of "state = 0": it would sort the whole lane.
CREATE INDEX deliveries_open ON deliveries (destination_id, lane, state, record_id, due_at) WHERE +state <= 3;
-- What is set aside, by what for; costs nothing for all that is not.
CREATE INDEX deliveries_held ON deliveries (destination_id, held_for, lane, record_id) WHERE state = 2;

-- Addresses given to agents for a PUT. Only the hash of an address's key is kept.
CREATE TABLE uploads (
    key_hash   BLOB NOT NULL PRIMARY KEY,
    s3_key     TEXT NOT NULL UNIQUE,
    call_id    TEXT NOT NULL,
    token_id   INTEGER,
    expires_at INTEGER NOT NULL,
    record_uid TEXT,
    digest     BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_by_expiry ON uploads (expires_at);

PRAGMA user_version = 1;
COMMIT;
