-- What a list of calls shows of each, and what came of the attempts to deliver.
BEGIN IMMEDIATE;

-- The number of the caller without its middle, how long the call took (ms), and why it ended; NULL: it does not say.
ALTER TABLE records ADD COLUMN number_hint TEXT;
ALTER TABLE records ADD COLUMN length_ms INTEGER;
ALTER TABLE records ADD COLUMN ended_reason TEXT;

-- Attempts that failed, and the one that succeeded after them: the first of a delivery and the latest 19. What was
-- delivered at once has none; they go with their record.
CREATE TABLE attempts (
    record_id      INTEGER NOT NULL,
    destination_id INTEGER NOT NULL,
    form           TEXT NOT NULL,
    number         INTEGER NOT NULL,
    ended_at       INTEGER NOT NULL,
    -- How long it took in milliseconds; NULL: nothing was sent.
    took           INTEGER,
    outcome        TEXT NOT NULL,
    -- What the destination answered, or why nothing was sent.
    answer         TEXT NOT NULL,
    PRIMARY KEY (record_id, destination_id, form, number)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 12;
COMMIT;
