"""Wires the pipeline of a gateway or of a worker: its models, its vector store, and who works on its queue."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from config.destinations import Destination, PipelineDestination, PostgresDestination, SqliteDestination
from config.destinations.pipeline import CallbackSettings
from config.settings import Settings
from gateway.callbacks import CallbackObserver, CallbackScheduler
from gateway.intake.accept import Acceptor
from gateway.intake.body_reader import BodyReader
from gateway.runtime.destinations import DriverMissing
from spool.records import Clock
from uploaders.pipeline.local import BundledEmbedding, LocalModels, missing_library
from uploaders.pipeline.models import EmbeddingModel, VectorStore
from uploaders.pipeline.openai import OpenAiChat, OpenAiEmbedding
from uploaders.pipeline.options import CallbackRule, Limits, Runs, ServerOptions, TenantRule, VectorsIn
from uploaders.pipeline.runner import Models, PipelineObserver, PipelineRunner, RunnerRule
from uploaders.pipeline.service import Pipeline
from uploaders.pipeline.vectors import PgVectors, PineconeVectors, QdrantVectors, SqliteVectors
from uploaders.stores.callbacks import CallbackTables
from uploaders.stores.pipeline import Database
from uploaders.stores.pipeline_tables import PipelineTables

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def pipeline_settings(settings: Settings) -> PipelineDestination | None:
    """The pipeline of the configuration; there is one at most."""
    return next((each for each in settings.destinations if isinstance(each, PipelineDestination)), None)


def pipeline_of(
    settings: Settings, destination: PipelineDestination, database: Database, owner: str, observer: PipelineObserver,
    clock: Clock, *, works: bool, alone: bool = True,
) -> Pipeline:  # fmt: skip
    """The pipeline on this database; nothing is opened, and no model is loaded. Raises `DriverMissing`.

    With `works` it works on its queue, as `owner`; with `alone` nobody else has that name.
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
    runner = PipelineRunner(tables, models, vectors, rule, observer, clock) if works else None
    callbacks = CallbackTables(database, clock)
    return Pipeline(destination.name, tables, callbacks, models, vectors, runner, redact=destination.redact)


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
