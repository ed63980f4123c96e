-- Of which detail frames are: those that never got their part are found by their call, and erased with it.

ALTER TABLE call_details ADD COLUMN IF NOT EXISTS project String, ADD COLUMN IF NOT EXISTS call_id String,
    ADD COLUMN IF NOT EXISTS digest String;

INSERT INTO store_version (version) VALUES (4);
