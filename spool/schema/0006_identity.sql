-- Whose a record is, and when its event happened; since when a delivery is deferred, and for whom; the field's names.
BEGIN IMMEDIATE;

-- The tenant that a record belongs to; NULL: none.
ALTER TABLE records ADD COLUMN tenant TEXT;
-- Whose posts may repeat, follow or supersede each other (spool.records.principal_of): the tenant, else a digest of the
-- sender's key; '' where there is neither, NULL where it is not known, as for everything accepted before this version.
ALTER TABLE records ADD COLUMN principal TEXT;
-- When the event happened, by the sender's own times; NULL: they do not say.
ALTER TABLE records ADD COLUMN happened_at INTEGER;
-- A digest of the Idempotency-Key that the sender gave; NULL: none.
ALTER TABLE records ADD COLUMN post_key BLOB;

-- The posts of a call are looked up for one principal. One index for both, since each costs a page a post.
DROP INDEX records_by_call;
CREATE INDEX records_by_call ON records (call_id, principal);

-- When a delivery was deferred; NULL: it was not, and is due whatever its time says.
ALTER TABLE deliveries ADD COLUMN deferred_at INTEGER;
-- Whether it was deferred until its destination accepts deliveries again, and not for a reason of its own.
ALTER TABLE deliveries ADD COLUMN for_destination INTEGER NOT NULL DEFAULT 0;
-- What is deferred now stays so, and becomes due with its destination, as before this version.
UPDATE deliveries SET deferred_at = 0, for_destination = 1
    WHERE state = 0 AND due_at BETWEEN strftime('%s', 'now') * 1000 AND (strftime('%s', 'now') + 86400) * 1000;

-- Chunks that no record owns are orphans.
ALTER TABLE loose_chunks RENAME TO orphan_chunks;

-- Causes of open circuit breakers are identifiers.
UPDATE breakers SET cause = 'backing_off' WHERE cause = 'backing off';

PRAGMA user_version = 6;
COMMIT;
