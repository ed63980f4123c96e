"""The tables of a pipeline in a store: the queue, the journal and what came of calls, the same for every engine.

A job is claimed under a lease: whoever does not renew it loses it, so that several receivers share a queue, and what a
killed one had is taken over. A step is finished once its output is in the journal under the digest of its input.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from spool.records import Clock
from uploaders.stores.parts import key_text, storable_text
from uploaders.stores.pipeline import (
    POSTGRES,
    CallText,
    Database,
    FoundInsight,
    Insight,
    Job,
    JobState,
    NewText,
    PipelineStatus,
    Redo,
    Rows,
    Statement,
    Step,
    StepOutput,
    TextQuery,
)
from uploaders.stores.store import CallKey

LEASE_MILLISECONDS: Final = 5 * 60_000
"""How long a claim lasts unless it is renewed."""
TEXT_CHARACTERS: Final = 200_000
"""Of a transcript, what the full-text index takes: PostgreSQL's holds 1 MiB."""
_OF_CALL: Final = "project = :project AND call_id = :call_id"
_WITH_REASON: Final = f"{JobState.QUEUED:d}, {JobState.SKIPPED:d}, {JobState.FAILED:d}"
_MADE: Final = ("call_insights", "pipeline_steps", "callbacks")
"""Tables of what is made of a call, besides words and vectors."""
_encode_text = msgspec.msgpack.Encoder().encode
_decode_text = msgspec.msgpack.Decoder(CallText).decode
_EXISTING: Final = f"SELECT accepted_at, digest, text FROM pipeline_jobs WHERE {_OF_CALL}"
_ENQUEUE: Final = """
INSERT INTO pipeline_jobs AS j (project, call_id, accepted_at, digest, text, state, due_at)
VALUES (:project, :call_id, :accepted_at, :digest, :text, :state, :now)
ON CONFLICT (project, call_id) DO UPDATE SET accepted_at = excluded.accepted_at, digest = excluded.digest,
    text = excluded.text, state = excluded.state, due_at = excluded.due_at, attempts = 0, bad_answers = 0,
    claimed_by = NULL, claimed_until = 0, reason = NULL
WHERE j.digest = :before
RETURNING call_id
"""
_WAITING: Final = f"""
WITH RECURSIVE p (project) AS (
    SELECT min(project) FROM pipeline_jobs WHERE state = {JobState.QUEUED:d}
    UNION ALL
    SELECT (SELECT min(j.project) FROM pipeline_jobs j WHERE j.state = {JobState.QUEUED:d} AND j.project > p.project)
    FROM p WHERE p.project IS NOT NULL
)
SELECT p.project FROM p WHERE EXISTS (
    SELECT 1 FROM pipeline_jobs j
    WHERE j.state = {JobState.QUEUED:d} AND j.project = p.project AND j.due_at <= :now AND j.claimed_until <= :now)
"""
"""The tenants that have something to do: one step through the index for each, however much they have."""
_CLAIM: Final = """
UPDATE pipeline_jobs SET claimed_by = :owner, claimed_until = :until
WHERE (project, call_id) IN (
    SELECT project, call_id FROM pipeline_jobs
    WHERE state = {queued:d} AND project = :project AND due_at <= :now AND claimed_until <= :now
    ORDER BY due_at, call_id LIMIT :limit {lock})
RETURNING project, call_id, accepted_at, digest, attempts, bad_answers, asking, text
"""
_MINE: Final = f"{_OF_CALL} AND claimed_by = :owner AND digest = :digest"
_RENEW: Final = "UPDATE pipeline_jobs SET claimed_until = :until WHERE claimed_by = :owner AND claimed_until > 0"
_RELEASE: Final = "UPDATE pipeline_jobs SET claimed_by = NULL, claimed_until = 0 WHERE claimed_by = :owner"
_ASK: Final = f"UPDATE pipeline_jobs SET asking = 1 WHERE {_OF_CALL}"
_HEARD: Final = f"""
UPDATE pipeline_jobs SET asking = 0, bad_answers = bad_answers + 1 WHERE {_OF_CALL} RETURNING bad_answers
"""
_STEP_ENDED: Final = f"UPDATE pipeline_jobs SET asking = 0, bad_answers = 0 WHERE {_OF_CALL} RETURNING call_id"
_STEP: Final = f"SELECT input_hash, output, made_by FROM pipeline_steps WHERE {_OF_CALL} AND step = :step"
_RECORD: Final = """
INSERT INTO pipeline_steps (project, call_id, step, input_hash, output, made_by, made_at)
VALUES (:project, :call_id, :step, :input_hash, :output, :made_by, :now)
ON CONFLICT (project, call_id, step) DO UPDATE SET input_hash = excluded.input_hash, output = excluded.output,
    made_by = excluded.made_by, made_at = excluded.made_at
"""
_SPEND: Final = """
INSERT INTO model_usage AS u (project, day, requests, tokens) VALUES (:project, :day, :requests, :tokens)
ON CONFLICT (project, day) DO UPDATE SET requests = u.requests + excluded.requests, tokens = u.tokens + excluded.tokens
"""
_SPENT: Final = "SELECT requests FROM model_usage WHERE project = :project AND day = :day"
_POSTPONE: Final = f"""
UPDATE pipeline_jobs SET due_at = :due_at, attempts = attempts + :counted, reason = :reason, claimed_by = NULL,
    claimed_until = 0, asking = 0
WHERE {_MINE}
"""
_END: Final = f"""
UPDATE pipeline_jobs SET state = :state, reason = :reason, attempts = 0, bad_answers = 0, asking = 0,
    claimed_by = NULL, claimed_until = 0
WHERE {_MINE} RETURNING call_id
"""
_ASK_NO_MORE: Final = f"UPDATE pipeline_jobs SET asking = 0 WHERE {_MINE} RETURNING call_id"
_HOLDS: Final = f"SELECT 1 FROM pipeline_jobs WHERE {_MINE}"
_IS_KNOWN: Final = f"SELECT 1 FROM pipeline_jobs WHERE {_OF_CALL}"
_PUT_INSIGHT: Final = """
INSERT INTO call_insights (project, call_id, summary, summary_source, sentiment, agent_id, customer_number, listed_at,
                           made_at{words})
VALUES (:project, :call_id, :summary, :source, :sentiment, :agent_id, :number, :listed_at, :now{empty})
ON CONFLICT (project, call_id) DO UPDATE SET summary = excluded.summary, summary_source = excluded.summary_source,
    sentiment = excluded.sentiment, agent_id = excluded.agent_id, customer_number = excluded.customer_number,
    listed_at = excluded.listed_at, made_at = excluded.made_at
"""
_PUT_CALLBACK: Final = """
INSERT INTO callbacks AS c (project, call_id, due_at, zone, words, number, agent_id, state, created_at)
VALUES (:project, :call_id, :due_at, :zone, :quoted, :number, :agent_id, 'waiting', :now)
ON CONFLICT (project, call_id) DO UPDATE SET due_at = excluded.due_at, zone = excluded.zone, words = excluded.words,
    number = excluded.number, agent_id = excluded.agent_id
WHERE c.state = 'waiting' AND c.claimed_until <= :now
"""
_NO_CALLBACK: Final = f"DELETE FROM callbacks WHERE {_OF_CALL} AND state = 'waiting' AND claimed_until <= :now"
_INSIGHT_COLUMNS: Final = (
    "i.call_id, i.summary, i.summary_source, i.sentiment, i.agent_id, i.customer_number, i.listed_at"
)


