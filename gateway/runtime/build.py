"""From settings to the wired parts of a gateway: the only place, beside the command line, that constructs things."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from config.destinations import Destination, PipelineDestination
from config.settings import Settings, WhispeySettings
from gateway.admin.events import Observers
from gateway.admin.view import BackPressure
from gateway.announcements import Announcer
from gateway.calls import CALL_COMPLETE
from gateway.fanout import DestinationRoute
from gateway.heartbeats.source import HeartbeatSource
from gateway.intake.routes import via_pseudonym
from gateway.intake.server import IntakeServer
from gateway.intake.staging import prepare_directory
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
    copies_recordings,
    heartbeat_source,
    intake_parts,
    intake_server,
    recording_parts,
    trace_source,
    webhook_server,
)
from gateway.runtime.stores import (
    REFERENCES_NAME,
    REFERENCES_ROUTE,
    CallStores,
    calls_kept,
    follows_references,
    reference_plan,
)
from gateway.runtime.telemetry import SpanSender, span_sender
from gateway.sdk_outbox.rescue import OutboxWatch
from gateway.sdk_outbox.sinks import SpoolSink
from gateway.tenants import TenantTable
from gateway.webhooks.source import Forwarder
from spool.records import system_clock
from spool.store import Spool
from uploaders.base import DestinationStatus
from uploaders.dispatch.destination import unchanged
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.dispatch.policy import FallbackStep
from uploaders.recordings import RecordingStore

if TYPE_CHECKING:
    from gateway.callbacks import CallbackScheduler
    from uploaders.pipeline.service import Pipeline


@dataclass(frozen=True, slots=True)
class App:
    """The parts of a gateway whose spool is open, as the lifecycle starts and stops them."""

    spool: Spool
    dispatcher: Dispatcher
    intake: IntakeServer
    intake_parts: IntakeParts
    throttle: DrainThrottle
    delivery_admin: DeliveryAdmin
    tenant_admin: TenantAdmin | None
    call_eraser: CallEraser
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
        budget = self.intake_parts.budget
        return BackPressure(self.intake_parts.gate.in_flight, budget.waiting, budget.used_bytes, budget.total_bytes)

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
        """Stop every way in; see `IntakeServer.stop`. The listeners share one gate, so both drain together."""
        await self.outboxes.stop(drain_seconds)
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
        await self.intake_parts.parse_worker.close()
        await self.spool.close()
        if self.spans is not None:
            await self.spans.close()
        await asyncio.to_thread(self.intake_parts.executor.shutdown)


def _no_longer_configured(name: str) -> DestinationStatus:
    return DestinationStatus(
        name=name,
        type="",
        configured=False,
        up=False,
        reason="no longer in the configuration: its deliveries are held",
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


def _outboxes(whispey: WhispeySettings, parts: IntakeParts) -> OutboxWatch:
    """What rescues rows of the SDK's outboxes: a way in like the others, through the same parts."""
    sink = SpoolSink(
        acceptor=parts.acceptor,
        budget=parts.budget,
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
    tenants: TenantTable | None,
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
            when_too_large=tuple([_of_owners(step, tenants) for step in fallbacks(destination, destinations)]),
            type=destination.type,
            tenants=weights,
            details_at_once=throttle.details_at_once,
        )
        for destination in destinations
    }


def _of_owners(step: FallbackStep, tenants: TenantTable | None) -> FallbackStep:
    """The fallback for those alone whose own the destination is."""
    return step if tenants is None else replace(step, tenants=tenants.owners_of(step.to[0].destination))


def _subscribers(destinations: Sequence[Destination], event: str) -> list[DestinationRoute]:
    """Those that want this event and name it: nobody else is sent what the gateway makes itself."""
    routes = map(route_of, destinations)
    return [route for route in routes if route.events and event in route.events]


def _pipeline(
    settings: Settings, context: UploaderContext, parts: IntakeParts
) -> "tuple[Pipeline | None, CallbackScheduler | None]":
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
    metrics, spans = parts.metrics, parts.spans
    steps = None if spans is None else StepSpans(metrics, spans, contexts_in(context.spool))
    pipeline = pipeline_of(settings, wanted, database, owner, metrics, system_clock, works=works, steps=steps)
    if pipeline.runner is not None:
        context.queue.queued = pipeline.runner.wake
    subscribers = parts.make_acceptor(_subscribers(settings.destinations, CALLBACK_DUE))
    return pipeline, scheduler_of(settings, pipeline, owner, parts.reader, subscribers, metrics, system_clock)


