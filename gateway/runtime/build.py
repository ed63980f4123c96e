"""From settings to the wired parts of a gateway: the only place, beside the command line, that constructs things."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from config.destinations import Destination, PipelineDestination
from config.settings import Settings, WhispeySettings
from gateway.admin.events import Observers
from gateway.admin.view import BackPressure
from gateway.announcements import Announcer
from gateway.calls import CALL_COMPLETE
from gateway.fanout import DestinationRoute
from gateway.heartbeats.source import HeartbeatSource
from gateway.intake.accept import Acceptor, Redactions
from gateway.intake.admission import AdmissionGate
from gateway.intake.body_reader import BodyReader
from gateway.intake.decoding import BodyDecoder
from gateway.intake.memory import MemoryBudget
from gateway.intake.parse_worker import ParseWorker
from gateway.intake.routes import IntakeToken, via_pseudonym
from gateway.intake.server import IntakeServer
from gateway.intake.staging import StagingArea, Workers, prepare_directory
from gateway.intake.turns import Threads
from gateway.live_calls import MOST, OLDEST, DrainThrottle, OpenCalls
from gateway.operations.erasure import CallEraser
from gateway.operations.service import DeliveryAdmin
from gateway.operations.tenants import TenantAdmin
from gateway.otlp.source import TraceSource
from gateway.runtime import options
from gateway.runtime.destinations import (
    UploaderContext,
    accepts,
    announcing_store,
    fallbacks,
    is_store,
    make_uploader,
    route_of,
)
from gateway.runtime.sources import (
    RECORDINGS_NAME,
    IntakeParts,
    RecordingParts,
    copies_recordings,
    heartbeat_source,
    intake_server,
    recording_parts,
    trace_source,
    webhook_server,
)
from gateway.runtime.stores import REFERENCES_NAME, REFERENCES_ROUTE, CallStores, follows_references, reference_plan
from gateway.runtime.telemetry import SpanSender, span_sender
from gateway.sdk_outbox.rescue import OutboxWatch
from gateway.sdk_outbox.sinks import SpoolSink
from gateway.tenants import TenantTable
from gateway.webhooks.source import Forwarder
from spool.records import system_clock
from spool.store import Spool
from uploaders.base import DestinationStatus, Eraser, Uploader
from uploaders.dispatch.destination import unchanged
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.recordings import RecordingStore

if TYPE_CHECKING:
    from gateway.callbacks import CallbackScheduler
    from uploaders.pipeline.service import Pipeline

INTAKE_TURNS = 2
"""Large bodies that are decoded or parsed at a time: as many as there are cores on the smallest machines."""
INTAKE_THREADS = INTAKE_TURNS + 2
"""Others write staging files meanwhile, which waits for the disk more than for a core."""


@dataclass(frozen=True, slots=True)
class App:
    """The parts of a gateway whose spool is open, as the lifecycle starts and stops them."""

    spool: Spool
    dispatcher: Dispatcher
    intake: IntakeServer
    gate: AdmissionGate
    staging: StagingArea
    budget: MemoryBudget
    calls: OpenCalls
    throttle: DrainThrottle
    delivery_admin: DeliveryAdmin
    tenant_admin: TenantAdmin | None
    call_eraser: CallEraser
    parse_worker: ParseWorker
    executor: ThreadPoolExecutor
    outboxes: OutboxWatch
    call_stores: CallStores
    pipeline: "Pipeline | None"
    callbacks: "CallbackScheduler | None"
    webhooks: IntakeServer | None
    """The listener of providers, where one is configured."""
    forwarder: Forwarder
    recordings: RecordingStore | None
    """Where the recordings of webhooks are kept."""
    traces: TraceSource
    heartbeats: HeartbeatSource
    spans: SpanSender | None
    """Where the gateway's own spans are sent."""

    def back_pressure(self) -> BackPressure:
        """How busy the intake is."""
        budget = self.budget
        return BackPressure(self.gate.in_flight, budget.waiting, budget.used_bytes, budget.total_bytes)

    def destinations(self) -> tuple[DestinationStatus, ...]:
        """Every destination; those that only the spool still knows come last."""
        configured = self.dispatcher.status()
        known = {status.name for status in configured}
        removed = sorted({name for name, _ in self.spool.stats().lanes} - known)
        return (*configured, *map(_no_longer_configured, removed))

    def start_stores(self) -> None:
        """Begin with what stores do by themselves: sweep, announce, and work on calls."""
        self.call_stores.start()
        if self.pipeline is not None:
            self.pipeline.start()
        if self.callbacks is not None:
            self.callbacks.start()

    async def stop_stores(self, grace: float) -> None:
        """End it; calls of which a model is asked have `grace` seconds."""
        if self.callbacks is not None:
            await self.callbacks.stop()
        if self.pipeline is not None:
            await self.pipeline.stop(grace)
        await self.call_stores.stop()

    async def stop_listening(self, drain_seconds: float) -> int:
        """Stop every listener of posts; see `IntakeServer.stop`. They share one gate, so both drain together."""
        cut_off = await self.intake.stop(drain_seconds)
        if self.webhooks is not None:
            await self.webhooks.stop(0.0)
        await self.traces.assembler.close()
        await self.heartbeats.watch.close()
        return cut_off

    async def close(self) -> None:
        """Release everything, once nothing listens or delivers any more."""
        await self.forwarder.close()
        if self.recordings is not None:
            await self.recordings.close()
        await self.parse_worker.close()
        await self.spool.close()
        if self.spans is not None:
            await self.spans.close()
        await asyncio.to_thread(self.executor.shutdown)


