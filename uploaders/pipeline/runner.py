"""Works on the calls that a store has queued: summary, embedding, vector, and what came of them.

    claim ─▶ summary ─▶ embedding ─▶ vector ─▶ insight, callback, job done
              journal     journal     keyed     one transaction

Each step is a function of the job and of the journal, and ends with one transaction. Killed before its effect, it is
done again, and nothing was paid; killed after the commit, never again. In between lies an answer on its way: it is lost
and paid for once more, at most one for each call under way, and counted.
"""

import asyncio
import hashlib
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, TypeVar

import structlog

from spool.records import Clock
from uploaders.pipeline.callback_words import callback_of, wanted_words
from uploaders.pipeline.local import LocalModels
from uploaders.pipeline.models import (
    BadAnswer,
    Budget,
    EmbeddingModel,
    HttpFailed,
    ModelError,
    ModelRefused,
    ModelUnavailable,
    OpenAiChat,
    TextTooLong,
    Turns,
    VectorStore,
)
from uploaders.pipeline.options import CallbackRule, Limits, Summaries, TenantRule
from uploaders.pipeline.summary import (
    INSTRUCTIONS,
    SCHEMA,
    SHORTENED_CHARACTERS,
    TRANSCRIPT_CHARACTERS,
    Summary,
    checked,
    cleaned,
    decode_summary,
    encode_summary,
    has_conversation,
    input_hash,
    redacted,
    transcript_for,
)
from uploaders.stores.pipeline import Insight, Job, JobState, Step, StepOutput
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.store import CallKey, PartRefused, StoreError
from uploaders.tasks import Tasks

BAD_ANSWERS: Final = 3
"""So many answers to a step that are not what was asked for are paid for; then it is done without a model."""
POLL_SECONDS: Final = 1.0
"""How often the queue is looked at unasked: for what others queued, and for what is due again."""
RENEW_SECONDS: Final = 60.0
COUNT_SECONDS: Final = 15.0
"""How often the queue is counted, for metrics."""
FIRST_WAIT: Final = 2.0
LONGEST_WAIT: Final = 300.0
"""Between two attempts at a model or a database that does not answer."""
FAILURES: Final = 20
"""So often a vector store may refuse one call, before the call is set aside."""
_OF_ONE_CALL: Final = frozenset({400, 413, 422})
"""What a vector store answers about one vector."""
NO_CONVERSATION: Final = "no conversation"
OPTED_OUT: Final = "its provider says that nothing of it may be kept"

_SPEAKER: Final = re.compile(r"\b(?:Caller|Agent): ")
"""In an extractive summary. It would make all of them alike."""
_log = structlog.get_logger(__name__)
Result = TypeVar("Result")


class Asked(StrEnum):
    """What became of a request to a model, for metrics."""

    ANSWERED = "answered"
    BAD_ANSWER = "bad_answer"
    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    TOO_LONG = "too_long"


class PipelineObserver(Protocol):
    """Hears what is done, for metrics."""

    def step_ended(self, step: str, outcome: str, seconds: float) -> None:
        """A step of a call ended: done, kept (it was finished before), fallback, postponed or failed."""

    def model_asked(self, purpose: str, outcome: str, tokens: int) -> None:
        """A model was asked."""

    def pipeline_queued(self, calls: int, oldest_seconds: float) -> None:
        """So many calls wait in the queue, the oldest for so long."""

    def paid_again(self) -> None:
        """An answer that was on its way when a process was killed is asked for once more."""


@dataclass(frozen=True, slots=True)
class Models:
    """What the steps use."""

    local: LocalModels
    embedding: EmbeddingModel
    chat: OpenAiChat | None = None

    async def close(self) -> None:
        """Close connections, and end the process."""
        await self.embedding.close()
        if self.chat is not None:
            await self.chat.close()
        await self.local.close()


@dataclass(frozen=True, slots=True)
class RunnerRule:
    """How calls are worked on."""

    owner: str
    """Names this process among those that share the queue."""
    summaries: Summaries = Summaries.PROVIDER_FIRST
    workers: int = 5
    """Calls under way at once."""
    redact: bool = True
    """Whether what leaves this machine is redacted."""
    limits: Limits = field(default_factory=Limits)
    callbacks: CallbackRule | None = None
    tenants: Mapping[str, TenantRule] = field(default_factory=dict)
    alone: bool = True
    """Whether no other process has this owner's name: what it had claimed before it was killed is free at once."""


