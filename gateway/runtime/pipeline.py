"""The pipeline of a gateway or of a worker: its models, its vector store, and who works on its queue."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from config.destinations import Destination, PipelineDestination, PostgresDestination, SqliteDestination
from config.destinations.pipeline import CallbackSettings
from config.settings import Settings
from gateway.admin.app import WorkFigures, build_worker_app
from gateway.admin.auth import Access
from gateway.admin.metrics import Metrics
from gateway.callbacks import CallbackObserver, CallbackScheduler
from gateway.calls import CALL_COMPLETE, complete_call_of
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.listeners import CannotListen
from gateway.process import on_signals, raise_limit, run_to_the_end, systemd_of
from gateway.runtime.destinations import DriverMissing, transactional_store
from gateway.runtime.listening import admin_listener, certificates_followed, tls_of
from gateway.runtime.options import completion_rule
from gateway.runtime.telemetry import span_sender
from gateway.runtime.worker import NotConfigured
from gateway.telemetry import JobSpan, Spans
from gateway.tls import CertificateUnusable
from spool.errors import SpoolError
from spool.records import Clock, system_clock
from spool.store import Spool
from uploaders.pipeline.local import BundledEmbedding, LocalModels, missing_library
from uploaders.pipeline.models import EmbeddingModel, OpenAiChat, OpenAiEmbedding, VectorStore
from uploaders.pipeline.options import CallbackRule, Limits, Runs, ServerOptions, TenantRule, VectorsIn
from uploaders.pipeline.runner import Models, PipelineObserver, PipelineRunner, RunnerRule
from uploaders.pipeline.service import Pipeline
from uploaders.pipeline.uploader import read_text
from uploaders.pipeline.vectors import PgVectors, PineconeVectors, QdrantVectors, SqliteVectors
from uploaders.stores.pipeline import CallbackTables, Database, NewText
from uploaders.stores.pipeline_tables import PipelineTables
from uploaders.stores.store import CallKey, Store, StoreError
from uploaders.tasks import Tasks

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def pipeline_settings(settings: Settings) -> PipelineDestination | None:
    """The pipeline of the configuration; there is one at most."""
    return next((each for each in settings.destinations if isinstance(each, PipelineDestination)), None)


def pipeline_of(
    settings: Settings, destination: PipelineDestination, database: Database, owner: str, observer: PipelineObserver,
    clock: Clock, *, works: bool, alone: bool = True, steps: "StepSpans | None" = None,
) -> Pipeline:  # fmt: skip
    """The pipeline on this database; nothing is opened, and no model is loaded. Raises `DriverMissing`.

    With `works` it works on its queue, as `owner`; with `alone` nobody else has that name. `steps` makes spans.
    """
    missing = missing_library()
    if missing is not None:
        raise DriverMissing(
            f"destination {destination.name} needs models of its own: pip install 'callspool[pipeline]' "
            f"(there is no {missing})"
        )
    chosen = store_settings(destination, settings.destinations)
    path = chosen.path.absolute() if isinstance(chosen, SqliteDestination) else None
    local = LocalModels(Path(tempfile.gettempdir()) if path is None else path.parent)
    models = _models(destination, local)
    tables = PipelineTables(database, clock)
    vectors = _vectors(destination, database, path, local, models.embedding.name)
    rule = RunnerRule(
        owner=owner,
        summaries=destination.summary,
        workers=destination.workers,
        redact=destination.redact,
        limits=Limits(destination.requests_per_minute, destination.tokens_per_minute, destination.answers_per_day),
        callbacks=callback_rule(destination.callbacks),
        tenants=tenant_rules(settings),
        alone=alone,
    )
    runner = None
    if works and steps is not None:
        runner = PipelineRunner(tables, models, vectors, rule, steps, clock, around=steps.around)
    elif works:
        runner = PipelineRunner(tables, models, vectors, rule, observer, clock)
    callbacks = CallbackTables(database, clock)
    return Pipeline(destination.name, tables, callbacks, models, vectors, runner, redact=destination.redact)


_JOB: ContextVar[JobSpan | None] = ContextVar("job", default=None)


class StepSpans:
    """Makes a span of each call that a pipeline works on, and of each step; all else is the observer's alone."""

    def __init__(
        self, observer: PipelineObserver, spans: Spans, context_of: Callable[[CallKey], Awaitable[str | None]]
    ) -> None:
        """`context_of` is the trace context that a call came with."""
        self._observer = observer
        self._spans = spans
        self._context_of = context_of
        self.model_asked = observer.model_asked
        self.pipeline_queued = observer.pipeline_queued
        self.paid_again = observer.paid_again

    def step_ended(self, step: str, outcome: str, seconds: float) -> None:
        """A step of the call of this task ended."""
        self._observer.step_ended(step, outcome, seconds)
        job = _JOB.get()
        if job is not None and step != "job":
            job.step(step, outcome, seconds)

    @asynccontextmanager
    async def around(self, call: CallKey) -> AsyncIterator[None]:
        """In here the steps of a call are done."""
        job = self._spans.job(await self._context_of(call))
        if job is None:
            yield
            return
        token, outcome = _JOB.set(job), "not_done"
        try:
            yield
            outcome = "done"
        finally:
            _JOB.reset(token)
            job.ended(outcome)


