-- What records need to be moved from one spool to another, and to be known as damaged.
BEGIN IMMEDIATE;

-- What a record is called outside, where that is not this spool's id and its number: it came from another spool.
ALTER TABLE records ADD COLUMN origin TEXT;
CREATE UNIQUE INDEX records_by_origin ON records (origin) WHERE origin IS NOT NULL;

-- CRC-32 of the columns that a delivery is made of (spool.db.sql.checksum_of); NULL for what was accepted before.
ALTER TABLE records ADD COLUMN checksum INTEGER;

PRAGMA user_version = 3;
COMMIT;
