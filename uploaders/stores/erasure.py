"""Erasing calls from the stores that SQL statements reach by name: SQLite and PostgreSQL. Pure statements."""

from collections.abc import Sequence
from typing import Final

from uploaders.stores.parts import key_text
from uploaders.stores.pipeline import SQLITE, Database, Statement
from uploaders.stores.store import CallKey, CallsWanted

_OF_CALL: Final = "project = :project AND call_id = :call_id"
_TABLES: Final = ("spans", "detail_documents", "completions", "calls_complete", "call_parts")
_SQLITE_DETAILS: Final = tuple(
    f"DELETE FROM {table} WHERE detail_id IN (SELECT detail_id FROM call_parts WHERE {_OF_CALL})"
    for table in ("call_details", "details")
)
_POSTGRES_DETAILS: Final = (f"DELETE FROM call_details WHERE {_OF_CALL}",)


async def find_calls(database: Database, wanted: CallsWanted) -> list[CallKey]:
    """The calls that are meant, of all projects; of the parts of a call one is enough to know it by."""
    in_head = "json_extract(head, '$.{}')" if database.dialect is SQLITE else "(head ->> '{}')"
    statements: list[Statement] = [
        ("SELECT DISTINCT project, call_id FROM call_parts WHERE call_id = :value", {"value": key_text(call_id)})
        for call_id in wanted.call_ids
    ]
    for name, value in (("customer_number", wanted.customer_number), ("agent_id", wanted.agent_id)):
        if value is not None:
            statements += [
                (f"SELECT project, call_id FROM {table} WHERE {column} = :value", {"value": value})
                for table, column in (("calls_complete", name), ("call_parts", in_head.format(name)))
            ]
    found = await database.run(statements) if statements else []
    return sorted({(project, call_id) for rows in found for project, call_id in rows})


async def delete_calls(database: Database, keys: Sequence[CallKey]) -> int:
    """Delete each of these calls in a transaction of its own; returns how many parts they had."""
    details = _SQLITE_DETAILS if database.dialect is SQLITE else _POSTGRES_DETAILS
    count = 0
    for project, call_id in keys:
        values: dict[str, object] = {"project": project, "call_id": call_id}
        deleted = [(statement, values) for statement in details]
        deleted += [(f"DELETE FROM {table} WHERE {_OF_CALL} RETURNING call_id", values) for table in _TABLES]
        count += len((await database.run(deleted))[-1])
    return count
