-- Lists of calls that are not complete (state 3), which are few among many: without this a list of them reads all.

create index calls_by_state on calls_complete (project, state, listed_at desc, call_id) where state <> 3;

insert into store_version (version) values (6);
