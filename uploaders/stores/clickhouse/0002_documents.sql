-- Spans and details as JSON that SQL can read, where a store is to keep them.

ALTER TABLE spans ADD COLUMN IF NOT EXISTS body Nullable(String) CODEC(ZSTD(1));

CREATE TABLE IF NOT EXISTS detail_documents (
    project  String,
    call_id  String,
    digest   String,
    document String CODEC(ZSTD(1))
) ENGINE = ReplacingMergeTree ORDER BY (project, call_id, digest)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

INSERT INTO store_version (version) VALUES (2);