def _no_longer_configured(name: str) -> DestinationStatus:
    return DestinationStatus(
        name=name,
        type="",
        configured=False,
        up=False,
        reason="no longer in the configuration: what is owed to it is held",
        retry_at=None,
        in_flight={},
    )


async def build(settings: Settings, observers: Observers) -> App:
    """Open the spool and wire everything to it; nothing listens or delivers yet.

    Raises `spool.errors.SpoolError`, and `OSError` where a file or directory cannot be used.
    """
    names = [destination.name for destination in settings.destinations]
    if follows_references(settings):
        names.append(REFERENCES_NAME)
    if copies_recordings(settings):
        names.append(RECORDINGS_NAME)
    spool = await Spool.open(options.spool_options(settings), names, system_clock, observers.metrics)
    sender = None
    try:
        sender = span_sender(settings.traces, spool.id, observers.metrics, via_pseudonym(spool.id))
        with_spans = replace(observers, spans=sender.spans if sender is not None else None)
        return await _wire(settings, with_spans, spool, sender)
    except BaseException:
        if sender is not None:
            await sender.close()
        await spool.close()
        raise


def _outboxes(whispey: WhispeySettings, parts: IntakeParts, budget: MemoryBudget) -> OutboxWatch:
    """What rescues rows of the SDK's outboxes: a way in like the others, through the same parts."""
    sink = SpoolSink(
        acceptor=parts.acceptor,
        budget=budget,
        staging=parts.staging,
        workers=parts.staging.workers,
        token=parts.token,
        observer=parts.metrics,
        key=whispey.outbox_token.get_secret_value() if whispey.outbox_token else None,
    )
    paths = tuple(dict.fromkeys(path.absolute() for path in whispey.outbox))
    return OutboxWatch(paths, whispey.outbox_interval, sink, system_clock, parts.metrics, owners=whispey.outbox_owners)


def _plans(
    destinations: Sequence[Destination],
    context: UploaderContext,
    weights: dict[str | None, int],
    throttle: DrainThrottle,
) -> dict[str, DestinationPlan]:
    """How each destination is delivered to."""
    return {
        destination.name: DestinationPlan(
            uploader=make_uploader(destination, context),
            policy=options.retry_policy(destination.retry),
            concurrency=options.concurrency(destination.concurrency),
            shared_token=destination.replaces_token,
            when_too_large=fallbacks(destination, destinations),
            type=destination.type,
            tenants=weights,
            details_at_once=throttle.details_at_once,
        )
        for destination in destinations
    }


