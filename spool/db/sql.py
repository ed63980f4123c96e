"""Every SQL statement of the spool but the schema, named; a comment says why it is so where that is not plain."""

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec

from spool.records import Delivery, DeliveryState, Form, Fragment, Lane, Record, StoredFragment

_READY, _WAITING, _HELD = (int(state) for state in (DeliveryState.READY, DeliveryState.WAITING, DeliveryState.HELD))
HELD_FOR_CORE = 0
"""`held_for` of a detail whose core is a dead letter; it blocks nobody, like the dead core itself."""
HELD_FOR_TENANT = -2
"""`held_for` where the record belongs to no tenant, and the destination to one."""
HELD_FOR_SHARED_TOKEN = -1
"""`held_for` where the destination refuses the token that all its deliveries share."""

# Start-up and quota

READ_META = "SELECT value FROM meta WHERE name = ?"
WRITE_META = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING"
ADD_DESTINATION = "INSERT INTO destinations (name) VALUES (?) ON CONFLICT (name) DO NOTHING"
ALL_DESTINATIONS = "SELECT destination_id, name FROM destinations"
LAST_CHUNK = "SELECT max(chunk_id) FROM chunks"
LAST_ORPHAN_CHUNK = "SELECT max(last_chunk) FROM orphan_chunks"

# As two statements inside of a transaction: 6 us of each commit; as one of table functions after it: 21 us.
PAGE_COUNT = "PRAGMA page_count"
FREE_PAGES = "PRAGMA freelist_count"

# Counters: one update per destination and lane and transaction

COUNTER_COLUMNS = "owed, ready, waiting, held, dead, delivered, expired, discarded, queued_bytes"
ALL_COUNTERS = f"SELECT destination_id, lane, {COUNTER_COLUMNS} FROM counters"
ADD_TO_COUNTERS = (
    f"INSERT INTO counters (destination_id, lane, {COUNTER_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?) "
    "ON CONFLICT (destination_id, lane) DO UPDATE SET "
    + ", ".join(f"{column} = {column} + excluded.{column}" for column in COUNTER_COLUMNS.split(", "))
)
# One statement, hence one snapshot. What should be open by the counters comes first, what is open after it.
RECOUNT = (
    "SELECT 1, destination_id, lane, owed - delivered - expired - discarded FROM counters UNION ALL "
    "SELECT 0, destination_id, lane, count(*) FROM deliveries WHERE +state <= 3 GROUP BY destination_id, lane, state"
)
OLDEST_IN_STATE = (
    "SELECT r.accepted_at FROM deliveries d JOIN records r USING (record_id) "
    "WHERE d.destination_id = ? AND d.lane = ? AND d.state = ? AND +d.state <= 3 ORDER BY d.record_id LIMIT 1"
)

# Tokens

USE_TOKEN = (
    "INSERT INTO tokens (token_hash, value, key_epoch, uses) VALUES (?, ?, ?, 0) "
    "ON CONFLICT (token_hash) DO UPDATE SET uses = uses RETURNING token_id"
)
ADD_TOKEN_USES = "UPDATE tokens SET uses = uses + ? WHERE token_id = ? RETURNING uses"
# The value is overwritten in place before its row goes: a deleted row's bytes may stay in the page.
# As many bytes as before, so that it happens in place: length() counts characters, and stops at a NUL.
OVERWRITE_TOKEN = (
    "UPDATE tokens SET value = replace(hex(zeroblob(length(CAST(value AS BLOB)))), '00', '0') WHERE token_id = ?"
)
DELETE_TOKEN = "DELETE FROM tokens WHERE token_id = ?"
ALL_TOKENS = "SELECT token_id, token_hash, value, uses, key_epoch FROM tokens ORDER BY token_id"
CLEAR_TOKENS = "DELETE FROM tokens"
ADD_TOKEN = "INSERT INTO tokens (token_id, token_hash, value, uses, key_epoch) VALUES (?, ?, ?, ?, ?)"
CLEARS_FREED_PAGES = "PRAGMA secure_delete"
CLEARS_ALL = 1
CLEAR_FREED_PAGES = "PRAGMA secure_delete = ON"
LEAVE_FREED_PAGES = "PRAGMA secure_delete = FAST"
READ_TOKEN = "SELECT value, token_hash, key_epoch FROM tokens WHERE token_id = ?"

# Accepting

ANY_LIVE = "SELECT 1 FROM live_calls LIMIT 1"

