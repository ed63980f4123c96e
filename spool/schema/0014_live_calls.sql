-- Calls that are watched while they go on: by heartbeats, and by the turns of their conversation.
BEGIN IMMEDIATE;

CREATE TABLE live_calls (
    call_id TEXT NOT NULL,
    -- Whose it is: the same call id of two principals is two calls.
    principal TEXT NOT NULL,
    agent_id TEXT,
    -- The sender's key in `tokens`, while it is needed.
    token_id INTEGER,
    -- When it began, by its agent's own times.
    started_at INTEGER,
    -- When it was heard of for the first and for the last time, by the clock of this machine.
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    -- How many turns it has in live_turns, and of how many bytes all of its rows there are.
    turns INTEGER NOT NULL,
    raw_bytes INTEGER NOT NULL,
    -- Grows with each write: a call log that was made of it is of this version, or is not accepted.
    version INTEGER NOT NULL,
    -- 0: its agent is lost, and a call log says so; it is kept for a while, in case the agent is heard of again.
    open INTEGER NOT NULL,
    PRIMARY KEY (call_id, principal)
) STRICT, WITHOUT ROWID;

-- One for each turn, in the order in which they came, and one for what the agent says of its call.
CREATE TABLE live_turns (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    call_id TEXT NOT NULL,
    principal TEXT NOT NULL,
    -- What makes it the same turn when it is posted again; 'about' is what the agent says of its call.
    turn TEXT NOT NULL,
    -- Its place in the conversation, where its agent says that.
    place INTEGER,
    -- A turn as it was posted, a JSON object; of 'about' the members of one, without the braces.
    raw_bytes INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    frame BLOB NOT NULL,
    -- Its data key, where it is encrypted.
    key_epoch INTEGER,
    payload_key BLOB
) STRICT;

CREATE UNIQUE INDEX live_turns_by_call ON live_turns (call_id, principal, turn);
CREATE INDEX live_turns_by_epoch ON live_turns (key_epoch) WHERE key_epoch IS NOT NULL;

PRAGMA user_version = 14;
COMMIT;