def contexts_in(spool: Spool) -> Callable[[CallKey], Awaitable[str | None]]:
    """The newest trace context that the spool still knows of a call: receipts keep it."""

    async def context_of(call: CallKey) -> str | None:
        """None where it came in no span, or is forgotten."""
        try:
            found = await spool.trace(call[1])
        except SpoolError:
            return None
        mine = [each.record for each in found if (each.record.tenant or "") == call[0]]
        return next((each.trace_context for each in reversed(mine) if each.trace_context is not None), None)

    return context_of


async def no_context(_call: CallKey) -> None:
    """Of a call whose spool is elsewhere."""


def scheduler_of(
    settings: Settings, pipeline: Pipeline, owner: str, bodies: BodyReader, acceptor: Acceptor,
    observer: CallbackObserver, clock: Clock,
) -> CallbackScheduler | None:  # fmt: skip
    """Who fires callbacks; None where nobody is called back."""
    destination = pipeline_settings(settings)
    rule = None if destination is None else callback_rule(destination.callbacks)
    if rule is None:
        return None
    return CallbackScheduler(pipeline.callbacks, owner, rule, tenant_rules(settings), bodies, acceptor, observer, clock)


def tenant_rules(settings: Settings) -> dict[str, TenantRule]:
    """What tenants want otherwise."""
    return {name: TenantRule(tenant.llm, tenant.zone) for name, tenant in settings.tenants.items()}


def works_here(destination: PipelineDestination) -> bool:
    """Whether the gateway itself works on the queue."""
    return destination.runs is Runs.LOCAL


def callback_rule(settings: CallbackSettings) -> CallbackRule | None:
    """When callers are called back; None where nobody is."""
    if not settings.enabled:
        return None
    days = frozenset(_DAYS.index(day) for day in settings.days)
    return CallbackRule(settings.zone, settings.first_hour, settings.last_hour, days, settings.per_number_and_day)


def store_settings(
    destination: PipelineDestination, destinations: Sequence[Destination]
) -> SqliteDestination | PostgresDestination:
    """The store that it names, or the first one that can have a queue; the check of the settings finds one."""
    stores = [each for each in destinations if isinstance(each, SqliteDestination | PostgresDestination)]
    return next(each for each in stores if destination.store in {None, each.name})


def _models(destination: PipelineDestination, local: LocalModels) -> Models:
    url = destination.server_url
    token = destination.token.get_secret_value() if destination.token else None
    chat: OpenAiChat | None = None
    embedding: EmbeddingModel = BundledEmbedding(local)
    if url is not None:
        server = ServerOptions(url, token, destination.timeout)
        if destination.chat_model:
            chat = OpenAiChat(server, destination.chat_model)
        if destination.embedding_model:
            embedding = OpenAiEmbedding(server, destination.embedding_model, destination.dimensions)
    return Models(local, embedding, chat)


def _vectors(
    destination: PipelineDestination, database: Database, path: Path | None, local: LocalModels, model: str
) -> VectorStore:
    wanted = destination.vectors
    token = wanted.token.get_secret_value() if wanted.token else None
    if wanted.where is VectorsIn.QDRANT:
        return QdrantVectors(wanted.url or "", token, wanted.collection, wanted.timeout)
    if wanted.where is VectorsIn.PINECONE:
        return PineconeVectors(wanted.url or "", token, wanted.timeout)
    return PgVectors(database, model) if path is None else SqliteVectors(database, path, local, model)


# `callspool work --pipeline`: works on the queue of a pipeline, one of any number, from start to graceful shutdown.
#
# It needs the store, and neither Kafka nor a spool. Calls are queued by receivers, out of whose spools they are
# delivered to the pipeline. Where nobody but the pipeline is told of complete calls, as with workers of Kafka and no
# receiver, it takes them from the store's outbox, into which the transaction that completes a call has written them.

FEED_SECONDS: Final = 1.0
"""How often the outbox is looked at."""
CLAIM: Final = 100
_STOP_SECONDS: Final = 2.0
"""Of the deadline of a shutdown, what is left for everything but the answers that are under way."""
_log = structlog.get_logger("callspool")


def serve(settings: Settings) -> int:
    """Run until a signal stops it. Returns the exit code: 0, or 1 where it could not start. Raises `NotConfigured`."""
    destination = pipeline_settings(settings)
    if destination is None:
        raise NotConfigured("there is no pipeline: set CALLSPOOL_PIPELINE, or add one to the file")
    raise_limit()
    return run_to_the_end(PipelineWorker(settings, destination).run())


