-- The old path beside the new one: `calls_merged` makes each call of its parts when it is asked, `calls_complete` holds
-- what was made when they came. A backfill brings the second up to date from `call_parts`, a day at a time.

create index calls_by_agent on calls_complete (project, agent_id, listed_at desc, call_id) where agent_id is not null;
create index calls_by_number on calls_complete (project, customer_number, listed_at desc, call_id)
    where customer_number is not null;

-- `state` is what the parts say; whether a call has been waited for long enough is up to who asks. `waits_since` is when
-- it began to wait for its other part.
create view calls_merged as
select project, call_id, state,
    case when state <> 3 then coalesce(end_received_at, start_received_at, first_part_at) end as waits_since,
    start_received_at, end_received_at,
    start_accepted_at, start_digest, start_head, end_accepted_at, end_digest, end_head, detail_accepted_at,
    detail_digest, self_contained, conflicts, first_part_at,
    least(call_received_at, case when start_received_at is not null and end_received_at is not null
                                 then greatest(start_received_at, end_received_at) end) as completed_at,
    coalesce(end_head ->> 'agent_id', start_head ->> 'agent_id') as agent_id,
    coalesce(end_head ->> 'customer_number', start_head ->> 'customer_number') as customer_number,
    coalesce(end_head ->> 'environment', start_head ->> 'environment') as environment,
    to_timestamp(began / 1000) as started_at,
    to_timestamp(finished / 1000) as ended_at,
    (finished - began) / 1000 as duration_s,
    coalesce(end_head ->> 'reason', start_head ->> 'reason') as reason,
    coalesce(end_head -> 'summary', start_head -> 'summary') as summary,
    coalesce(to_timestamp(began / 1000), first_part_at) as listed_at
from (
    select m.*,
        call_state_after(0::smallint, false, start_digest is not null, end_digest is not null, self_contained) as state,
        coalesce(end_head ->> 'started_at', start_head ->> 'started_at')::float8 as began,
        coalesce(end_head ->> 'ended_at', start_head ->> 'ended_at')::float8 as finished
    from (
        select project, call_id,
            min(received_at) as first_part_at,
            min(received_at) filter (where kind = 1) as start_received_at,
            min(received_at) filter (where kind in (2, 3)) as end_received_at,
            min(received_at) filter (where kind = 3) as call_received_at,
            (array_agg(accepted_at order by accepted_at desc, digest desc) filter (where kind = 1))[1]
                as start_accepted_at,
            (array_agg(digest order by accepted_at desc, digest desc) filter (where kind = 1))[1] as start_digest,
            (array_agg(head order by accepted_at desc, digest desc) filter (where kind = 1))[1] as start_head,
            (array_agg(accepted_at order by accepted_at desc, digest desc) filter (where kind in (2, 3)))[1]
                as end_accepted_at,
            (array_agg(digest order by accepted_at desc, digest desc) filter (where kind in (2, 3)))[1] as end_digest,
            (array_agg(head order by accepted_at desc, digest desc) filter (where kind in (2, 3)))[1] as end_head,
            (array_agg(accepted_at order by accepted_at desc, digest desc) filter (where kind = 5))[1]
                as detail_accepted_at,
            (array_agg(digest order by accepted_at desc, digest desc) filter (where kind = 5))[1] as detail_digest,
            bool_or(kind = 3) as self_contained,
            (greatest(count(*) filter (where kind = 1) - 1, 0)
             + greatest(count(*) filter (where kind in (2, 3)) - 1, 0))::integer as conflicts
        from call_parts group by project, call_id
    ) m
) m;

-- A row for each day (UTC) that a backfill has begun; the cursor is moved in the transaction that writes the rows.
create table backfill_progress (
    day            date primary key,
    status         text not null,
    cursor_project text,
    cursor_call_id text,
    calls          bigint not null,
    written        bigint not null,
    end_only       bigint not null,
    differing      bigint not null,
    updated_at     timestamptz not null default now()
);

-- One row: whether backfills have been asked to pause, and what their probe of the commit latency writes.
create table backfill_control (
    singleton boolean primary key check (singleton),
    paused    boolean not null,
    probed_at timestamptz not null
);
insert into backfill_control values (true, false, now());

insert into store_version (version) values (2);