# What one principal posted of a call, and what was posted before version 6, by an unknown one, the newest 256 of
# each: a call has a handful of records; one that has thousands must not slow every post of it.
EARLIER_COLUMNS = "record_id, event, digest, settled_at, accepted_at, happened_at, post_key, via"
EARLIER_OF_CALL = " UNION ALL ".join(
    f"SELECT * FROM (SELECT {EARLIER_COLUMNS} FROM records WHERE call_id = :call_id AND principal {whose} "
    "ORDER BY record_id DESC LIMIT 256)"
    for whose in ("= :principal", "IS NULL")
)
CHUNK_COLUMNS = "chunk_id, crc32, frame"
NEW_RECORD_COLUMNS = (
    "record_id, call_id, agent_id, event, environment, digest, raw_bytes, stored_bytes, accepted_at, token_id, "
    "first_chunk, fragments, superseded, settled_at, origin, checksum, tenant, principal, via, happened_at, post_key, "
    "number_hint, length_ms, ended_reason, key_epoch, payload_key, trace_context"
)
NEW_DELIVERY_COLUMNS = "record_id, destination_id, form, lane, state, ordered, after_destination_id, due_at"
LAST_RECORD = "SELECT seq FROM sqlite_sequence WHERE name = 'records'"
# A record's rest may be orphaned before all of its payload is, and that may be deleted as far as there.
ADD_ORPHAN_CHUNKS = (
    "INSERT INTO orphan_chunks (first_chunk, last_chunk) VALUES (?, ?) "
    "ON CONFLICT (first_chunk) DO UPDATE SET last_chunk = max(last_chunk, excluded.last_chunk)"
)
IS_ORPHAN = "SELECT 1 FROM orphan_chunks WHERE first_chunk = ?"
FORGET_ORPHAN_CHUNKS = "DELETE FROM orphan_chunks WHERE first_chunk = ?"
OF_ORIGIN = "SELECT record_id FROM records WHERE origin = ?"
STILL_HERE = (
    "SELECT record_id FROM records r WHERE record_id = ? AND NOT (settled_at IS NOT NULL AND EXISTS "
    "(SELECT 1 FROM deliveries d WHERE d.record_id = r.record_id AND d.state IN (5, 6)))"
)
GIVEN_UP = "SELECT 1 FROM deliveries WHERE record_id = ? AND state IN (5, 6) LIMIT 1"

# Records and deliveries as plain rows: `record_of` and `delivery_of` make objects of them

RECORD_COLUMNS = (
    "r.record_id, r.call_id, r.agent_id, r.event, r.environment, r.digest, r.raw_bytes, r.stored_bytes, "
    "r.accepted_at, r.token_id, r.first_chunk, r.fragments, r.origin, r.checksum, r.tenant, r.principal, r.via, "
    "r.trace_context"
)
# A notice is about the object of the detail, where a bucket has one of the core too.
DELIVERY_COLUMNS = (
    "d.destination_id, d.form, d.lane, d.attempts, d.due_at, d.first_failed_at, "
    "(SELECT o.location FROM deliveries o WHERE o.record_id = d.record_id "
    "AND o.destination_id = d.after_destination_id AND o.form <> 'core' AND o.location IS NOT NULL)"
)
READ_RECORD = f"SELECT {RECORD_COLUMNS} FROM records r WHERE r.record_id = ?"
OPEN_BYTES = (
    "SELECT tenant, sum(stored_bytes) FROM records WHERE settled_at IS NULL AND tenant IS NOT NULL GROUP BY tenant"
)
WHOSE_BYTES = "SELECT tenant, stored_bytes FROM records WHERE record_id = ?"
RECORD_TOKEN = "SELECT token_id FROM records WHERE record_id = ?"
READ_DELIVERY = (
    f"SELECT {RECORD_COLUMNS}, {DELIVERY_COLUMNS} FROM deliveries d JOIN records r USING (record_id) "
    "WHERE d.record_id = ? AND d.destination_id = ? AND d.form = ?"
)
# The index is sorted by principal first: the newest of all are found among its entries alone.
TRACE_RECORDS = (
    f"SELECT {RECORD_COLUMNS}, r.superseded, r.settled_at FROM records r WHERE r.record_id IN "
    "(SELECT record_id FROM records WHERE call_id = ? ORDER BY record_id DESC LIMIT 256) ORDER BY r.record_id DESC"
)
CALL_IDS_FROM = "SELECT DISTINCT call_id FROM records WHERE call_id >= ? AND call_id < ? LIMIT ?"
NEWEST_RECORDS = (
    f"SELECT {RECORD_COLUMNS}, r.superseded, r.settled_at FROM records r WHERE r.record_id > ? "
    "ORDER BY r.record_id DESC LIMIT ?"
)
TRACED_COLUMNS = "d.destination_id, d.form, d.lane, d.state, d.attempts, d.due_at, d.settled_at, d.error"
TRACE_DELIVERIES = (
    f"SELECT {TRACED_COLUMNS} FROM deliveries d WHERE d.record_id = ? ORDER BY d.lane, d.destination_id, d.form"
)

