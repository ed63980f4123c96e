-- Spans and details as JSON that SQL can read, where a store is to keep them.
BEGIN IMMEDIATE;

ALTER TABLE spans ADD COLUMN body TEXT;

CREATE TABLE detail_documents (
    project  TEXT NOT NULL,
    call_id  TEXT NOT NULL,
    digest   BLOB NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (project, call_id, digest)
) STRICT;

PRAGMA user_version = 4;
COMMIT;
