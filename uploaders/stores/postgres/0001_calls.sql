-- Calls by their parts. Kinds and states are the numbers of uploaders.stores.parts.PartKind and
-- uploaders.stores.completion.CallState. Runs in one transaction, under an advisory lock.

create table store_version (
    version     integer not null,
    migrated_at timestamptz not null default now()
);

-- Every part that came, once. Its key makes retries and replays harmless. The document is `json`, which keeps the text;
-- `jsonb` would refuse \u0000 and lone surrogates and rewrite numbers. `head` is what lists need of it.
create table call_parts (
    project         text not null,
    call_id         text not null,
    kind            smallint not null,
    digest          bytea not null,
    event           text not null,
    accepted_at     timestamptz not null,
    received_at     timestamptz not null default now(),
    source_uid      text not null,
    core            json,
    head            jsonb not null,
    agent_id        text generated always as (head ->> 'agent_id') stored,
    call_started_at timestamptz generated always as (to_timestamp((head ->> 'started_at')::float8 / 1000)) stored,
    call_ended_at   timestamptz generated always as (to_timestamp((head ->> 'ended_at')::float8 / 1000)) stored,
    reason          text generated always as (head ->> 'reason') stored,
    primary key (project, call_id, kind, digest)
);
alter table call_parts alter column core set storage external;
create index call_parts_by_time on call_parts using brin (received_at);

-- One row for each call, changed in the transaction that inserts its parts. `start_`, `end_` and `detail_` name the part
-- of that kind which is shown; the plain columns are what lists and filters need of these.
create table calls_complete (
    project            text not null,
    call_id            text not null,
    state              smallint not null,
    late               boolean not null,
    start_accepted_at  timestamptz,
    start_digest       bytea,
    start_head         jsonb,
    end_accepted_at    timestamptz,
    end_digest         bytea,
    end_head           jsonb,
    detail_accepted_at timestamptz,
    detail_digest      bytea,
    self_contained     boolean not null,
    conflicts          integer not null,
    first_part_at      timestamptz not null,
    due_at             timestamptz,
    completed_at       timestamptz,
    error              text,
    agent_id           text generated always as (coalesce(end_head ->> 'agent_id', start_head ->> 'agent_id')) stored,
    customer_number    text generated always as
                       (coalesce(end_head ->> 'customer_number', start_head ->> 'customer_number')) stored,
    environment        text generated always as
                       (coalesce(end_head ->> 'environment', start_head ->> 'environment')) stored,
    started_at         timestamptz generated always as
                       (to_timestamp(coalesce(end_head ->> 'started_at', start_head ->> 'started_at')::float8 / 1000))
                       stored,
    ended_at           timestamptz generated always as
                       (to_timestamp(coalesce(end_head ->> 'ended_at', start_head ->> 'ended_at')::float8 / 1000))
                       stored,
    duration_s         float8 generated always as
                       ((coalesce(end_head ->> 'ended_at', start_head ->> 'ended_at')::float8
                         - coalesce(end_head ->> 'started_at', start_head ->> 'started_at')::float8) / 1000) stored,
    reason             text generated always as (coalesce(end_head ->> 'reason', start_head ->> 'reason')) stored,
    summary            jsonb generated always as (coalesce(end_head -> 'summary', start_head -> 'summary')) stored,
    listed_at          timestamptz generated always as
                       (coalesce(to_timestamp(coalesce(end_head ->> 'started_at', start_head ->> 'started_at')::float8
                                              / 1000), first_part_at)) stored,
    primary key (project, call_id)
) with (fillfactor = 85);
create index calls_by_time on calls_complete (project, listed_at desc, call_id);
create index calls_due on calls_complete (due_at) where due_at is not null;

-- The frames of details, as the spool had them: their concatenation is a .zst file. Already compressed, so EXTERNAL.
create table call_details (
    project text not null,
    call_id text not null,
    digest  bytea not null,
    seq     integer not null,
    frame   bytea not null,
    primary key (project, call_id, digest, seq)
);
alter table call_details alter column frame set storage external;

-- The spans of the detail that a call shows.
create table spans (
    project        text not null,
    call_id        text not null,
    seq            integer not null,
    trace_id       text,
    span_id        text,
    parent_span_id text,
    name           text,
    operation      text,
    start_ns       bigint,
    duration_ns    bigint,
    status         smallint,
    error          boolean not null,
    primary key (project, call_id, seq)
);

-- Where new parts put a call: `completion.add_part` in SQL. What was given up stays so until the missing part comes.
create function call_state_after(state smallint, had_start boolean, starts boolean, ends boolean, whole boolean)
returns smallint language sql immutable parallel safe as $$
    select case
        when whole or (starts and ends) then 3::smallint
        when ends then case when state = 5 then 5::smallint else 2::smallint end
        when starts then case when state = 4 and had_start then 4::smallint else 1::smallint end
        else state
    end
$$;

insert into store_version (version) values (1);
