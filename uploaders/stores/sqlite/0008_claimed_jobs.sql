-- What an owner has claimed, of all jobs that are kept: a renewal of its claims would read the text of every call.
BEGIN IMMEDIATE;

CREATE INDEX pipeline_jobs_claimed ON pipeline_jobs (claimed_by) WHERE claimed_by IS NOT NULL;

PRAGMA user_version = 8;
COMMIT;
