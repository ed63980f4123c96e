-- What an owner has claimed, of all jobs that are kept: a renewal of its claims would read every one of them.

create index pipeline_jobs_claimed on pipeline_jobs (claimed_by) where claimed_by is not null;

insert into store_version (version) values (9);