def _pipeline(
    settings: Settings, context: UploaderContext, bodies: BodyReader,
    make_acceptor: Callable[[Sequence[DestinationRoute]], Acceptor], observers: Observers,
) -> "tuple[Pipeline | None, CallbackScheduler | None]":  # fmt: skip
    """The pipeline, which its destination wakes, and who fires callbacks; None where there are none."""
    if not any(isinstance(each, PipelineDestination) for each in settings.destinations):
        return None, None
    # A gateway without a pipeline does without all of this.
    from gateway.callbacks import CALLBACK_DUE  # noqa: PLC0415  # see above
    from gateway.runtime.pipeline import (  # noqa: PLC0415  # see above
        StepSpans,
        contexts_in,
        pipeline_of,
        pipeline_settings,
        scheduler_of,
        works_here,
    )

    wanted = pipeline_settings(settings)
    assert wanted is not None, "there is one"
    database, works, owner = context.queue.database(wanted), works_here(wanted), context.spool.id
    metrics, spool = observers.metrics, context.spool
    steps = None if observers.spans is None else StepSpans(metrics, observers.spans, contexts_in(spool))
    pipeline = pipeline_of(settings, wanted, database, owner, metrics, system_clock, works=works, steps=steps)
    if pipeline.runner is not None:
        context.queue.queued = pipeline.runner.wake
    routes = [route_of(destination) for destination in settings.destinations]
    subscribers = make_acceptor([route for route in routes if route.events and CALLBACK_DUE in route.events])
    return pipeline, scheduler_of(settings, pipeline, owner, bodies, subscribers, metrics, system_clock)


async def _wire(settings: Settings, observers: Observers, spool: Spool, sender: SpanSender | None) -> App:
    intake, destinations, metrics = settings.intake, settings.destinations, observers.metrics
    scratch = prepare_directory(settings.spool.dir.absolute())
    calls = OpenCalls(await spool.reader.live_calls(system_clock() - OLDEST, MOST))
    throttle = DrainThrottle(options.throttle_policy(settings.drain), calls, system_clock)

    tenants, weights = await _tenants_of(settings, spool)

    # The way out: a plan for each destination, and the dispatcher that follows the plans.
    completion = options.completion_rule(settings.completion)
    announces = announcing_store(destinations)
    context = UploaderContext(spool, scratch, metrics, system_clock, throttle, completion, announces)
    plans = _plans(destinations, context, weights, throttle)
    spool.evictor.evicted = observers.details_given_up

    # The way in: memory and staging, then what reads, decodes, parses and accepts a post.
    executor = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="intake")
    gate, budget = AdmissionGate(), MemoryBudget(intake.memory_budget, wait_seconds=intake.memory_wait)
    workers = Workers(executor)
    threads = Threads(workers, INTAKE_TURNS)
    staging = StagingArea(scratch, spool, workers, budget.try_reserve if settings.spool.key else None)
    decoder = BodyDecoder(options.decoding_limits(intake), intake.inline_max, budget, staging, threads)
    reader = BodyReader(options.body_limits(intake), budget, staging, workers, decoder)
    redactions, parse_worker = _redacting_worker(settings, workers)
    routes = [route_of(destination) for destination in destinations]
    if follows_references(settings):
        routes.append(REFERENCES_ROUTE)
    token = IntakeToken(intake.token.get_secret_value() if intake.token else None, intake.hosts, tenants)
    make_acceptor = partial(
        Acceptor, spool, rule=options.size_rule(settings.split, settings.spool.compression_level, destinations),
        threads=threads, parse_worker=parse_worker, decoder=decoder, observer=metrics, clock=system_clock,
        open_calls=calls, token=token, tenants=tenants, redactions=redactions,
    )  # fmt: skip
    acceptor = make_acceptor(routes)
    parts = IntakeParts(spool, reader, acceptor, staging, gate, token, metrics, observers.spans)
    traces, heartbeats = trace_source(settings.otlp, parts), heartbeat_source(settings.live, parts)
    server = intake_server(settings, parts, budget, traces, heartbeats)
    forwarder = Forwarder(settings.webhooks.forward_timeout, via_pseudonym(spool.id))
    recordings = recording_parts(settings, spool, reader, routes, make_acceptor, metrics, system_clock)
    plans |= recordings.plans
    webhooks = webhook_server(settings, parts, forwarder, recordings)
    outboxes = _outboxes(settings.whispey, parts, budget)

    # What is read from buckets and accepted for the stores, and then the dispatcher, which delivers all of it.
    if follows_references(settings):
        stores = make_acceptor([route_of(destination) for destination in destinations if is_store(destination)])
        plans[REFERENCES_NAME] = reference_plan(settings.references, reader, stores, spool, metrics)
    # Jitter needs no unpredictability, only spread.
    dispatcher = Dispatcher(
        spool,
        plans,
        system_clock,
        random.random,
        observers,
        begin=unchanged if observers.spans is None else observers.spans.attempting,
    )
    spool.listener = dispatcher.offer

    call_stores = _call_stores(settings, context, reader, make_acceptor)
    call_stores.pipeline, callbacks = _pipeline(settings, context, reader, make_acceptor, observers)
    accepted = {destination.name: accepts(destination) for destination in destinations}
    delivery_admin = DeliveryAdmin(spool, staging, dispatcher, accepted, system_clock, acceptor.redacted)
    return App(
        spool,
        dispatcher,
        server,
        gate,
        staging,
        budget,
        calls,
        throttle,
        delivery_admin,
        None if tenants is None else TenantAdmin(spool, tenants),
        CallEraser(
            spool,
            dispatcher,
            _take_back(plans, recordings),
            context.stores,
            call_stores.pipeline,
            (traces.assembler.erased, observers.events.forget),
            tenants,
            acceptor.principal_of_agent,
            settings.erasure.country,
        ),
        parse_worker,
        executor,
        outboxes,
        call_stores,
        call_stores.pipeline,
        callbacks,
        webhooks,
        forwarder,
        recordings.store,
        traces,
        heartbeats,
        sender,
    )


