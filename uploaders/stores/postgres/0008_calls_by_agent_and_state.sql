-- Lists of the calls of one agent that are not complete: these are few among all of the agent, and among all of a state.

create index calls_by_agent_and_state on calls_complete (project, state, agent_id, listed_at desc, call_id)
    where state <> 3 and agent_id is not null;

insert into store_version (version) values (8);
