-- Calls that became complete and are still to be announced; written only where somebody subscribes to `call_complete`.

create table completions (
    completion_id bigint generated always as identity primary key,
    project       text not null,
    call_id       text not null,
    claimed_by    text,
    claimed_at    timestamptz,
    unique (project, call_id)
);

insert into store_version (version) values (3);
