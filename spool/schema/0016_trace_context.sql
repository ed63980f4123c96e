-- The W3C trace context that a call log was posted with: traceparent, and behind a space tracestate.
BEGIN IMMEDIATE;
ALTER TABLE records ADD COLUMN trace_context TEXT;
PRAGMA user_version = 16;
COMMIT;