async def _wire(settings: Settings, observers: Observers, spool: Spool, sender: SpanSender | None) -> App:
    destinations, metrics = settings.destinations, observers.metrics
    scratch = prepare_directory(settings.spool.dir.absolute())
    calls = OpenCalls(await spool.reader.live_calls(system_clock() - OLDEST, MOST))
    throttle = DrainThrottle(options.throttle_policy(settings.drain), calls, system_clock)
    tenants, weights = await _tenants_of(settings, spool)

    # The way out: a plan for each destination.
    completion = options.completion_rule(settings.completion)
    announces = announcing_store(destinations)
    context = UploaderContext(spool, scratch, metrics, system_clock, throttle, completion, announces)
    plans = _plans(destinations, context, tenants, weights, throttle)
    spool.evictor.evicted = observers.details_given_up

    # The ways in.
    routes = _routes(settings)
    parts = intake_parts(settings, observers, spool, scratch, routes, calls, tenants)
    traces, heartbeats = trace_source(settings.otlp, parts), heartbeat_source(settings.live, parts)
    server = intake_server(settings, parts, traces, heartbeats)
    forwarder = Forwarder(settings.webhooks.forward_timeout, via_pseudonym(spool.id))
    recordings = recording_parts(settings, parts, routes)
    webhooks = webhook_server(settings, parts, forwarder, recordings)
    outboxes = _outboxes(settings.whispey, parts)

    # What fetches recordings, and call logs from buckets; then the dispatcher, which delivers all of it.
    plans |= {**recordings.plans, **_plan_of_references(settings, parts)}
    dispatcher = _dispatcher(plans, observers, spool)

    # What works on the calls in stores, and what carries out operators' orders.
    call_stores = _call_stores(settings, context, parts)
    pipeline, callbacks = _pipeline(settings, context, parts)
    call_stores.pipeline = pipeline
    owners = {} if tenants is None else {each.name: tenants.owners_of(each.name) for each in destinations}
    accepted = {each.name: replace(accepts(each), tenants=owners.get(each.name)) for each in destinations}
    delivery_admin = DeliveryAdmin(spool, parts.staging, dispatcher, accepted, system_clock, parts.acceptor)
    erasers = {name: plan.uploader for name, plan in plans.items()} | recordings.erasers
    kept_in_stores = {REFERENCES_NAME, *(each.name for each in destinations if isinstance(each, PipelineDestination))}
    call_eraser = CallEraser(
        spool, dispatcher, erasers, context.stores, pipeline, kept_in_stores,
        (traces.assembler.erased, observers.events.forget), tenants, parts.acceptor.principal_of_agent,
        settings.erasure.country,
    )  # fmt: skip
    return App(
        spool=spool, dispatcher=dispatcher, throttle=throttle, spans=sender,
        intake=server, intake_parts=parts, traces=traces, heartbeats=heartbeats, outboxes=outboxes,
        webhooks=webhooks, forwarder=forwarder, recordings=recordings.store,
        call_stores=call_stores, pipeline=pipeline, callbacks=callbacks,
        delivery_admin=delivery_admin, tenant_admin=None if tenants is None else TenantAdmin(spool, tenants),
        call_eraser=call_eraser,
    )  # fmt: skip


def _routes(settings: Settings) -> list[DestinationRoute]:
    """What may get a call log: each destination, and what follows references to buckets."""
    routes = [route_of(destination) for destination in settings.destinations]
    return [*routes, REFERENCES_ROUTE] if follows_references(settings) else routes


def _plan_of_references(settings: Settings, parts: IntakeParts) -> dict[str, DestinationPlan]:
    """How call logs in buckets are read, and accepted for the stores; none where references are not followed."""
    if not follows_references(settings):
        return {}
    stores = parts.make_acceptor([route_of(each) for each in settings.destinations if is_store(each)])
    return {REFERENCES_NAME: reference_plan(settings.references, parts.reader, stores, parts.spool, parts.metrics)}


def _dispatcher(plans: dict[str, DestinationPlan], observers: Observers, spool: Spool) -> Dispatcher:
    """The dispatcher, which hears of what was accepted."""
    begin = unchanged if observers.spans is None else observers.spans.attempting
    # Jitter needs no unpredictability, only spread.
    dispatcher = Dispatcher(spool, plans, system_clock, random.random, observers, begin=begin)
    spool.listener = dispatcher.offer
    return dispatcher


def _call_stores(settings: Settings, context: UploaderContext, parts: IntakeParts) -> CallStores:
    """The stores, and who announces the calls that become complete in one of them."""
    announcer, announces = None, announcing_store(settings.destinations)
    if announces is not None:
        subscribers = parts.make_acceptor(_subscribers(settings.destinations, CALL_COMPLETE))
        store = context.stores[announces]
        announcer = Announcer(store, context.spool.id, parts.reader, subscribers, context.completed)
    return CallStores(
        context.stores,
        settings.completion.sweep,
        options.routing(settings.completion),
        context.metrics,
        random.random,
        announcer,
        calls_kept(settings),
    )


async def _tenants_of(settings: Settings, spool: Spool) -> tuple[TenantTable | None, dict[str | None, int]]:
    """Whose call logs there are, and the weights of all that may have something queued; nothing without tenants."""
    tenants = options.tenant_table(settings.tenants)
    if tenants is None:
        return None, {}
    tenants.assign(await spool.reader.assigned_agents())
    return tenants, dict.fromkeys(await spool.reader.open_tenants(), 1) | tenants.weights
