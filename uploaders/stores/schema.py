"""The schema of a store: its numbered migrations, and what must be true of its rows."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from uploaders.stores.parts import PartKind
from uploaders.stores.store import SchemaTooNew

# Migrations: files `NNNN_name.sql` beside a store's code, applied in order, never changed later.

_NUMBERED = re.compile(r"(\d{4})_\w+\.sql$")


def migrations_of(package: str) -> Mapping[int, str]:
    """The text of each migration of a package by its number, in order."""
    found = {}
    for entry in files(package).iterdir():
        numbered = _NUMBERED.match(entry.name)
        if numbered:
            assert int(numbered[1]) not in found, f"two migrations of {package} have the number {numbered[1]}"
            found[int(numbered[1])] = entry.read_text("utf-8")
    return dict(sorted(found.items()))


def pending(migrations: Mapping[int, str], version: int) -> Mapping[int, str]:
    """What a schema of this version lacks. Raises `SchemaTooNew` for a version that is not known here."""
    newest = max(migrations)
    if version > newest:
        raise SchemaTooNew(
            f"the schema of the store has version {version}, this callspool knows up to {newest}; "
            "run the callspool that migrated it or a newer one (nothing was changed)"
        )
    return {number: script for number, script in migrations.items() if number > version}


# Checks: each statement counts the rows for which something is not true that must be.

_PART_OF_ROW: Final = "p.project = c.project AND p.call_id = c.call_id AND p.digest = c.{0}_digest AND p.kind IN ({1})"


def _unshown(slot: str, *kinds: PartKind) -> str:
    part = _PART_OF_ROW.format(slot, ", ".join(str(int(kind)) for kind in kinds))
    return (
        f"SELECT count(*) FROM calls_complete c WHERE c.{slot}_digest IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM call_parts p WHERE {part})"
    )


CHECKS: Final[Mapping[str, str]] = {
    "parts without the row of their call": (
        "SELECT count(*) FROM call_parts p WHERE NOT EXISTS "
        "(SELECT 1 FROM calls_complete c WHERE c.project = p.project AND c.call_id = p.call_id)"
    ),
    "calls without any part": (
        "SELECT count(*) FROM calls_complete c WHERE NOT EXISTS "
        "(SELECT 1 FROM call_parts p WHERE p.project = c.project AND p.call_id = c.call_id)"
    ),
    "calls whose start is missing": _unshown("start", PartKind.START),
    "calls whose end is missing": _unshown("end", PartKind.END, PartKind.CALL),
    "calls whose detail is missing": _unshown("detail", PartKind.DETAIL),
    "calls that are complete without a start and an end": (
        "SELECT count(*) FROM calls_complete WHERE completed_at IS NOT NULL AND end_digest IS NULL"
    ),
}
"""The same text for SQLite and PostgreSQL."""


def finding(what: str, count: int) -> str:
    """A sentence for people."""
    return f"{count} {what}"
