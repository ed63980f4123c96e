-- Finds the calls that have begun, so that a start knows which are live without reading every record.
BEGIN IMMEDIATE;

-- An entry for each call that was announced, and none for anything else: it costs the other posts nothing.
CREATE INDEX calls_started ON records (accepted_at) WHERE event = 'call_started';

PRAGMA user_version = 5;
COMMIT;