# Attempts of a delivery, numbered from 1: the first one is kept, and the latest; none of a record that is gone.
ADD_ATTEMPT = (
    "INSERT INTO attempts SELECT record_id, :destination, :form, (SELECT coalesce(max(number), 0) + 1 FROM attempts "
    "WHERE record_id = :record AND destination_id = :destination AND form = :form), :ended_at, :took, :outcome, "
    ":answer FROM records WHERE record_id = :record"
)
FORGET_ATTEMPTS = (
    "DELETE FROM attempts WHERE record_id = :record AND destination_id = :destination AND form = :form AND number > 1 "
    "AND number <= (SELECT max(number) FROM attempts WHERE record_id = :record AND destination_id = :destination "
    "AND form = :form) - :kept"
)
# Number 0 is no attempt: it says when an order put the delivery back as if never tried.
RENEW = (
    "INSERT OR REPLACE INTO attempts (record_id, destination_id, form, number, ended_at, outcome, answer) "
    "VALUES (?, ?, ?, 0, ?, 'renewed', '')"
)
ATTEMPTS_OF_RECORD = (
    "SELECT destination_id, form, number, ended_at, took, outcome, answer FROM attempts "
    "WHERE record_id = ? AND number > 0 ORDER BY destination_id, form, number"
)
# The newest of all attempts are looked at, so that this takes milliseconds however rarely one destination fails.
RECENT_ATTEMPTS = (
    "SELECT r.call_id, a.form, a.number, a.ended_at, a.took, a.outcome, a.answer "
    "FROM (SELECT * FROM attempts ORDER BY record_id DESC LIMIT 2000) a JOIN records r ON r.record_id = a.record_id "
    "WHERE a.destination_id = ? AND a.number > 0 AND a.outcome <> 'delivered' ORDER BY a.ended_at DESC LIMIT ?"
)

LOCATIONS_OF_RECORD = (
    "SELECT destination_id, form, location FROM deliveries WHERE record_id = ? AND location IS NOT NULL"
)
OUTLINE = "SELECT number_hint, length_ms, ended_reason FROM records WHERE record_id = ?"

# A list of calls, the newest first: of each call the newest record. A window of record numbers is looked at, so that a
# question takes its time from what it looks at, not from what it finds.
_CALL_COLUMNS = "r.number_hint, r.length_ms, r.ended_reason, r.superseded, r.settled_at"
_CALL_FILTERS = (
    "NOT EXISTS (SELECT 1 FROM records later WHERE later.call_id = r.call_id AND later.principal IS r.principal "
    "AND later.record_id > r.record_id) "
    "AND (:tenant IS NULL OR r.tenant = :tenant) AND (:agent IS NULL OR r.agent_id = :agent) "
    "AND (:number IS NULL OR r.number_hint LIKE '%' || :number) "
    "AND (:prefix IS NULL OR (r.call_id >= :prefix AND r.call_id < :beyond)) "
    "AND (:before IS NULL OR r.accepted_at < :before) "
    "AND CASE :state "
    "WHEN 'waits' THEN EXISTS (SELECT 1 FROM deliveries d WHERE d.record_id = r.record_id AND d.state <= 2) "
    "WHEN 'dead' THEN EXISTS (SELECT 1 FROM deliveries d WHERE d.record_id = r.record_id AND d.state = 3) "
    "WHEN 'sent' THEN r.settled_at IS NOT NULL "
    "AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.record_id = r.record_id AND d.state <> 4) ELSE 1 END"
)
CALLS_IN_WINDOW = (
    f"SELECT {RECORD_COLUMNS}, {_CALL_COLUMNS} FROM records r WHERE r.record_id >= :first AND r.record_id < :end "
    f"AND {_CALL_FILTERS} ORDER BY r.record_id DESC LIMIT :limit"
)
CALLS_BY_PREFIX = (
    f"SELECT {RECORD_COLUMNS}, {_CALL_COLUMNS} FROM records r INDEXED BY records_by_call WHERE r.record_id < :end "
    f"AND r.call_id >= :prefix AND r.call_id < :beyond AND {_CALL_FILTERS} LIMIT :limit"
)
NEWEST_NUMBER = "SELECT max(record_id) FROM records"
OLDEST_NUMBER = "SELECT min(record_id) FROM records"
AGENTS_AMONG_NEWEST = (
    "SELECT DISTINCT agent_id FROM (SELECT agent_id FROM records WHERE agent_id IS NOT NULL "
    "AND (:tenant IS NULL OR tenant = :tenant) ORDER BY record_id DESC LIMIT 500) ORDER BY agent_id LIMIT 50"
)

