"""The numbered migrations of a store: files `NNNN_name.sql` beside its code, applied in order, never changed later."""

import re
from collections.abc import Mapping
from importlib.resources import files

from uploaders.stores.store import SchemaTooNew

_NUMBERED = re.compile(r"(\d{4})_\w+\.sql$")


def migrations_of(package: str) -> Mapping[int, str]:
    """The text of each migration of a package by its number, in order."""
    found = {}
    for entry in files(package).iterdir():
        numbered = _NUMBERED.match(entry.name)
        if numbered:
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
