-- What is made of calls after they ended. The statements are in uploaders.stores.pipeline, for every engine the same;
-- times are milliseconds since the Unix epoch, states the numbers of JobState. Vectors have a table for each number of
-- dimensions, which is made where a pipeline is used: not every PostgreSQL has pgvector.

-- The queue: a row for each call, with what is needed of it. Rows are kept, so that a step can be done anew.
create table pipeline_jobs (
    project       text not null,
    call_id       text not null,
    accepted_at   bigint not null,
    digest        bytea not null,
    text          bytea not null,
    state         bigint not null,
    due_at        bigint not null,
    attempts      bigint not null default 0,
    bad_answers   bigint not null default 0,
    asking        bigint not null default 0,
    claimed_by    text,
    claimed_until bigint not null default 0,
    reason        text,
    primary key (project, call_id)
);
create index pipeline_jobs_waiting on pipeline_jobs (state, project, due_at);

-- The journal: what each step made, and of what. A step whose input is the same is not done again.
create table pipeline_steps (
    project    text not null,
    call_id    text not null,
    step       text not null,
    input_hash bytea not null,
    output     bytea not null,
    made_by    text not null,
    made_at    bigint not null,
    primary key (project, call_id, step)
);

create table call_insights (
    insight_id      bigint generated always as identity primary key,
    project         text not null,
    call_id         text not null,
    summary         text not null,
    summary_source  text not null,
    sentiment       text,
    agent_id        text,
    customer_number text,
    listed_at       bigint not null,
    made_at         bigint not null,
    words           tsvector not null,
    unique (project, call_id)
);
create index call_insights_by_words on call_insights using gin (words);
create index call_insights_by_time on call_insights (project, listed_at);

create table callbacks (
    project       text not null,
    call_id       text not null,
    due_at        bigint not null,
    zone          text not null,
    words         text not null,
    number        text not null,
    agent_id      text,
    state         text not null,
    reason        text,
    created_at    bigint not null,
    fired_at      bigint,
    record_uid    text,
    claimed_by    text,
    claimed_until bigint not null default 0,
    primary key (project, call_id)
);
create index callbacks_due on callbacks (state, due_at);
create index callbacks_by_number on callbacks (project, number, fired_at);

create table do_not_call (
    project text not null,
    number  text not null,
    since   bigint not null,
    primary key (project, number)
);

-- What models were asked for, by day (UTC).
create table model_usage (
    project    text not null,
    day        text not null,
    requests   bigint not null,
    tokens     bigint not null,
    primary key (project, day)
);

insert into store_version (version) values (5);
