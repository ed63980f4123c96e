-- Spans and details as JSON that SQL can read, where a store is to keep them: `json`, which keeps the text.

alter table spans add column body json;

create table detail_documents (
    project  text not null,
    call_id  text not null,
    digest   bytea not null,
    document json not null,
    primary key (project, call_id, digest)
);
alter table detail_documents alter column document set storage external;

insert into store_version (version) values (4);