class PipelineWorker:
    """One run of a worker."""

    def __init__(self, settings: Settings, destination: PipelineDestination) -> None:
        self._settings = settings
        self._destination = destination
        self._metrics = Metrics()
        self._systemd = systemd_of(os.environ)
        self._told_to_stop = asyncio.Event()
        self._hurried = asyncio.Event()
        self._pipeline: Pipeline | None = None

    async def run(self) -> int:
        """Start, work, and stop on a signal. Returns the exit code."""
        on_signals(self._told_to_stop, self._hurried, at_a_terminal=sys.stderr.isatty())
        access = Access(hosts=self._settings.admin.hosts, refused=self._metrics.admin_refused)
        app = build_worker_app(self._figures, self._metrics, access)
        try:
            tls = tls_of(self._settings)
            async with (
                self._systemd.kept_informed(lambda: self._figures().in_one_line()),
                admin_listener(app, self._settings.admin, tls.get("admin")) as listener,
                certificates_followed(tls, lambda: {"admin": listener}),
            ):
                await self._work()
        except (StoreError, CannotListen, CertificateUnusable, DriverMissing, OSError) as error:
            _log.error("cannot_run", reason=str(error))
            return 1
        _log.info("stopped")
        return 0

    async def _work(self) -> None:
        settings = self._settings
        chosen = store_settings(self._destination, settings.destinations)
        store = transactional_store(chosen, completion_rule(settings.completion), system_clock)
        # Processes of one name on one host are told apart; what a killed one had is free when its lease ends.
        owner = f"{settings.work.instance or socket.gethostname()}-{os.getpid()}"
        sender = span_sender(settings.traces, owner, self._metrics)
        steps = None if sender is None else StepSpans(self._metrics, sender.spans, no_context)
        self._pipeline = pipeline_of(
            settings, self._destination, store, owner, self._metrics, system_clock, works=True, alone=False, steps=steps
        )
        feeding = Tasks()
        try:
            await store.open()
            self._pipeline.start()
            if self._is_fed_by_the_outbox():
                feeding.keep(partial(self._feed, store, self._pipeline, owner))
            _log.info("working", pipeline=self._destination.target, store=chosen.target, owner=owner)
            self._systemd.ready()
            await self._told_to_stop.wait()
            self._systemd.stopping()
            _log.info("stopping")
        finally:
            await feeding.cancel()
            await self._stop(self._pipeline)
            await store.close()
            if sender is not None:
                await sender.close()

    async def _stop(self, pipeline: Pipeline) -> None:
        """Wait for answers that are paid for, unless somebody hurries."""
        grace = max(0.0, self._settings.shutdown.deadline - _STOP_SECONDS)
        stopping = asyncio.create_task(pipeline.stop(grace))
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait({stopping, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not stopping.done():
            stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)

    def _is_fed_by_the_outbox(self) -> bool:
        """Whether nobody else is to be told of complete calls: what is taken here, no receiver announces."""
        subscribers = [each for each in self._settings.destinations if each.events and CALL_COMPLETE in each.events]
        return subscribers == [self._destination]

    async def _feed(self, store: Store, pipeline: Pipeline, owner: str) -> None:
        failing = False
        while True:
            try:
                while calls := await store.claim_completions(owner, CLAIM):
                    if await pipeline.tables.enqueue([text async for text in _texts(store, calls)]) and pipeline.runner:
                        pipeline.runner.wake()
                    await store.forget_completions(calls)
                failing = False
            except StoreError as error:
                if not failing:
                    _log.warning("outbox_waits", reason=str(error))
                failing = True
            with suppress(TimeoutError):
                async with asyncio.timeout(FEED_SECONDS):
                    await self._told_to_stop.wait()

    def _figures(self) -> WorkFigures:
        runner = self._pipeline.runner if self._pipeline else None
        obstacles = ["the worker is starting"] if runner is None else [runner.obstacle] if runner.obstacle else []
        if self._told_to_stop.is_set():
            obstacles.append("the worker is stopping")
        messages = dict.fromkeys(("new", "duplicate", "dead", "dropped"), 0)
        return WorkFigures(messages, 0, 0, 0, 0, {}, tuple(obstacles))


async def _texts(store: Store, calls: Sequence[CallKey]) -> AsyncIterator[NewText]:
    """What is needed of these calls; nothing of one that somebody deleted."""
    for project, call_id in calls:
        call = await store.call(project, call_id)
        if call is not None:
            document = msgspec.json.encode(complete_call_of(call))
            accepted_at = max(part.accepted_at for part in call.parts)
            yield NewText(project, call_id, accepted_at, read_text(document, CALL_COMPLETE))
