-- Agents that an operator assigned to tenants while the gateway ran, and what belongs to nobody yet.
BEGIN IMMEDIATE;

CREATE TABLE agents (
    agent_id TEXT NOT NULL PRIMARY KEY,
    tenant   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- An entry for each open record without a tenant of its own, and none for any other: it costs the other posts nothing.
CREATE INDEX unassigned ON records (agent_id) WHERE tenant = 'unassigned' AND settled_at IS NULL;

PRAGMA user_version = 9;
COMMIT;
