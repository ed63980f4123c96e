"""Deleting calls from the stores that take the same statements: SQLite and PostgreSQL."""

import json
from collections.abc import Sequence
from typing import Final, Protocol

from uploaders.stores.parts import key_text, storable_text
from uploaders.stores.pipeline import SQLITE, Database, Dialect, Statement
from uploaders.stores.store import CallKey, CallsWanted, NumberFound, OldCalls

_OF_CALL: Final = "project = :project AND call_id = :call_id"
_TABLES: Final = ("spans", "detail_documents", "completions", "calls_complete", "call_parts")
_SQLITE_DETAILS: Final = tuple(
    f"DELETE FROM {table} WHERE detail_id IN (SELECT detail_id FROM call_parts WHERE {_OF_CALL})"
    for table in ("call_details", "details")
)
_POSTGRES_DETAILS: Final = (
    # As `write_detail` does at its end: one that commits in between would leave its frames behind.
    "SELECT pg_advisory_xact_lock(hashtextextended(:project, hashtext(:call_id)))",
    f"DELETE FROM call_details WHERE {_OF_CALL}",
)

_OF_ID: Final = """
WITH RECURSIVE w (project) AS (
    SELECT min(project) FROM call_parts
    UNION ALL
    SELECT (SELECT min(p.project) FROM call_parts p WHERE p.project > w.project) FROM w WHERE w.project IS NOT NULL
)
SELECT DISTINCT p.project, p.call_id FROM w CROSS JOIN call_parts p
WHERE p.project = w.project AND p.call_id = :value
"""
"""The calls of an id, by the key of parts in each project: without that, all keys are read for each id."""
_LISTED: Final = ("jsonb_array_elements_text(CAST(:all_but AS jsonb))", "json_each(:all_but)")
"""The names in a list, for PostgreSQL and for SQLite: as `value`."""


def _columns(dialect: Dialect, name: str) -> tuple[tuple[str, str], ...]:
    """Where a text of the head stands: tables, and expressions of their columns."""
    in_head = f"json_extract(head, '$.{name}')" if dialect is SQLITE else f"(head ->> '{name}')"
    return ("calls_complete", name), ("call_parts", in_head)


class _Deletes(Database, Protocol):
    """An engine that says what is old."""

    def before(self, keep: int) -> tuple[str, dict[str, object]]:
        """The time that is so many milliseconds ago, as an expression with these values."""


class DeletesCalls:
    """Finds and deletes calls, for a store that is a `Database` and has `before`."""

    async def find_calls(self: Database, wanted: CallsWanted) -> list[CallKey]:
        """See `Store.find_calls`."""
        statements: list[Statement] = [(_OF_ID, {"value": key_text(call_id)}) for call_id in wanted.call_ids]
        if wanted.agent_id is not None:
            statements += [
                (
                    f"SELECT project, call_id FROM {table} WHERE {column} = :value",
                    {"value": storable_text(wanted.agent_id)},
                )
                for table, column in _columns(self.dialect, "agent_id")
            ]
        found = await self.run(statements) if statements else []
        return sorted({(project, call_id) for rows in found for project, call_id in rows})

    async def find_numbers(self: Database, like: str) -> list[NumberFound]:
        """See `Store.find_numbers`."""
        found = await self.run([
            (f"SELECT DISTINCT project, call_id, {column} FROM {table} WHERE {column} LIKE :like", {"like": like})
            for table, column in _columns(self.dialect, "customer_number")
        ])  # fmt: skip
        return sorted({NumberFound(*row) for rows in found for row in rows})

    async def old_calls(self: "_Deletes", wanted: OldCalls) -> list[CallKey]:
        """See `Store.old_calls`."""
        before, values = self.before(wanted.keep)
        conditions = [f"p.received_at < {before}"]
        conditions.append(
            "NOT EXISTS (SELECT 1 FROM call_parts n WHERE n.project = p.project AND n.call_id = p.call_id "
            f"AND n.received_at >= {before})"
        )
        given = {"limit": wanted.limit, **values}
        if wanted.project is not None:
            conditions.append("p.project = :project")
            given["project"] = wanted.project
        if wanted.all_but:
            conditions.append(f"p.project NOT IN (SELECT value FROM {_LISTED[self.dialect is SQLITE]})")
            given["all_but"] = json.dumps(wanted.all_but)
        where = " AND ".join(conditions)
        statement = f"SELECT DISTINCT p.project, p.call_id FROM call_parts p WHERE {where} LIMIT :limit"
        (rows,) = await self.run([(statement, given)])
        return [(project, call_id) for project, call_id in rows]

    async def delete(self: Database, keys: Sequence[CallKey]) -> int:
        """See `Store.delete`. Each call goes in a transaction of its own."""
        details = _SQLITE_DETAILS if self.dialect is SQLITE else _POSTGRES_DETAILS
        count = 0
        for project, call_id in keys:
            values: dict[str, object] = {"project": project, "call_id": call_id}
            deleted = [(statement, values) for statement in details]
            deleted += [(f"DELETE FROM {table} WHERE {_OF_CALL} RETURNING call_id", values) for table in _TABLES]
            count += len((await self.run(deleted))[-1])
        return count
