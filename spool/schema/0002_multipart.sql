-- Progress of multipart uploads, so that one goes on after a crash with the next part.
BEGIN IMMEDIATE;

-- The upload that was begun for a delivery. A delivery has one at a time.
CREATE TABLE multiparts (
    record_id      INTEGER NOT NULL,
    destination_id INTEGER NOT NULL,
    form           TEXT NOT NULL,
    bucket         TEXT NOT NULL,
    object_key     TEXT NOT NULL,
    upload_id      TEXT NOT NULL,
    part_bytes     INTEGER NOT NULL,
    PRIMARY KEY (record_id, destination_id, form)
) STRICT, WITHOUT ROWID;

-- Its parts: written before a part is sent, and again with its ETag once that was answered.
CREATE TABLE multipart_parts (
    record_id      INTEGER NOT NULL,
    destination_id INTEGER NOT NULL,
    form           TEXT NOT NULL,
    number         INTEGER NOT NULL,
    size           INTEGER NOT NULL,
    md5            BLOB NOT NULL,
    etag           TEXT,
    PRIMARY KEY (record_id, destination_id, form, number)
) STRICT, WITHOUT ROWID;

-- A delivered object needs no progress. After another end (5 or 6) the upload is still to be aborted at the server,
-- so its row stays until that is done.
CREATE TRIGGER multipart_delivered AFTER UPDATE OF state ON deliveries WHEN NEW.state = 4
BEGIN
    DELETE FROM multipart_parts
        WHERE record_id = NEW.record_id AND destination_id = NEW.destination_id AND form = NEW.form;
    DELETE FROM multiparts
        WHERE record_id = NEW.record_id AND destination_id = NEW.destination_id AND form = NEW.form;
END;

PRAGMA user_version = 2;
COMMIT;
