-- What is encrypted where a key is configured: payloads, agents' tokens, spans. Keys of epochs lie in `spool.keys`.
BEGIN IMMEDIATE;

-- The data key of a record's payload, wrapped by the key of an epoch; NULL: its frames are plain, or are gone.
ALTER TABLE records ADD COLUMN key_epoch INTEGER;
ALTER TABLE records ADD COLUMN payload_key BLOB;
-- Whose keys have to be wrapped anew when an epoch ends; nothing where no key is configured.
CREATE INDEX records_by_epoch ON records (key_epoch) WHERE key_epoch IS NOT NULL;

-- The epoch by whose key a token is encrypted; its value is base64 then. NULL: it is plain.
ALTER TABLE tokens ADD COLUMN key_epoch INTEGER;

-- The data key of the spans in a row.
ALTER TABLE trace_rows ADD COLUMN key_epoch INTEGER;
ALTER TABLE trace_rows ADD COLUMN payload_key BLOB;
CREATE INDEX trace_rows_by_epoch ON trace_rows (key_epoch) WHERE key_epoch IS NOT NULL;

PRAGMA user_version = 13;
COMMIT;
