"""The database as SQLite sees it: its version, its pages and indexes, and the log behind it."""

import sqlite3
from collections.abc import Iterator

from spool.database import newest_version
from spool.fsck.findings import Finding, Kind
from spool.fsck.inspection import Inspection

PAGES = "pages and indexes"
MOST_LINES = 100
"""SQLite stops after so many faults."""

VERSION = "PRAGMA user_version"
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"


def check_version(inspection: Inspection) -> Finding | None:
    """Whether the schema is another one than this callspool's; then nothing more can be said."""
    found = int(inspection.connection.execute(VERSION).fetchone()[0])
    newest = newest_version()
    if found > newest:
        return Finding(Kind.NEWER_SCHEMA, "schema", f"has version {found}; this callspool knows up to {newest}")
    if found < newest:
        return Finding(Kind.OLDER_SCHEMA, "schema", f"has version {found}; this callspool writes {newest}")
    return None


def check_pages(inspection: Inspection) -> Iterator[Finding]:
    """SQLite's own check. Beside a running gateway table by table, so that no snapshot is held for long."""
    for done, statement in enumerate(statements := _statements(inspection)):
        inspection.tell(PAGES, done, len(statements))
        for (line,) in inspection.connection.execute(statement).fetchall():
            if line != "ok":
                yield Finding(Kind.MALFORMED, "database", str(line).replace("\n", "; "))
    inspection.tell(PAGES, 1, 1)


def _statements(inspection: Inspection) -> list[str]:
    if not inspection.live:
        return [f"PRAGMA integrity_check({MOST_LINES})"]
    return [f"PRAGMA integrity_check({name})" for (name,) in inspection.connection.execute(TABLES).fetchall()]


DAMAGE = (sqlite3.Error, TypeError, ValueError, LookupError, OverflowError)
"""What reading damaged rows can raise: whatever stands in a column, its type is not the schema's any more."""


def unreadable(what: str, error: Exception) -> Finding:
    """That a check could not be made, for the database could not be read there."""
    return Finding(Kind.UNREADABLE, what, str(error))
