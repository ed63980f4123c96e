-- Through which gateways a record came, so that one that leads back to a gateway is recognised there.
BEGIN IMMEDIATE;

-- The marks of the gateways that passed it on, the first one first, as `Via` lists them (RFC 9110); NULL: none did.
ALTER TABLE records ADD COLUMN via TEXT;

PRAGMA user_version = 7;
COMMIT;
