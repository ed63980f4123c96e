-- Lists of the calls of one agent that are not complete: these are few among all of the agent, and among all of a state.
BEGIN IMMEDIATE;

CREATE INDEX calls_by_agent_and_state ON calls_complete (project, state, agent_id, listed_at DESC, call_id)
    WHERE state <> 3 AND agent_id IS NOT NULL;

PRAGMA user_version = 7;
COMMIT;
