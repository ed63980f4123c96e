-- Whose call is to be erased; NULL: whoever's has the id, empty: that of no tenant. NULL as well once it is erased.
BEGIN IMMEDIATE;
ALTER TABLE erasures ADD COLUMN tenant TEXT;
PRAGMA user_version = 17;
COMMIT;