class PipelineRunner:
    """Takes calls from the queue, `workers` at once, tenants in turn. For the event loop."""

    def __init__(
        self, tables: PipelineTables, models: Models, vectors: VectorStore, rule: RunnerRule,
        observer: PipelineObserver, clock: Clock, monotonic: Callable[[], float] = time.monotonic,
        around: Callable[[CallKey], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
    ) -> None:  # fmt: skip
        """The steps of each call are done inside `around`."""
        self._around = around
        self._tables = tables
        self._models = models
        self._vectors = vectors
        self._rule = rule
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._budget = Budget(rule.limits)
        self._turns = Turns()
        self._running: dict[asyncio.Task[None], str] = {}
        self._left: list[Job] = []
        """Calls that were left in the middle, because the store did not answer."""
        self._woken = asyncio.Event()
        self._main = Tasks()
        self._prepared = False
        self._pauses: dict[str, float] = {}
        """For what does not answer (chat, embedding, vectors), until when it is left alone."""
        self._failures: Counter[str] = Counter()
        self.obstacle: str | None = None
        """Why nothing is worked on at the moment; None while something is."""

    def wake(self) -> None:
        """Something was queued."""
        self._woken.set()

    def start(self) -> None:
        """Begin with what is in the queue."""
        self._main.keep(self._run)

    async def stop(self, grace: float) -> None:
        """Wait up to `grace` seconds for the calls under way, whose answers are paid for; the others stay queued."""
        await self._main.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        with suppress(StoreError):
            await self._tables.release(self._rule.owner)

    async def prepare(self) -> None:
        """Make tables and indexes. Raises `StoreError` and `ModelError`."""
        if not self._prepared:
            await self._tables.prepare()
            await self._vectors.prepare(self._models.embedding.dimensions)
            if self._rule.alone:
                await self._tables.release(self._rule.owner)
            self._prepared = True

    async def _run(self) -> None:
        renewed_at, counted_at = self._monotonic(), float("-inf")
        while True:
            self._woken.clear()
            try:
                await self.prepare()
                await self._give_back()
                if self._running and self._monotonic() - renewed_at > RENEW_SECONDS:
                    await self._tables.renew(self._rule.owner)
                    renewed_at = self._monotonic()
                took = await self._take()
                self._free()
                if self._monotonic() - counted_at > COUNT_SECONDS:
                    counted_at = self._monotonic()
                    calls, oldest = await self._tables.queued()
                    self._observer.pipeline_queued(calls, 0 if oldest is None else (self._clock() - oldest) / 1000)
            except (StoreError, ModelError) as error:
                took = False
                self._hindered(str(error))
            if not took:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._woken.wait()

    async def _give_back(self) -> None:
        """Try again what was left in the middle, once the store takes it."""
        while self._left:
            await self._set_back(self._left[0], self.obstacle or "it failed unexpectedly")
            self._left.pop(0)  # others may have been left behind it meanwhile

    async def _take(self) -> bool:
        """Claim as many calls as there is room for, and begin with them. Whether there were any."""
        slots = self._rule.workers - len(self._running)
        if slots <= 0:
            return False
        now = self._monotonic()
        projects = [each for each in await self._tables.waiting() if self._budget.seconds_until_free(each, now) <= 0]
        running = Counter(self._running.values())
        took = False
        for project, share in self._turns.share(projects, running, slots):
            for job in await self._tables.claim(project, self._rule.owner, share):
                took = True
                task = asyncio.create_task(self._work(job))
                self._running[task] = project
                task.add_done_callback(self._ended)
        return took

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._woken.set()

    async def _work(self, job: Job) -> None:
        """All steps of one call; whatever happens, it is settled or stays claimed until its lease ends."""
        try:
            try:
                async with self._around(job.key):
                    await self.steps_of(job)
            except Postponed as error:
                due_at = self._clock() + round(1000 * error.seconds)
                await self._tables.postpone(job, self._rule.owner, due_at, error.reason, counted=False)
            except (ModelError, PartRefused) as error:
                await self._set_back(job, str(error))
        except StoreError as error:
            # It cannot be written down now that the call is to be tried again; its claim would be renewed for ever.
            self._left.append(job)
            self._hindered(str(error))
        except Exception as error:  # noqa: BLE001 - a defect of one step must not stop the queue; it is logged
            _log.exception("pipeline_step_raised", call_id=job.call_id, error=type(error).__name__)
            self._left.append(job)

    async def _set_back(self, job: Job, reason: str) -> None:
        """Once more later; set aside after `FAILURES`."""
        if job.attempts + 1 >= FAILURES:
            self._observer.step_ended("job", "failed", 0.0)
            _log.error("call_not_processed", call_id=job.call_id, reason=reason)
            await self._tables.end(job, self._rule.owner, JobState.FAILED, reason)
            return
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(job.attempts, 10))
        self._observer.step_ended("job", "postponed", 0.0)
        await self._tables.postpone(job, self._rule.owner, self._clock() + round(1000 * wait), reason)

    # The steps.

    async def steps_of(self, job: Job) -> None:
        """Do what is left of a call. Raises `Postponed`, `ModelError` and `StoreError`."""
        if job.asking:
            self._observer.paid_again()
        if job.text.opted_out:
            if await self._tables.withdraw(job, self._rule.owner):
                await self._guarded("vectors", self._vectors.forget(job.project, job.call_id))
                await self._tables.end(job, self._rule.owner, JobState.SKIPPED, OPTED_OUT)
            return
        if not has_conversation(job.text) and not job.text.provider_summary:
            await self._tables.end(job, self._rule.owner, JobState.SKIPPED, NO_CONVERSATION)
            return
        summary = await self._summary(job)
        vector, unrecorded = await self._embedding(job, summary)
        started = time.perf_counter()
        if any(vector):
            if not await self._tables.holds(job, self._rule.owner):
                return  # more was said of the call meanwhile, or it was erased
            await self._guarded("vectors", self._vectors.put(job.project, job.call_id, vector))
        self._observer.step_ended("vector", "done", time.perf_counter() - started)
        rule = self._callback_rule(job.project)
        callback = None
        if rule is not None and summary.callback_words:
            callback = callback_of(job.text, summary.callback_words, rule, self._clock())
        insight = Insight(summary.summary, summary.source, summary.sentiment, callback)
        if await self._tables.finish(job, self._rule.owner, insight, unrecorded):
            self._observer.step_ended("job", "done", time.perf_counter() - started)
        elif not await self._tables.is_known(job):
            await self._vectors.forget(job.project, job.call_id)

    async def _summary(self, job: Job) -> Summary:
        """What the journal has, or what the provider, a model, or the call itself says."""
        started = time.perf_counter()
        chat = self._chat_for(job)
        how = "extractive" if chat is None else chat.name
        hashed = input_hash(job.text, how)
        kept = await self._tables.step(job.key, Step.SUMMARY)
        if kept is not None and kept.input_hash == hashed:
            self._observer.step_ended("summary", "kept", time.perf_counter() - started)
            return decode_summary(kept.output)
        provided = cleaned(job.text.provider_summary or "")[:4000]
        tokens: int | None = None
        if provided and self._rule.summaries is not Summaries.LLM:
            summary, outcome = Summary(provided, "provider", None, wanted_words(job.text)), "done"
        elif chat is not None and (asked := await self._asked(job, chat)) is not None:
            (summary, tokens), outcome = asked, "done"
        else:
            said = await self._models.local.extract(job.text.turns)
            outcome = "done" if chat is None else "fallback"
            summary = Summary(cleaned(said), "extractive", None, wanted_words(job.text))
        if tokens is not None or outcome == "fallback":
            # What costs nothing needs no commit of its own: it is made again as fast.
            made = StepOutput(hashed, encode_summary(summary), how)
            await self._tables.record(job, Step.SUMMARY, made, tokens=tokens)
        self._observer.step_ended("summary", outcome, time.perf_counter() - started)
        return summary

    def _chat_for(self, job: Job) -> OpenAiChat | None:
        chat = self._models.chat
        if chat is None or self._rule.summaries is Summaries.EXTRACTIVE or not has_conversation(job.text):
            return None
        allowed = self._rule.tenants.get(job.project, TenantRule()).llm or not chat.is_elsewhere
        return chat if allowed else None

    async def _asked(self, job: Job, chat: OpenAiChat) -> tuple[Summary, int] | None:
        """The model's summary; None where it has none to give: after `BAD_ANSWERS`, or when its day is spent."""
        limit = self._rule.limits.calls_per_day
        if limit is not None and await self._tables.spent_today(job.project) >= limit:
            return None
        leaves = chat.is_elsewhere and self._rule.redact
        bad, most = job.bad_answers, TRANSCRIPT_CHARACTERS
        while bad < BAD_ANSWERS:
            await self._may_ask(job)
            given = transcript_for(job.text, leaves_machine=leaves, most=most)
            tokens = 0
            try:
                answer = await self._guarded("chat", chat.ask(INSTRUCTIONS, given, SCHEMA))
                tokens = answer.tokens
                summary = checked(answer.text, job.text, tokens)
            except BadAnswer as error:
                tokens = error.tokens
                self._observer.model_asked("summary", Asked.BAD_ANSWER, tokens)
                bad = max(bad + 1, await self._tables.heard(job, tokens=tokens))
            except TextTooLong:
                self._observer.model_asked("summary", Asked.TOO_LONG, 0)
                if most == SHORTENED_CHARACTERS:
                    return None
                most = SHORTENED_CHARACTERS
            else:
                self._observer.model_asked("summary", Asked.ANSWERED, tokens)
                return summary, tokens
            finally:
                self._budget.answered(job.project, tokens, self._monotonic())
        return None

    async def _embedding(self, job: Job, summary: Summary) -> tuple[bytes, StepOutput | None]:
        """The vector of the summary; and what is left to be recorded: of one that cost nothing, with all the rest."""
        model = self._models.embedding
        started = time.perf_counter()
        text = _SPEAKER.sub("", summary.summary)
        if model.is_elsewhere and self._rule.redact:
            text = redacted(text, job.text.names, job.text.number)
        if model.is_elsewhere and not self._rule.tenants.get(job.project, TenantRule()).llm:
            return b"", None
        hashed = hashlib.sha256(f"{model.name}\0{text}".encode()).digest()
        kept = await self._tables.step(job.key, Step.EMBEDDING)
        if kept is not None and kept.input_hash == hashed:
            self._observer.step_ended("embedding", "kept", time.perf_counter() - started)
            return kept.output, None
        vector, tokens = await self._embedded(job, model, text)
        made = StepOutput(hashed, vector, model.name)
        if model.is_paid:
            await self._tables.record(job, Step.EMBEDDING, made, tokens=tokens)
        self._observer.step_ended("embedding", "done" if vector else "fallback", time.perf_counter() - started)
        return vector, None if model.is_paid else made

    async def _embedded(self, job: Job, model: EmbeddingModel, text: str) -> tuple[bytes, int | None]:
        """The vector, and what was paid; an empty one where `BAD_ANSWERS`, through restarts, were none: the call can
        then be found by its words."""
        if not model.is_paid:
            vectors, _ = await self._guarded("embedding", model.embed([text]))
            return vectors[0], 0
        bad = 0
        while bad < BAD_ANSWERS:
            await self._may_ask(job)
            tokens = 0
            try:
                vectors, tokens = await self._guarded("embedding", model.embed([text]))
            except BadAnswer as error:
                self._observer.model_asked("embedding", Asked.BAD_ANSWER, 0)
                _log.warning("bad_vector", call_id=job.call_id, reason=str(error))
                bad = max(bad + 1, await self._tables.heard(job, tokens=error.tokens))
            except TextTooLong as error:
                self._observer.model_asked("embedding", Asked.TOO_LONG, 0)
                _log.warning("bad_vector", call_id=job.call_id, reason=str(error))
                break
            else:
                self._observer.model_asked("embedding", Asked.ANSWERED, tokens)
                return vectors[0], tokens
            finally:
                self._budget.answered(job.project, tokens, self._monotonic())
        return b"", None

    async def _may_ask(self, job: Job) -> None:
        """Write down that a model is being asked. Raises `Postponed` where the tenant has spent its minute."""
        wait = self._budget.seconds_until_free(job.project, self._monotonic())
        if wait > 0:
            raise Postponed("its tenant has spent its requests or tokens of this minute", wait)
        self._budget.asked(job.project, self._monotonic())
        await self._tables.asking(job)

    def _callback_rule(self, project: str) -> CallbackRule | None:
        rule = self._rule.callbacks
        zone = self._rule.tenants.get(project, TenantRule()).zone
        if rule is None or zone is None:
            return rule
        return CallbackRule(zone, rule.first_hour, rule.last_hour, rule.days, rule.per_number_and_day)

    async def _guarded(self, what: str, request: Awaitable[Result]) -> Result:
        """A request to something that may be down: then everything that needs it waits a while."""
        wait = self._pauses.get(what, 0.0) - self._monotonic()
        if wait > 0:
            if asyncio.iscoroutine(request):
                request.close()
            raise Postponed(self.obstacle or f"{what}: it does not answer at the moment", wait)
        try:
            result = await request
        except (ModelUnavailable, ModelRefused) as error:
            if what == "vectors" and isinstance(error, HttpFailed) and error.status in _OF_ONE_CALL:
                raise  # the others are kept
            self._failures[what] += 1
            after = error.after_seconds if isinstance(error, ModelUnavailable) else None
            pause = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._failures[what] - 1, 10))
            pause = min(max(pause, after or 0.0), 3600.0)
            self._pauses[what] = self._monotonic() + pause
            if what != "vectors":
                refused = isinstance(error, ModelRefused)
                outcome = Asked.REFUSED if refused else Asked.UNAVAILABLE
                self._observer.model_asked("summary" if what == "chat" else what, outcome, 0)
            self._hindered(str(error))
            raise Postponed(str(error), pause) from error
        self._failures[what] = 0
        return result

    def _hindered(self, reason: str) -> None:
        """Log it when it begins, and when the reason changes."""
        if self.obstacle != reason:
            self.obstacle = reason
            _log.warning("pipeline_waits", reason=reason)

    def _free(self) -> None:
        if self.obstacle is not None and not any(until > self._monotonic() for until in self._pauses.values()):
            self.obstacle = None
            _log.info("pipeline_works")


class Postponed(Exception):
    """A call has to wait for something that is not its own fault."""

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds
