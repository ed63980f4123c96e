-- Calls that became complete and are still to be announced; written only where somebody subscribes to `call_complete`.
-- What was announced stays for a month, so that a batch that is written again announces nothing twice.

CREATE TABLE IF NOT EXISTS completions (
    project      String,
    call_id      String,
    completed_at Int64,
    claimed_by   String,
    claimed_at   Int64,
    told         Bool,
    version      UInt64
) ENGINE = ReplacingMergeTree(version) ORDER BY (project, call_id)
TTL toDateTime(intDiv(completed_at, 1000)) + INTERVAL 30 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

INSERT INTO store_version (version) VALUES (3);