def digest_of(text: CallText) -> bytes:
    """What tells two texts apart."""
    return hashlib.sha256(_encode_text(text)).digest()


class PipelineTables:
    """The tables of one store. Every method raises `StoreError`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._dialect = database.dialect

    def belong_to(self, database: object) -> bool:
        """Whether they are of this store."""
        return self._database is database

    async def prepare(self) -> None:
        """Make what the migrations of the store leave to whoever uses a pipeline."""
        await self._run(*[(statement, {}) for statement in self._dialect.prepare])

    # The queue.

    async def enqueue(self, texts: Sequence[NewText]) -> int:
        """Queue calls, and what is new of calls that are here; one of which nothing is new stays as it is.

        Returns how many have work to do now. The order in which the parts of a call come does not matter.
        """
        left = list(texts)
        queued = 0
        while left:
            existing = await self._run(*[(_EXISTING, _key(each)) for each in left])
            writes = [write for each, rows in zip(left, existing, strict=True) if (write := self._write(each, rows))]
            # A receiver that wrote the same call in between changed its digest: those are read again.
            results = await self._run(*[(_ENQUEUE, values) for values, _ in writes])
            queued += sum(bool(rows) for rows in results)
            left = [each for (_, each), rows in zip(writes, results, strict=True) if not rows]
        return queued

    def _write(self, new: NewText, rows: Rows) -> tuple[dict[str, object], NewText] | None:
        """The values of the row, None where it has them."""
        text, before, accepted_at = new.text, b"", new.accepted_at
        if rows:
            ((at, before, present),) = rows
            here = _decode_text(present)
            text = text.merged(here) if new.accepted_at >= at else here.merged(text)
            accepted_at = max(at, new.accepted_at)
        if text.opted_out:
            text = CallText(opted_out=True, agent_id=text.agent_id)
        digest = digest_of(text)
        if digest == before:
            return None
        values = {
            **_key(new), "accepted_at": accepted_at, "digest": digest, "text": _encode_text(text), "before": before,
            "state": JobState.QUEUED, "now": self._clock(),
        }  # fmt: skip
        return values, new

    async def waiting(self) -> list[str]:
        """The projects that have something to do now."""
        (rows,) = await self._run((_WAITING, {"now": self._clock()}))
        return [project for (project,) in rows]

    async def queued(self) -> tuple[int, int | None]:
        """How many calls wait, and when the oldest of them was accepted."""
        counted = f"SELECT count(*), min(accepted_at) FROM pipeline_jobs WHERE state = {JobState.QUEUED:d}"
        (((calls, oldest),),) = await self._run((counted, {}))
        return int(calls), oldest

    async def claim(self, project: str, owner: str, limit: int) -> list[Job]:
        """The oldest calls that are due, at most `limit`: the owner's alone for `LEASE_MILLISECONDS`."""
        now = self._clock()
        statement = _CLAIM.format(queued=JobState.QUEUED, lock=self._dialect.lock)
        given = {"project": project, "owner": owner, "limit": limit, "now": now, "until": now + LEASE_MILLISECONDS}
        (rows,) = await self._run((statement, given))
        jobs = [
            Job(project, call_id, at, bytes(digest), attempts, bad, bool(asking), _decode_text(text))
            for project, call_id, at, digest, attempts, bad, asking, text in rows
        ]
        return sorted(jobs, key=lambda job: (job.accepted_at, job.call_id))

    async def renew(self, owner: str) -> None:
        """Make every claim of this owner last from now on."""
        await self._run((_RENEW, {"owner": owner, "until": self._clock() + LEASE_MILLISECONDS}))

    async def release(self, owner: str) -> None:
        """Give back what this owner had: it is not working on anything."""
        await self._run((_RELEASE, {"owner": owner}))

    async def postpone(self, job: Job, owner: str, due_at: int, reason: str, *, counted: bool = True) -> None:
        """Try it again later."""
        given = {"due_at": due_at, "reason": storable_text(reason), "counted": int(counted)}
        await self._run((_POSTPONE, {**_mine(job, owner), **given}))

    async def end(self, job: Job, owner: str, state: JobState, reason: str | None) -> None:
        """It is skipped, or failed."""
        await self._run((_END, {**_mine(job, owner), "state": state, "reason": reason and storable_text(reason)}))

    async def withdraw(self, job: Job, owner: str) -> bool:
        """Delete what was made of it before, but for vectors; False where the job is not the owner's any more."""
        key = _key(job)
        return await self._run_fenced(
            (_ASK_NO_MORE, _mine(job, owner)),
            *[(each, key) for each in self._dialect.forget_words],
            *[(f"DELETE FROM {table} WHERE {_OF_CALL}", key) for table in _MADE],
        )

    async def holds(self, job: Job, owner: str) -> bool:
        """Whether it is the owner's still, and nothing new was said of the call."""
        (rows,) = await self._run((_HOLDS, _mine(job, owner)))
        return bool(rows)

    async def is_known(self, job: Job) -> bool:
        """Whether there is a job of this call: not after it was erased."""
        (rows,) = await self._run((_IS_KNOWN, _key(job)))
        return bool(rows)

    # The journal, and what is paid.

    async def asking(self, job: Job) -> None:
        """A model is about to be asked. Until `heard`, `record` or `postpone` its answer counts as lost by a kill."""
        await self._run((_ASK, _key(job)))

    async def heard(self, job: Job, *, tokens: int) -> int:
        """It answered, and the answer is of no use. Returns how many of this step were; 0 where the call was erased."""
        rows, _ = await self._run((_HEARD, _key(job)), self._spend(job.project, tokens))
        return int(rows[0][0]) if rows else 0

    async def step(self, key: CallKey, step: Step) -> StepOutput | None:
        """What the step made last."""
        (rows,) = await self._run((_STEP, {"project": key[0], "call_id": key[1], "step": step}))
        return StepOutput(bytes(rows[0][0]), bytes(rows[0][1]), rows[0][2]) if rows else None

    async def record(self, job: Job, step: Step, made: StepOutput, *, tokens: int | None = None) -> None:
        """The step is finished. `tokens` is what was paid for it; None: nothing.

        Of a call that was erased nothing is recorded but what was paid.
        """
        paid = [] if tokens is None else [self._spend(job.project, tokens)]
        if not await self._run_fenced((_STEP_ENDED, _key(job)), self._recorded(job, step, made), *paid):
            await self._run(*paid)

    async def spent_today(self, project: str) -> int:
        """How many answers were paid for today (UTC)."""
        (rows,) = await self._run((_SPENT, {"project": project, "day": self._day()}))
        return int(rows[0][0]) if rows else 0

    async def finish(self, job: Job, owner: str, insight: Insight, embedding: StepOutput | None = None) -> bool:
        """All steps are done: the job ends, and what came of them is written, in one transaction.

        Nothing is written, and False returned, where the job is not the owner's any more: its lease has ended, more was
        said of the call, or it was erased. `embedding` is the output of that step, where it cost nothing and is not
        recorded yet.
        """
        text, now = job.text, self._clock()
        postgres = self._dialect is POSTGRES
        statement = _PUT_INSIGHT.format(words=", words" if postgres else "", empty=", ''" if postgres else "")
        said = "\n".join([insight.summary, *[words for _, words in text.turns]])[:TEXT_CHARACTERS]
        values = {
            **_key(job), "summary": insight.summary, "source": insight.source, "sentiment": insight.sentiment,
            "agent_id": text.agent_id, "number": text.number, "now": now, "words": self._dialect.indexed(said),
            "listed_at": job.accepted_at if text.started_at is None else text.started_at,
        }  # fmt: skip
        wanted = insight.callback
        callback: Statement = (_NO_CALLBACK, {**_key(job), "now": now})
        if wanted is not None:
            put = {"due_at": wanted.due_at, "zone": wanted.zone, "quoted": wanted.words, "number": wanted.number}
            callback = (_PUT_CALLBACK, {**_key(job), **put, "agent_id": text.agent_id, "now": now})
        return await self._run_fenced(
            (_END, {**_mine(job, owner), "state": JobState.DONE, "reason": None}),
            (statement, values),
            *[(each, values) for each in self._dialect.put_words],
            callback,
            *([] if embedding is None else [self._recorded(job, Step.EMBEDDING, embedding)]),
        )

    # What is asked.

    async def insights(self, project: str, call_ids: Sequence[str]) -> dict[str, FoundInsight]:
        """What is known of these calls, by their ids."""
        one = f"SELECT {_INSIGHT_COLUMNS} FROM call_insights i WHERE i.project = :project AND i.call_id = :call_id"
        found = await self._run(*[(one, {"project": project, "call_id": call_id}) for call_id in call_ids])
        return {rows[0][0]: FoundInsight(*rows[0]) for rows in found if rows}

    async def search(self, query: TextQuery) -> list[FoundInsight]:
        """The calls that have all of the words, the newest first."""
        words = self._dialect.query(query.words)
        conditions: dict[str, tuple[str, object]] = {
            "project": ("i.project = :project", key_text(query.project)),
            "words": (self._dialect.matches, words or None),
            "agent": ("i.agent_id = :agent", query.agent_id and storable_text(query.agent_id)),
            "number": ("i.customer_number = :number", query.customer_number and storable_text(query.customer_number)),
            "since": ("i.listed_at >= :since", query.since),
            "until": ("i.listed_at < :until", query.until),
        }
        given = {name: each for name, each in conditions.items() if each[1] is not None}
        where = " AND ".join(condition for condition, _ in given.values())
        statement = (
            f"SELECT {_INSIGHT_COLUMNS} FROM call_insights i WHERE {where} ORDER BY i.listed_at DESC LIMIT :limit"
        )
        values = {name: value for name, (_, value) in given.items()}
        (rows,) = await self._run((statement, {**values, "limit": query.limit}))
        return [FoundInsight(*row) for row in rows]

    async def status(self, project: str | None = None) -> PipelineStatus:
        """How much there is of what."""
        where = "" if project is None else " WHERE project = :project"
        given = {} if project is None else {"project": project}
        more = f"{where} AND" if where else " WHERE"
        jobs, oldest, callbacks, sources, reasons = await self._run(
            (f"SELECT state, count(*) FROM pipeline_jobs{where} GROUP BY state", given),
            (f"SELECT min(accepted_at) FROM pipeline_jobs{more} state = {JobState.QUEUED:d}", given),
            (f"SELECT state, count(*) FROM callbacks{where} GROUP BY state", given),
            (f"SELECT summary_source, count(*) FROM call_insights{where} GROUP BY summary_source", given),
            # Those that are done have no reason, and are nearly all: their texts are not read.
            (f"SELECT reason, count(*) FROM pipeline_jobs{more} reason IS NOT NULL AND state IN ({_WITH_REASON}) "
             "GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 10", given),
        )  # fmt: skip
        states = {JobState(state): count for state, count in jobs}
        return PipelineStatus(states, oldest[0][0], dict(callbacks), dict(sources), dict(reasons))

    async def redo(self, selection: Redo, *, dry_run: bool) -> dict[str, int]:
        """Queue calls once more; with `dry_run` change nothing. Returns how many there are, by project."""
        conditions = {
            "j.project = :project": selection.project,
            "j.accepted_at >= :since": selection.since,
            "j.state = :state": selection.state,
            "EXISTS (SELECT 1 FROM call_insights i WHERE i.project = j.project AND i.call_id = j.call_id "
            "AND i.summary_source = :source)": selection.source,
        }
        given = [condition for condition, value in conditions.items() if value is not None]
        where = " AND ".join([f"j.state <> {JobState.QUEUED:d}", *given])
        values = {
            "project": selection.project, "since": selection.since, "state": selection.state, "now": self._clock(),
            "source": selection.source,
        }  # fmt: skip
        values = {name: value for name, value in values.items() if value is not None}
        counted: Statement = (
            f"SELECT j.project, count(*) FROM pipeline_jobs j WHERE {where} GROUP BY j.project",
            values,
        )
        if dry_run:
            (rows,) = await self._run(counted)
            return {project: int(count) for project, count in rows}
        steps = ["'embedding'"] if selection.step is Step.EMBEDDING else ["'summary'", "'embedding'"]
        rows, _, _ = await self._run(
            counted,
            (f"DELETE FROM pipeline_steps WHERE step IN ({', '.join(steps)}) AND (project, call_id) IN "
             f"(SELECT j.project, j.call_id FROM pipeline_jobs j WHERE {where})", values),
            (f"UPDATE pipeline_jobs AS j SET state = {JobState.QUEUED:d}, due_at = :now, attempts = 0, "
             f"bad_answers = 0, reason = NULL WHERE {where}", values),
        )  # fmt: skip
        return {project: int(count) for project, count in rows}

    async def forget_call(self, project: str, call_id: str) -> bool:
        """Delete all that this store has of a call besides its parts, also where no pipeline is configured any more.

        Job, journal, insight, words, callback and vectors, in one transaction; whether there was any. What lies in a
        vector store elsewhere is `Pipeline.forget_call`'s matter.
        """
        await self.prepare()
        key = {"project": project, "call_id": key_text(call_id)}
        (vectors,) = await self._run((self._dialect.vector_tables, {}))
        tables = [*[name for (name,) in vectors], *_MADE]
        # The job first: whoever works on it writes before that, or nothing.
        gone, *_ = await self._run(
            (f"DELETE FROM pipeline_jobs WHERE {_OF_CALL} RETURNING call_id", key),
            *[(each, key) for each in self._dialect.forget_words],
            *[(f"DELETE FROM {table} WHERE {_OF_CALL}", key) for table in tables],
        )
        return bool(gone)

    def _recorded(self, job: Job, step: Step, made: StepOutput) -> Statement:
        return (_RECORD, {**_key(job), "step": step, "now": self._clock(), **_fields(made)})

    def _spend(self, project: str, tokens: int) -> Statement:
        return (_SPEND, {"project": project, "day": self._day(), "requests": 1, "tokens": tokens})

    def _day(self) -> str:
        return datetime.fromtimestamp(self._clock() / 1000, UTC).date().isoformat()

    async def _run(self, *statements: Statement) -> list[Rows]:
        return await self._database.run(statements) if statements else []

    async def _run_fenced(self, fence: Statement, *statements: Statement) -> bool:
        """Run them if the fence returns a row, which it locks; whether it did."""
        first, *_ = await self._database.run([fence, *statements], fenced=True)
        return bool(first)


def _key(each: NewText | Job) -> dict[str, object]:
    return {"project": each.project, "call_id": each.call_id}


def _mine(job: Job, owner: str) -> dict[str, object]:
    return {**_key(job), "owner": owner, "digest": job.digest}


def _fields(made: StepOutput) -> dict[str, object]:
    return {"input_hash": made.input_hash, "output": made.output, "made_by": made.made_by}
