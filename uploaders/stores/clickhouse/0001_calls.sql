-- Calls by their parts. Kinds and states are the numbers of uploaders.stores.parts.PartKind and
-- uploaders.stores.completion.CallState; times are milliseconds since the Unix epoch, 0 for none. Nothing is Nullable, and
-- nothing that can change is in a sorting key. Statements are separated by semicolons at the ends of lines; each may run
-- twice, since ClickHouse has no transactions. It acknowledges before it flushes, unless a table says otherwise.

CREATE TABLE IF NOT EXISTS store_version (version UInt32, migrated_at DateTime DEFAULT now())
ENGINE = MergeTree ORDER BY version;

-- Every part that came; of the same part written twice the row that was received first stays.
CREATE TABLE IF NOT EXISTS call_parts (
    project     String,
    call_id     String,
    kind        UInt8,
    digest      String,
    event       String,
    accepted_at Int64,
    received_at Int64,
    source_uid  String,
    core        String CODEC(ZSTD(1)),
    head        String,
    detail_id   String,
    rank        UInt64 MATERIALIZED toUInt64(9223372036854775807 - received_at),
    INDEX by_time received_at TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(rank) ORDER BY (project, call_id, kind, digest)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

-- The old path: for each call what its parts say, kept up to date by every insert. Only maxima, minima and sets: parts
-- that come twice, or in another order, change nothing.
CREATE TABLE IF NOT EXISTS calls_merged (
    project        String,
    call_id        String,
    start_part     SimpleAggregateFunction(max, Tuple(accepted_at Int64, digest String, head String)),
    end_part       SimpleAggregateFunction(max, Tuple(accepted_at Int64, digest String, head String)),
    detail_part    SimpleAggregateFunction(max, Tuple(accepted_at Int64, digest String, head String)),
    start_received SimpleAggregateFunction(min, Int64),
    end_received   SimpleAggregateFunction(min, Int64),
    call_received  SimpleAggregateFunction(min, Int64),
    first_part_at  SimpleAggregateFunction(min, Int64),
    parts          SimpleAggregateFunction(groupUniqArrayArray, Array(Tuple(UInt8, String)))
) ENGINE = AggregatingMergeTree ORDER BY (project, call_id)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS calls_merging TO calls_merged AS
SELECT project, call_id,
    maxIf((accepted_at, digest, head), kind = 1) AS start_part,
    maxIf((accepted_at, digest, head), kind IN (2, 3)) AS end_part,
    maxIf((accepted_at, digest, head), kind = 5) AS detail_part,
    min(if(kind = 1, received_at, 9223372036854775807)) AS start_received,
    min(if(kind IN (2, 3), received_at, 9223372036854775807)) AS end_received,
    min(if(kind = 3, received_at, 9223372036854775807)) AS call_received,
    min(received_at) AS first_part_at,
    groupUniqArray((kind, digest)) AS parts
FROM call_parts GROUP BY project, call_id;

-- The new path. `version` counts the parts that a row was made of, and whether it was given up: the row that knows more
-- wins, whatever the clocks say and in whatever order the rows were written.
CREATE TABLE IF NOT EXISTS calls_complete (
    project         String,
    call_id         String,
    state           UInt8,
    late            Bool,
    start_digest    String,
    start_head      String,
    end_digest      String,
    end_head        String,
    detail_digest   String,
    self_contained  Bool,
    conflicts       UInt32,
    first_part_at   Int64,
    due_at          Int64,
    completed_at    Int64,
    error           String,
    version         UInt64,
    agent_id        String MATERIALIZED if(JSONExtractString(end_head, 'agent_id') != '',
                                           JSONExtractString(end_head, 'agent_id'),
                                           JSONExtractString(start_head, 'agent_id')),
    customer_number String MATERIALIZED if(JSONExtractString(end_head, 'customer_number') != '',
                                           JSONExtractString(end_head, 'customer_number'),
                                           JSONExtractString(start_head, 'customer_number')),
    started_at      Int64 MATERIALIZED if(JSONHas(end_head, 'started_at'), JSONExtractInt(end_head, 'started_at'),
                                          JSONExtractInt(start_head, 'started_at')),
    ended_at        Int64 MATERIALIZED if(JSONHas(end_head, 'ended_at'), JSONExtractInt(end_head, 'ended_at'),
                                          JSONExtractInt(start_head, 'ended_at')),
    summary         String MATERIALIZED if(JSONHas(end_head, 'summary'), JSONExtractRaw(end_head, 'summary'),
                                           JSONExtractRaw(start_head, 'summary')),
    listed_at       Int64 MATERIALIZED if(JSONHas(end_head, 'started_at') OR JSONHas(start_head, 'started_at'),
                                          started_at, first_part_at),
    INDEX by_time listed_at TYPE minmax GRANULARITY 1,
    INDEX by_due due_at TYPE minmax GRANULARITY 1,
    INDEX by_agent agent_id TYPE bloom_filter GRANULARITY 1,
    INDEX by_number customer_number TYPE bloom_filter GRANULARITY 1
) ENGINE = ReplacingMergeTree(version) ORDER BY (project, call_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The frames of details: visible once a part of `call_parts` names their id; cleared by a sweep if none does.
CREATE TABLE IF NOT EXISTS call_details (
    detail_id String,
    seq       UInt32,
    staged_at Int64,
    frame     String CODEC(NONE)
) ENGINE = MergeTree ORDER BY (detail_id, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The spans of the detail that a call shows.
CREATE TABLE IF NOT EXISTS spans (
    project        String,
    call_id        String,
    digest         String,
    seq            UInt32,
    trace_id       Nullable(String),
    span_id        Nullable(String),
    parent_span_id Nullable(String),
    name           Nullable(String),
    operation      Nullable(String),
    start_ns       Nullable(Int64),
    duration_ns    Nullable(Int64),
    status         Nullable(Int16),
    error          Bool
) ENGINE = ReplacingMergeTree ORDER BY (project, call_id, digest, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS backfill_progress (
    day            Date,
    status         String,
    cursor_project String,
    cursor_call_id String,
    calls          UInt64,
    written        UInt64,
    end_only       UInt64,
    differing      UInt64,
    updated_at     Int64,
    version        UInt64
) ENGINE = ReplacingMergeTree(version) ORDER BY day;

CREATE TABLE IF NOT EXISTS backfill_control (singleton UInt8, paused Bool, at DateTime64(6) DEFAULT now64(6))
ENGINE = ReplacingMergeTree(at) ORDER BY singleton;

INSERT INTO store_version (version) VALUES (1);
