"""What a store keeps of the calls that a pipeline works on, as values, and what it asks of an engine for that.

Times are milliseconds since the Unix epoch by the clock of whoever asks. The statements, here and in `pipeline_tables`,
are the same for SQLite and PostgreSQL; an engine runs some of them as one transaction (`Database`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any, Final, Protocol, runtime_checkable

from msgspec import Struct

from spool.records import Clock
from uploaders.stores.parts import key_text
from uploaders.stores.store import CallKey

Statement = tuple[str, Mapping[str, object]]
Rows = list[tuple[Any, ...]]  # Any: columns


class JobState(IntEnum):
    """Where the work on a call stands. The numbers are stored."""

    QUEUED = 0
    """Steps are left; `due_at` says from when on."""
    DONE = 1
    """All steps are finished."""
    SKIPPED = 2
    """There is nothing to work on, or nobody may."""
    FAILED = 3
    """A database or a vector store refuses it, again and again: `pipeline redo` tries it once more."""


class Step(StrEnum):
    """The steps whose output is kept, because it may have cost money."""

    SUMMARY = "summary"
    EMBEDDING = "embedding"


class CallbackState(StrEnum):
    """Where a callback stands."""

    WAITING = "waiting"
    """Its time has not come, or nobody could take it."""
    FIRED = "fired"
    """It became a record."""
    CANCELLED = "cancelled"
    """By an operator, a limit, or because the number may not be called."""
    DONE = "done"
    """Somebody has called them."""


class CallText(Struct, frozen=True):
    """What a pipeline needs of a call."""

    turns: tuple[tuple[str, str], ...] = ()
    """Who spoke (`caller` or `agent`) and what, in order."""
    provider_summary: str | None = None
    number: str | None = None
    """The caller's, as the call's metadata have it."""
    names: tuple[str, ...] = ()
    """Of the caller, as the metadata have them: never sent to a model elsewhere."""
    agent_id: str | None = None
    started_at: int | None = None
    ended_at: int | None = None
    opted_out: bool = False
    """The provider says that nothing of it may be kept."""

    def merged(self, other: "CallText") -> "CallText":
        """This, which is the newer one, with what the other knows besides."""
        return CallText(
            self.turns or other.turns,
            self.provider_summary or other.provider_summary,
            self.number or other.number,
            self.names or other.names,
            self.agent_id or other.agent_id,
            self.started_at if self.started_at is not None else other.started_at,
            self.ended_at if self.ended_at is not None else other.ended_at,
            self.opted_out or other.opted_out,
        )


class NewText(Struct, frozen=True):
    """A call that is to be worked on."""

    project: str
    call_id: str
    accepted_at: int
    text: CallText


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed call."""

    project: str
    call_id: str
    accepted_at: int
    digest: bytes
    """Of `text`: what is finished under another one is not up to date."""
    attempts: int
    """How often it was postponed because something failed."""
    bad_answers: int
    """How many answers were paid for and could not be used, since a step was finished."""
    asking: bool
    """A model was asked and nobody heard its answer: whoever asked was killed."""
    text: CallText

    @property
    def key(self) -> CallKey:
        """What names it."""
        return (self.project, self.call_id)


class StepOutput(Struct, frozen=True):
    """What a step made."""

    input_hash: bytes
    output: bytes
    made_by: str
    """The model, for people."""


class NewCallback(Struct, frozen=True):
    """A caller wants to be called."""

    due_at: int
    zone: str
    words: str
    """Of the caller, as they were understood."""
    number: str


class Insight(Struct, frozen=True):
    """What came of a call."""

    summary: str
    source: str
    """`provider`, `llm`, `extractive` or `none`."""
    sentiment: str | None = None
    callback: NewCallback | None = None


class FoundInsight(Struct, frozen=True):
    """What a search finds."""

    call_id: str
    summary: str
    summary_source: str
    sentiment: str | None
    agent_id: str | None
    customer_number: str | None
    listed_at: int


class Callback(Struct, frozen=True):
    """A callback as it is stored."""

    project: str
    call_id: str
    due_at: int
    zone: str
    words: str
    number: str
    agent_id: str | None
    state: str
    reason: str | None
    created_at: int
    fired_at: int | None
    record_uid: str | None


@dataclass(frozen=True, slots=True)
class TextQuery:
    """Which calls to find by their words, the newest first."""

    project: str = ""
    words: str = ""
    limit: int = 10
    agent_id: str | None = None
    customer_number: str | None = None
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Redo:
    """Which calls to work on once more, and from which step on."""

    step: Step = Step.SUMMARY
    project: str | None = None
    since: int | None = None
    state: JobState | None = None
    source: str | None = None
    """Only those whose summary came from here."""


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """The queue at one moment."""

    jobs: Mapping[JobState, int]
    oldest_queued: int | None
    """When the oldest of the queued calls was accepted."""
    callbacks: Mapping[str, int]
    sources: Mapping[str, int] = field(default_factory=dict)
    """How many summaries came from where."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why calls wait, were skipped or failed: the most frequent reasons."""