# Calls that are live at a start. The event stands here as in the partial index, which is not used otherwise.
# An end ends the starts before it, but none that happened later by the sender's own times: the call id is used again.
LIVE_CALLS = (
    "SELECT call_id, coalesce(principal, ''), accepted_at, happened_at FROM records began "
    "WHERE event = 'call_started' AND accepted_at >= ? AND NOT superseded AND NOT EXISTS ("
    "SELECT 1 FROM records ended WHERE ended.call_id = began.call_id AND ended.event IN ('call_ended', 'call_log') "
    "AND (ended.principal = began.principal OR ended.principal IS NULL OR began.principal IS NULL) "
    "AND NOT coalesce(ended.happened_at < began.happened_at, 0)) ORDER BY accepted_at DESC LIMIT ?"
)

# The queue

# In commit order, straight from the index: most of a backlog is due, since an outage is the destination's and
# not each delivery's. What was never deferred is due, whatever the clock says now; so is what was deferred by a clock
# that ran ahead of this one by more than a tolerance (:horizon is the latest time that this clock may have written).
DUE = (
    f"SELECT {RECORD_COLUMNS}, {DELIVERY_COLUMNS} FROM deliveries d JOIN records r USING (record_id) "
    f"WHERE d.destination_id = :destination AND d.lane = :lane AND d.state = {_READY} AND +d.state <= 3 "
    "AND (d.due_at <= :now OR d.deferred_at IS NULL OR d.deferred_at > :horizon) ORDER BY d.record_id LIMIT :limit"
)
# The same of one tenant (IS: NULL is one, too). It steps over those of the others, in commit order.
_OF_TENANT = "AND r.tenant IS :tenant "
DUE_OF_TENANT = DUE.replace("ORDER BY", f"{_OF_TENANT}ORDER BY")
NEXT_DUE_OF_TENANT = (
    f"SELECT min(d.due_at) FROM deliveries d JOIN records r USING (record_id) WHERE d.destination_id = :destination "
    f"AND d.lane = :lane AND d.state = {_READY} AND +d.state <= 3 AND d.due_at > :now AND d.deferred_at <= :horizon "
    + _OF_TENANT
)
NEXT_DUE = (
    f"SELECT min(due_at) FROM deliveries WHERE destination_id = :destination AND lane = :lane "
    f"AND state = {_READY} AND +state <= 3 AND due_at > :now AND deferred_at <= :horizon"
)
DELIVERY_STATE = "SELECT state FROM deliveries WHERE record_id = ? AND destination_id = ? AND form = ?"
SET_STATE = (
    "UPDATE deliveries SET state = ?, settled_at = ?, held_for = ?, error = ?, location = coalesce(?, location) "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
# The attempt that it became a dead letter by failed, too.
BURY = (
    f"UPDATE deliveries SET state = {int(DeliveryState.DEAD)}, settled_at = ?, held_for = NULL, error = ?, "
    "attempts = attempts + 1 WHERE record_id = ? AND destination_id = ? AND form = ?"
)
DEFER = (
    "UPDATE deliveries SET due_at = ?, attempts = attempts + ?, "
    "first_failed_at = CASE WHEN ? THEN coalesce(first_failed_at, ?) ELSE first_failed_at END, error = ?, "
    "deferred_at = ?, for_destination = ? WHERE record_id = ? AND destination_id = ? AND form = ?"
)
DEQUEUE = "DELETE FROM deliveries WHERE record_id = ? AND destination_id = ? AND form = ?"
DEFERRED_FOR_DESTINATION = (
    f"SELECT record_id, form FROM deliveries WHERE destination_id = :destination AND lane = :lane "
    f"AND state = {_READY} AND +state <= 3 AND record_id >= :first AND due_at > :now AND for_destination "
    "ORDER BY record_id LIMIT :limit"
)
MAKE_DUE = (
    "UPDATE deliveries SET due_at = ?, deferred_at = NULL, for_destination = 0 "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
HELD_FOR = (
    "SELECT record_id, form FROM deliveries WHERE destination_id = ? AND held_for = ? AND lane = ? "
    f"AND state = {_HELD} ORDER BY record_id LIMIT ?"
)
HELD_TOKENS = (
    f"SELECT DISTINCT held_for FROM deliveries WHERE destination_id = ? AND state = {_HELD} "
    f"AND held_for NOT IN ({HELD_FOR_CORE}, {HELD_FOR_TENANT})"
)
DELIVERIES_OF_RECORD = (
    "SELECT destination_id, form, lane, state, ordered, after_destination_id, held_for FROM deliveries "
    "WHERE record_id = ?"
)
# A delivery waits for queued ones of earlier records of its call: core after core, detail after both.
# What is held with a dead core waits with it and blocks nobody; nor does a notice, which may wait for a detail.
# The newest 256 are enough: where an older one is still queued, those after it are too. Only the same principal's, and
# that of an unknown one.
_EARLIER_RECORDS = " UNION ALL ".join(
    f"SELECT * FROM (SELECT record_id, settled_at FROM records WHERE call_id = :call_id AND principal {whose} "
    "AND record_id < :record_id ORDER BY record_id DESC LIMIT 256)"
    for whose in ("= :principal", "IS NULL")
)
EARLIER_QUEUED = (
    f"SELECT 1 FROM ({_EARLIER_RECORDS}) r CROSS JOIN deliveries d USING (record_id) "
    "WHERE r.settled_at IS NULL AND d.destination_id = :destination AND d.ordered AND d.form <> 'notice' "
    f"AND d.state <= {_HELD} AND NOT (d.state = {_HELD} AND d.held_for IS {HELD_FOR_CORE}) "
    "AND (d.lane = 'core' OR :lane = 'detail') LIMIT 1"
)
# Those that wait among the next 1024; what lies behind more than that is found by maintenance.
LATER_OF_ANYBODY = (
    "SELECT record_id, principal FROM (SELECT record_id, principal, settled_at FROM records "
    "WHERE call_id = :call_id AND record_id >= :record_id ORDER BY record_id LIMIT 1024) r "
    "WHERE settled_at IS NULL AND EXISTS ("
    f"SELECT 1 FROM deliveries d WHERE d.record_id = r.record_id AND (d.state = {_WAITING} "
    f"OR (d.state = {_HELD} AND d.held_for = {HELD_FOR_CORE}))) LIMIT 256"
)
LATER_OF_PRINCIPAL = LATER_OF_ANYBODY.replace("call_id = :call_id", "call_id = :call_id AND principal = :principal")
OLDEST_WAITING = (
    "SELECT r.call_id, r.principal, r.record_id FROM deliveries d JOIN records r USING (record_id) "
    f"WHERE d.destination_id = ? AND d.lane = ? AND d.state = {_WAITING} AND +d.state <= 3 ORDER BY d.record_id LIMIT ?"
)
OPEN_IN_RECORD = "SELECT 1 FROM deliveries WHERE record_id = ? AND +state <= 3 LIMIT 1"

# Why there are dead letters: of the newest of a lane, so that a heap of them costs no more than a handful.

DEAD_REASONS = (
    "SELECT coalesce(error, ''), count(*) FROM (SELECT error FROM deliveries WHERE destination_id = ? AND lane = ? "
    f"AND state = {int(DeliveryState.DEAD)} AND +state <= 3 ORDER BY record_id DESC LIMIT ?) GROUP BY error"
)

# Expiry

EXPIRE = (
    f"UPDATE deliveries SET state = {int(DeliveryState.EXPIRED)}, settled_at = ?, held_for = NULL "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
# Without what is held with a dead letter, which it stays with, and those of records that an order renewed since then.
OLDEST_OPEN = (
    "SELECT d.record_id, d.form, r.accepted_at FROM deliveries d JOIN records r USING (record_id) "
    "WHERE d.destination_id = :destination AND d.lane = :lane AND d.state = :state AND +d.state <= 3 "
    f"AND d.held_for IS NOT {HELD_FOR_CORE} AND NOT EXISTS (SELECT 1 FROM attempts a "
    "WHERE a.record_id = d.record_id AND a.number = 0 AND a.ended_at >= :before) ORDER BY d.record_id LIMIT :limit"
)
OLDEST_DETAILS = (
    "SELECT record_id FROM deliveries WHERE destination_id = ? AND lane = ? AND state = ? AND +state <= 3 "
    "AND record_id > ? AND form IN ('detail', 'reduced') ORDER BY record_id LIMIT ?"
)
SET_FRAGMENTS = "UPDATE records SET fragments = ?, stored_bytes = ?, checksum = ? WHERE record_id = ?"

# Reading payloads

READ_CHUNKS = "SELECT chunk_id, crc32, frame FROM chunks WHERE chunk_id BETWEEN ? AND ? ORDER BY chunk_id"

# Keys

READ_RECORD_KEY = "SELECT key_epoch, payload_key FROM records WHERE record_id = ?"
RECORD_KEYS = "SELECT record_id, origin, payload_key FROM records WHERE key_epoch = ? LIMIT ?"
SET_RECORD_KEY = "UPDATE records SET key_epoch = ?, payload_key = ? WHERE record_id = ?"
TOKENS_OF_EPOCH = "SELECT token_id, token_hash, value FROM tokens WHERE key_epoch = ? LIMIT ?"
SET_TOKEN = "UPDATE tokens SET value = ?, key_epoch = ? WHERE token_id = ?"
SPAN_KEYS = "SELECT row_id, trace_id, payload_key FROM trace_rows WHERE key_epoch = ? LIMIT ?"
SET_SPANS_KEY = "UPDATE trace_rows SET key_epoch = ?, payload_key = ? WHERE row_id = ?"
TURN_KEYS = "SELECT row_id, call_id, payload_key FROM live_turns WHERE key_epoch = ? LIMIT ?"
SET_TURN_KEY = "UPDATE live_turns SET key_epoch = ?, payload_key = ? WHERE row_id = ?"
_WITH_KEYS = ("records", "tokens", "trace_rows", "live_turns")
EPOCH_USED = tuple(f"SELECT 1 FROM {table} WHERE key_epoch = ? LIMIT 1" for table in _WITH_KEYS)
EPOCHS_OF_TOKENS = "SELECT DISTINCT key_epoch FROM tokens WHERE uses <= 0 AND key_epoch IS NOT NULL"
EPOCHS_OF_SPANS = (
    "SELECT DISTINCT key_epoch FROM trace_rows WHERE trace_id = ? AND principal = ? AND row_id <= ? "
    "AND key_epoch IS NOT NULL"
)
EPOCHS_OF_TURNS = (
    "SELECT DISTINCT key_epoch FROM live_turns WHERE call_id = ? AND principal = ? AND key_epoch IS NOT NULL"
)
USES_OF_EPOCHS = {
    table: f"SELECT key_epoch, count(*) FROM {table} WHERE key_epoch > 0{' AND uses > 0' * (table == 'tokens')} "
    "GROUP BY key_epoch"
    for table in _WITH_KEYS
}
ANY_ENCRYPTED = " UNION ALL ".join(
    f"SELECT * FROM (SELECT key_epoch FROM {table} WHERE key_epoch > 0 LIMIT 1)" for table in _WITH_KEYS
)

# Rekeying

LAST_OPEN_RECORD = "SELECT max(record_id) FROM records WHERE settled_at IS NULL"
PLAIN_RECORDS = (
    "SELECT record_id, origin, first_chunk, fragments FROM records "
    "WHERE record_id > ? AND settled_at IS NULL AND key_epoch IS NULL ORDER BY record_id LIMIT ?"
)
NEXT_OPEN_RECORDS = PLAIN_RECORDS.replace(" AND key_epoch IS NULL", "")
OPEN_RECORD_KEY = "SELECT key_epoch, payload_key FROM records WHERE record_id = ? AND settled_at IS NULL"
REPLACE_CHUNK = "UPDATE chunks SET crc32 = ?, frame = ? WHERE chunk_id = ?"
REPLACE_META = "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)"
DELETE_META = "DELETE FROM meta WHERE name = ?"
PLAIN_TOKENS = "SELECT token_id, token_hash, value FROM tokens WHERE key_epoch IS NULL LIMIT ?"
PLAIN_TURNS = "SELECT call_id, row_id, crc32, frame FROM live_turns WHERE key_epoch IS NULL LIMIT ?"
SEAL_TURN = "UPDATE live_turns SET crc32 = ?, frame = ?, key_epoch = ?, payload_key = ? WHERE row_id = ?"
PLAIN_SPANS = "SELECT trace_id, row_id, crc32, frame FROM trace_rows WHERE key_epoch IS NULL LIMIT ?"
SEAL_SPANS = "UPDATE trace_rows SET crc32 = ?, frame = ?, key_epoch = ?, payload_key = ? WHERE row_id = ?"

# Maintenance

DELETE_CHUNKS = "DELETE FROM chunks WHERE chunk_id BETWEEN ? AND ?"
ORPHAN_CHUNKS = "SELECT first_chunk, last_chunk FROM orphan_chunks ORDER BY first_chunk LIMIT ?"
OLD_RECEIPTS = (
    "SELECT record_id FROM records r WHERE settled_at IS NOT NULL AND settled_at >= :since AND settled_at < :before "
    "ORDER BY settled_at LIMIT :limit"
)
OLDEST_RECEIPTS = "SELECT record_id FROM records WHERE settled_at IS NOT NULL ORDER BY settled_at LIMIT ?"
DELETE_DELIVERIES = "DELETE FROM deliveries WHERE record_id = ?"
DELETE_ATTEMPTS = "DELETE FROM attempts WHERE record_id = ?"
DELETE_RECORD = "DELETE FROM records WHERE record_id = ?"
COUNT_RECEIPTS = "SELECT count(*) FROM records WHERE settled_at IS NOT NULL"

# Upload addresses

ADD_UPLOAD = "INSERT INTO uploads (key_hash, s3_key, call_id, token_id, expires_at) VALUES (?,?,?,?,?)"
READ_UPLOAD = "SELECT s3_key, call_id, token_id, expires_at, record_uid, digest FROM uploads u WHERE {} = ?"
READ_UPLOAD_BY_HASH = READ_UPLOAD.format("key_hash")
READ_UPLOAD_BY_S3_KEY = READ_UPLOAD.format("s3_key")
UPLOADED_RECORD = "SELECT record_uid FROM uploads WHERE key_hash = ?"
SAME_CONTENT = "SELECT record_id FROM records WHERE record_id = ? AND event = ? AND digest = ?"
MARK_UPLOAD_USED = "UPDATE uploads SET record_uid = ?, digest = ? WHERE key_hash = ?"
UPLOAD_TOKEN = "SELECT token_id FROM uploads WHERE key_hash = ? AND token_id IS NOT NULL"
FORGET_UPLOAD_TOKEN = "UPDATE uploads SET token_id = NULL WHERE key_hash = ?"
UNUSED_UPLOAD = "SELECT token_id FROM uploads WHERE key_hash = ? AND record_uid IS NULL"
# Unused ones below the first time, which is the later one, used ones below the second.
EXPIRED_UPLOADS = (
    "SELECT key_hash, token_id FROM uploads "
    "WHERE expires_at < ? AND (record_uid IS NULL OR expires_at < ?) ORDER BY expires_at LIMIT ?"
)
DELETE_UPLOAD = "DELETE FROM uploads WHERE key_hash = ?"

# Tenants

UNASSIGNED = "unassigned"
"""The tenant of a record that belongs to nobody yet; the partial index names it, too."""
OPEN_TENANTS = "SELECT DISTINCT tenant FROM records WHERE settled_at IS NULL"
ASSIGNED_AGENTS = "SELECT agent_id, tenant FROM agents"
ASSIGN_AGENT = (
    "INSERT INTO agents (agent_id, tenant) VALUES (?, ?) ON CONFLICT (agent_id) DO UPDATE SET tenant = excluded.tenant"
)
UNASSIGNED_AGENTS = (
    "SELECT agent_id, count(*), min(accepted_at) FROM records "
    f"WHERE tenant = '{UNASSIGNED}' AND settled_at IS NULL GROUP BY agent_id ORDER BY 2 DESC LIMIT ?"
)
UNASSIGNED_RECORDS = (
    f"SELECT {RECORD_COLUMNS} FROM records r WHERE r.tenant = '{UNASSIGNED}' AND r.settled_at IS NULL "
    "AND r.agent_id IS ? ORDER BY r.record_id LIMIT ?"
)
SET_TENANT = "UPDATE records SET tenant = ?, principal = ?, checksum = ? WHERE record_id = ?"

# Circuit breakers

READ_BREAKER = "SELECT cause, reason, since, retry_at, probes FROM breakers WHERE destination_id = ?"
KEEP_BREAKER = (
    "INSERT OR REPLACE INTO breakers (destination_id, cause, reason, since, retry_at, probes) VALUES (?,?,?,?,?,?)"
)
FORGET_BREAKER = "DELETE FROM breakers WHERE destination_id = ?"

# Progress of multipart uploads

ADD_MULTIPART = (
    "INSERT INTO multiparts (record_id, destination_id, form, bucket, object_key, upload_id, part_bytes) "
    "VALUES (?,?,?,?,?,?,?)"
)
READ_MULTIPART = (
    "SELECT bucket, object_key, upload_id, part_bytes FROM multiparts "
    "WHERE record_id = ? AND destination_id = ? AND form = ?"
)
WRITE_PART = (
    "INSERT INTO multipart_parts (record_id, destination_id, form, number, size, md5, etag) VALUES (?,?,?,?,?,?,?) "
    "ON CONFLICT (record_id, destination_id, form, number) DO UPDATE SET "
    "size = excluded.size, md5 = excluded.md5, etag = excluded.etag"
)
READ_PARTS = (
    "SELECT number, size, md5, etag FROM multipart_parts WHERE record_id = ? AND destination_id = ? AND form = ? "
    "ORDER BY number"
)
DELETE_PARTS = "DELETE FROM multipart_parts WHERE record_id = ? AND destination_id = ? AND form = ?"
DELETE_MULTIPART = "DELETE FROM multiparts WHERE record_id = ? AND destination_id = ? AND form = ?"
# A delivery without a row ended as well: its receipt was deleted.
ABANDONED_MULTIPARTS = (
    "SELECT m.record_id, m.form, m.bucket, m.object_key, m.upload_id, m.part_bytes FROM multiparts m "
    "LEFT JOIN deliveries d USING (record_id, destination_id, form) "
    "WHERE m.destination_id = ? AND (d.state IS NULL OR d.state > 3) ORDER BY m.record_id LIMIT ?"
)


# From rows of the database to plain data, in the order of `RECORD_COLUMNS` and `DELIVERY_COLUMNS`.

Row = Sequence[Any]
"""A row as SQLite gives it: its columns have the types of the schema."""

RECORD_WIDTH = 18

_decode_fragments = msgspec.json.Decoder(dict[Fragment, tuple[int, int, int]]).decode


def decode_fragments(text: str) -> dict[Fragment, StoredFragment]:
    """What the `fragments` column says. Raises `msgspec.DecodeError` for what this spool would not have written."""
    return {name: StoredFragment(*sizes) for name, sizes in _decode_fragments(text).items()}


def encode_fragments(fragments: Mapping[Fragment, StoredFragment]) -> str:
    """As the `fragments` column holds them: chunks, raw bytes and stored bytes of each, in the order of chunks."""
    return ",".join(
        f'"{name}":[{stored.chunks},{stored.raw_bytes},{stored.stored_bytes}]' for name, stored in fragments.items()
    ).join("{}")


def checksum_of(row: Row, tenant: str | None = None, principal: str | None = None, via: str | None = None) -> int:
    """Of a record's columns up to `origin`, of whose it is, and of how it came, as far as that is known.

    Without its token, which is taken away when the record ends.
    """
    whose = (tenant, principal) if tenant is not None or principal is not None else ()
    came = () if via is None else (via,)
    return crc32(repr((*row[:9], *row[10:13], *whose, *came)).encode("utf-8", "surrogatepass"))


def record_of(row: Row, spool_id: str) -> Record:
    """The record in the first `RECORD_WIDTH` columns; one that does not match its checksum is marked as damaged."""
    record_id, tenant, principal, via = row[0], row[14], row[15], row[16]
    damaged = row[13] is not None and row[13] != checksum_of(row, tenant, principal, via)
    try:
        fragments = decode_fragments(row[11])
    except (msgspec.DecodeError, TypeError):
        fragments, damaged = {}, True
    return Record(
        record_id, row[12] or uid_of(spool_id, record_id), row[1], row[2], row[3], row[4], row[5], row[6], row[7],
        row[8], row[9], row[10], fragments, damaged, tenant, principal, via, row[17],
    )  # fmt: skip


def uid_of(spool_id: str, record_id: int) -> str:
    """What names a record outside its spool."""
    return f"{spool_id}-{record_id}"


def number_in(uid: str, spool_id: str) -> int | None:
    """The number of a record in the spool that gave it this name; None for a name that another spool gave."""
    spool, _, number = uid.rpartition("-")
    return int(number) if spool == spool_id and number.isascii() and number.isdigit() and len(number) < 19 else None


def delivery_of(row: Row, spool_id: str, destinations: Mapping[int, str]) -> Delivery:
    """The delivery in the columns behind the record's."""
    destination_id, form, lane, attempts, due_at, first_failed_at, location = row[RECORD_WIDTH:]
    return Delivery(
        record_of(row, spool_id),
        destinations[destination_id],
        Form(form),
        Lane(lane),
        attempts,
        due_at,
        first_failed_at,
        location,
    )


# Traces: what is deleted with the acceptance of the call log that was made of it.

DELETE_TRACE_ROWS = "DELETE FROM trace_rows WHERE trace_id = ? AND principal = ? AND row_id <= ?"
CLOSE_TRACE = """
    UPDATE traces SET closed = closed + 1, root_at = NULL, spans = max(0, spans - :spans),
        raw_bytes = max(0, raw_bytes - :raw_bytes)
    WHERE trace_id = :trace_id AND principal = :principal
"""


# Live calls: what is deleted with the acceptance of their end, or changed with that of the news that an agent is lost.

# One that began later than the end happened, by the sender's own times, is another call of this id.
END_LIVE = """
    DELETE FROM live_calls WHERE call_id = :call_id AND principal = :principal
        AND NOT coalesce(started_at > :happened_at, 0)
    RETURNING token_id
"""
DELETE_LIVE_TURNS = "DELETE FROM live_turns WHERE call_id = ? AND principal = ?"
LOSE_CALL = "UPDATE live_calls SET open = 0 WHERE call_id = ? AND principal = ? AND version = ? AND open = 1"
