"""The SQL statements of operators' orders, named; a comment says why one is so where that is not plain."""

from spool.records import DeliveryState
from spool.statements import RECORD_COLUMNS, TRACED_COLUMNS

FOUND_COLUMNS = f"{RECORD_COLUMNS}, {TRACED_COLUMNS}"

# The plus is that of the partial index: see the schema.
OPEN_IN_STATE = (
    f"SELECT {FOUND_COLUMNS} FROM deliveries d JOIN records r USING (record_id) "
    "WHERE d.destination_id = ? AND d.lane = ? AND d.state = ? AND +d.state <= 3 AND d.record_id >= ? "
    "ORDER BY d.record_id LIMIT ?"
)
# A record belongs to the call that it was accepted for, so its deliveries are found by its own index.
OPEN_OF_CALL = (
    f"SELECT {FOUND_COLUMNS} FROM records r CROSS JOIN deliveries d USING (record_id) "
    "WHERE r.call_id = ? AND r.record_id >= ? AND +d.state <= 3 ORDER BY r.record_id LIMIT ?"
)
OPEN_OF_RECORD = (
    f"SELECT {FOUND_COLUMNS} FROM deliveries d JOIN records r USING (record_id) WHERE d.record_id = ? AND +d.state <= 3"
)
REPLAY = (
    "UPDATE deliveries SET state = ?, due_at = ?, held_for = ?, attempts = 0, first_failed_at = NULL, "
    "settled_at = NULL, error = NULL WHERE record_id = ? AND destination_id = ? AND form = ?"
)
# The reason for which it was dead or held stays, for the trace.
DISCARD = (
    f"UPDATE deliveries SET state = {int(DeliveryState.DISCARDED)}, settled_at = ?, held_for = NULL "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
# What waits for the end of a delivery waits for it where it is owed now.
FOLLOW = "UPDATE deliveries SET after_destination_id = ? WHERE record_id = ? AND after_destination_id = ?"
SET_TOKEN = "UPDATE records SET token_id = ? WHERE record_id = ?"