_WORD: Final = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Dialect:
    """In what the engines differ."""

    prepare: tuple[str, ...]
    """Statements that make the full-text index."""
    lock: str
    """At the end of a query whose rows are updated."""
    put_words: tuple[str, ...]
    """Index the `:words` of a call."""
    forget_words: tuple[str, ...]
    matches: str
    """A condition on `call_insights i`, with `:words`."""
    vector_tables: str
    """A query for the names of the tables that hold vectors."""

    def query(self, words: str) -> str:
        """What people type as the engine's own query: all of the words."""
        return " ".join(f'"{word}"' for word in _WORD.findall(words)) if self is SQLITE else self.indexed(words)

    def indexed(self, text: str) -> str:
        """A text as the full-text index takes it. PostgreSQL would keep addresses and numbers in one piece, with signs:
        `-1234` of 555-1234, and all of jo@example.com, which no word of theirs finds."""
        return text if self is SQLITE else " ".join(_WORD.findall(text))


_OF_CALL: Final = "project = :project AND call_id = :call_id"
SQLITE: Final = Dialect(
    prepare=("CREATE VIRTUAL TABLE IF NOT EXISTS call_words USING fts5 (words, tokenize = 'unicode61')",),
    lock="",
    put_words=(
        f"DELETE FROM call_words WHERE rowid IN (SELECT insight_id FROM call_insights WHERE {_OF_CALL})",
        f"INSERT INTO call_words (rowid, words) SELECT insight_id, :words FROM call_insights WHERE {_OF_CALL}",
    ),
    forget_words=(f"DELETE FROM call_words WHERE rowid IN (SELECT insight_id FROM call_insights WHERE {_OF_CALL})",),
    matches="i.insight_id IN (SELECT rowid FROM call_words WHERE call_words MATCH :words)",
    vector_tables="SELECT name FROM sqlite_schema WHERE type = 'table' AND name = 'call_vectors'",
)
POSTGRES: Final = Dialect(
    prepare=(),
    lock="FOR UPDATE SKIP LOCKED",
    put_words=(f"UPDATE call_insights SET words = to_tsvector('simple', CAST(:words AS text)) WHERE {_OF_CALL}",),
    forget_words=(),
    matches="i.words @@ plainto_tsquery('simple', CAST(:words AS text))",
    vector_tables=(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^call_vectors_[0-9]+$' "
        "AND pg_table_is_visible(oid)"
    ),
)


@runtime_checkable
class Database(Protocol):
    """An engine, as far as a pipeline needs it. Every method raises `StoreError`."""

    @property
    def dialect(self) -> Dialect:
        """How it wants some statements."""

    async def run(self, statements: Sequence[Statement], *, fenced: bool = False) -> list[Rows]:
        """All of them in one transaction, durable with what they return; parameters are `:named`.

        With `fenced`, none after the first is run where that one returns no rows: the list is shorter then.
        """


# Callbacks: who wants to be called, when, what became of it, and whom nobody may call.

LEASE_MILLISECONDS: Final = 5 * 60_000
"""How long a claim lasts: what a receiver that was killed had claimed, another one takes over then."""
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

    async def claim(self, owner: str, limit: int) -> list[Callback]:
        """Those that are due: the owner's alone for `LEASE_MILLISECONDS`."""
        now = self._clock()
        statement = _CLAIM_CALLBACKS.format(lock=self._dialect.lock, columns=_CALLBACK_COLUMNS)
        given = {"owner": owner, "now": now, "until": now + LEASE_MILLISECONDS, "limit": limit}
        (rows,) = await self._run((statement, given))
        return sorted([Callback(*row) for row in rows], key=lambda each: each.due_at)

    async def renew(self, callback: Callback, owner: str) -> bool:
        """Whether it is the owner's still, and waits: nobody cancelled it, and its lease has not ended. Renews that."""
        statement = (
            f"UPDATE callbacks SET claimed_until = :until WHERE {_OF_CALL} AND state = 'waiting' "
            "AND claimed_by = :owner AND claimed_until > :now RETURNING call_id"
        )
        now = self._clock()
        given = {**_key(callback), "owner": owner, "now": now, "until": now + LEASE_MILLISECONDS}
        (rows,) = await self._run((statement, given))
        return bool(rows)

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
