-- Why a destination takes no deliveries, so that a restart knows it and does not try everything at once.
BEGIN IMMEDIATE;

-- One row for each open circuit breaker; a closed one has none.
CREATE TABLE breakers (
    destination_id INTEGER PRIMARY KEY,
    cause          TEXT NOT NULL,
    reason         TEXT NOT NULL,
    since          INTEGER NOT NULL,
    retry_at       INTEGER NOT NULL,
    probes         INTEGER NOT NULL
) STRICT;

PRAGMA user_version = 4;
COMMIT;
