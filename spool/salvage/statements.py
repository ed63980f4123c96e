"""What a salvage asks of the other database, and writes into this one; named."""

from spool.statements import RECORD_COLUMNS

RECORDS = f"SELECT {RECORD_COLUMNS}, r.settled_at FROM records r WHERE r.record_id BETWEEN ? AND ? ORDER BY r.record_id"
OLD_RECORDS = RECORDS.replace("r.origin, r.checksum", "NULL, NULL")
"""For a database of before version 3."""
LARGEST = (
    "SELECT max(record_id) FROM records",
    "SELECT max(record_id) FROM deliveries",
    "SELECT seq FROM sqlite_sequence WHERE name = 'records'",
    "SELECT max(record_id) FROM records INDEXED BY records_by_call WHERE call_id > ''",
)
"""Each may be unreadable; the largest answer counts."""
CALLS = "SELECT record_id, call_id FROM records INDEXED BY records_by_call WHERE call_id > ''"
"""Read from the index alone: it may be sound where the table is not."""
KNOWN_BY_DELIVERIES = "SELECT DISTINCT record_id FROM deliveries WHERE record_id BETWEEN ? AND ?"
DELIVERIES = (
    "SELECT destination_id, form, lane, state, ordered, after_destination_id, attempts, due_at, first_failed_at, "
    "settled_at, location, error FROM deliveries WHERE record_id = ?"
)
OPEN_DELIVERIES = (
    "SELECT record_id, destination_id, form, lane, state FROM deliveries INDEXED BY deliveries_open WHERE +state <= 3"
)
"""Read from the index alone, likewise."""
CHUNK = "SELECT crc32, frame FROM chunks WHERE chunk_id = ?"
TOKEN = "SELECT value, token_hash FROM tokens WHERE token_id = ?"

BY_ORIGIN = "SELECT 1 FROM records WHERE origin = ?"
ADD_DELIVERY = (
    "INSERT INTO deliveries (record_id, destination_id, form, lane, state, ordered, after_destination_id, attempts, "
    "due_at, first_failed_at, settled_at, held_for, location, error) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