def _call_stores(
    settings: Settings, context: UploaderContext, reader: BodyReader,
    make_acceptor: Callable[[Sequence[DestinationRoute]], Acceptor],
) -> CallStores:  # fmt: skip
    """The stores, and who announces the calls that become complete in one of them."""
    announcer, announces = None, announcing_store(settings.destinations)
    if announces is not None:
        routes = [route_of(destination) for destination in settings.destinations]
        subscribers = make_acceptor([route for route in routes if route.events and CALL_COMPLETE in route.events])
        store = context.stores[announces]
        announcer = Announcer(store, context.spool.id, reader, subscribers, context.completed)
    return CallStores(
        context.stores,
        settings.completion.sweep,
        options.routing(settings.completion),
        context.metrics,
        random.random,
        announcer,
        options.calls_kept(settings),
    )


def _redacting_worker(settings: Settings, workers: Workers) -> tuple[Redactions, ParseWorker]:
    """What is redacted of whose call logs, and the process that does it with large ones."""
    redactions = options.redactions(settings)
    return redactions, ParseWorker(workers, ("re2",) if redactions.has_patterns else ())


def _take_back(plans: Mapping[str, DestinationPlan], recordings: RecordingParts) -> dict[str, Uploader | Eraser]:
    """What was delivered to, and may take it back, by name."""
    return {**{name: plan.uploader for name, plan in plans.items()}, **recordings.erasers}


async def _tenants_of(settings: Settings, spool: Spool) -> tuple[TenantTable | None, dict[str | None, int]]:
    """Whose call logs there are, and the weights of all that may have something queued; nothing without tenants."""
    tenants = options.tenant_table(settings.tenants)
    if tenants is None:
        return None, {}
    tenants.assign(await spool.reader.assigned_agents())
    return tenants, dict.fromkeys(await spool.reader.open_tenants(), 1) | tenants.weights
