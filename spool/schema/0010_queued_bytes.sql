-- Bytes that are queued are those that each form carries; before, each form counted the whole record.
BEGIN IMMEDIATE;

UPDATE counters SET queued_bytes = coalesce((
    SELECT sum(CASE
        WHEN NOT json_valid(r.fragments) THEN 0
        WHEN d.form IN ('detail', 'reduced') THEN coalesce(json_extract(r.fragments, '$.rest[1]'), 0)
        WHEN d.form = 'whole' THEN coalesce(json_extract(r.fragments, '$.body[1]'), 0)
            + coalesce(json_extract(r.fragments, '$.base[1]'), 0)
            + coalesce(json_extract(r.fragments, '$.rest[1]'), 0)
        WHEN d.form = 'core' THEN coalesce(json_extract(r.fragments, '$.body[1]'), 0)
            + coalesce(json_extract(r.fragments, '$.base[1]'), 0)
            + coalesce(json_extract(r.fragments, '$.derived[1]'), 0)
        ELSE 0 END)
    FROM deliveries d JOIN records r USING (record_id)
    WHERE d.destination_id = counters.destination_id AND d.lane = counters.lane AND d.state <= 2 AND +d.state <= 3
), 0);

PRAGMA user_version = 10;
COMMIT;
