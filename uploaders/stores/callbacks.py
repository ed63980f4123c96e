"""Callbacks in a store: who wants to be called, when, what became of it, and whom nobody may call."""

from typing import Final

from spool.records import Clock
from uploaders.stores.parts import key_text
from uploaders.stores.pipeline import Callback, CallbackState, Database, Rows, Statement

LEASE_MILLISECONDS: Final = 5 * 60_000
"""How long a claim lasts: what a receiver that was killed had claimed, another one takes over then."""
_OF_CALL: Final = "project = :project AND call_id = :call_id"
_CALLBACK_COLUMNS: Final = (
    "project, call_id, due_at, zone, words, number, agent_id, state, reason, created_at, fired_at, record_uid"
)
_CLAIM_CALLBACKS: Final = """
UPDATE callbacks SET claimed_by = :owner, claimed_until = :until
WHERE (project, call_id) IN (
    SELECT project, call_id FROM callbacks
    WHERE state = 'waiting' AND due_at <= :now AND (claimed_until <= :now OR claimed_by = :owner)
    ORDER BY due_at LIMIT :limit {lock})
RETURNING {columns}
"""


class CallbackTables:
    """The callbacks of one store. Every method raises `StoreError`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._dialect = database.dialect

    async def find(self, project: str | None = None, state: str | None = None, limit: int = 100) -> list[Callback]:
        """Those of a project, or all; the next ones first."""
        given = {"project": project, "state": state}
        conditions = [f"{name} = :{name}" for name, value in given.items() if value is not None]
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        statement = f"SELECT {_CALLBACK_COLUMNS} FROM callbacks{where} ORDER BY due_at, call_id LIMIT :limit"
        values = {name: value for name, value in given.items() if value is not None}
        (rows,) = await self._run((statement, {**values, "limit": limit}))
        return [Callback(*row) for row in rows]

    async def next_at(self) -> int | None:
        """When the next one is due."""
        ((row,),) = await self._run(("SELECT min(due_at) FROM callbacks WHERE state = 'waiting'", {}))
        return None if row[0] is None else int(row[0])

    async def claim(self, owner: str, limit: int) -> list[Callback]:
        """Those that are due: the owner's alone for `LEASE_MILLISECONDS`."""
        now = self._clock()
        statement = _CLAIM_CALLBACKS.format(lock=self._dialect.lock, columns=_CALLBACK_COLUMNS)
        given = {"owner": owner, "now": now, "until": now + LEASE_MILLISECONDS, "limit": limit}
        (rows,) = await self._run((statement, given))
        return sorted([Callback(*row) for row in rows], key=lambda each: each.due_at)

    async def fired(self, callback: Callback, record_uid: str) -> None:
        """It became this record."""
        change = "state = 'fired', fired_at = :now, record_uid = :uid, claimed_by = NULL, claimed_until = 0"
        given = {**_key(callback), "now": self._clock(), "uid": record_uid}
        await self._run((f"UPDATE callbacks SET {change} WHERE {_OF_CALL} AND state = 'waiting'", given))

    async def move(self, callback: Callback, due_at: int, reason: str) -> None:
        """It waits until then."""
        change = "due_at = :due_at, reason = :reason, claimed_by = NULL, claimed_until = 0"
        given = {**_key(callback), "due_at": due_at, "reason": reason}
        await self._run((f"UPDATE callbacks SET {change} WHERE {_OF_CALL} AND state = 'waiting'", given))

    async def cancel(
        self, project: str, call_id: str, reason: str, state: CallbackState = CallbackState.CANCELLED
    ) -> bool:
        """End it without a call of ours: cancelled, or done by somebody. Whether it still waited."""
        change = "state = :state, reason = :reason, claimed_by = NULL, claimed_until = 0"
        statement = f"UPDATE callbacks SET {change} WHERE {_OF_CALL} AND state = 'waiting' RETURNING call_id"
        given = {"project": project, "call_id": key_text(call_id), "reason": reason, "state": state.value}
        (rows,) = await self._run((statement, given))
        return bool(rows)

    async def reopen(self, project: str, call_id: str) -> bool:
        """Let what was ended so wait again, due when it was before. Whether it had been."""
        change = "state = 'waiting', reason = NULL"
        statement = (
            f"UPDATE callbacks SET {change} WHERE {_OF_CALL} AND state IN ('cancelled', 'done') RETURNING call_id"
        )
        (rows,) = await self._run((statement, {"project": project, "call_id": key_text(call_id)}))
        return bool(rows)

    async def hasten(self, project: str, call_id: str) -> bool:
        """Make it due now. Whether it still waited."""
        statement = f"UPDATE callbacks SET due_at = :now WHERE {_OF_CALL} AND state = 'waiting' RETURNING call_id"
        given = {"project": project, "call_id": key_text(call_id), "now": self._clock()}
        (rows,) = await self._run((statement, given))
        return bool(rows)

    async def fired_since(self, project: str, number: str, since: int) -> int:
        """How often this number was called back."""
        statement = (
            "SELECT count(*) FROM callbacks WHERE project = :project AND number = :number AND fired_at >= :since"
        )
        ((row,),) = await self._run((statement, {"project": project, "number": number, "since": since}))
        return int(row[0])

    async def may_not_call(self, project: str, number: str) -> bool:
        """Whether it is on the do-not-call list of this project, or of all."""
        statement = "SELECT 1 FROM do_not_call WHERE project IN ('', :project) AND number = :number"
        (rows,) = await self._run((statement, {"project": project, "number": number}))
        return bool(rows)

    async def block_number(self, project: str, number: str, *, blocked: bool) -> None:
        """Put it on the list, or take it off."""
        given = {"project": project, "number": number, "now": self._clock()}
        statement = (
            "INSERT INTO do_not_call (project, number, since) VALUES (:project, :number, :now) ON CONFLICT DO NOTHING"
            if blocked
            else "DELETE FROM do_not_call WHERE project = :project AND number = :number"
        )
        await self._run((statement, given))

    async def _run(self, *statements: Statement) -> list[Rows]:
        return await self._database.run(statements)


def _key(callback: Callback) -> dict[str, object]:
    return {"project": callback.project, "call_id": callback.call_id}
