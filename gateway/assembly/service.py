"""From settings to the wired parts of a gateway."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

from config.endpoint_table import EndpointTable
from config.settings import Settings
from gateway.admin.observers import Observers
from gateway.assembly import options
from gateway.assembly.outbox import build_outboxes
from gateway.assembly.rerouting import takes
from gateway.assembly.too_large import ladder
from gateway.assembly.uploaders import UploaderFactory
from gateway.courtesy import Courtesy
from gateway.intake.accepting import Acceptor
from gateway.intake.batch import BatchRunner
from gateway.intake.budget import MemoryBudget
from gateway.intake.calls import MOST, OLDEST, OpenCalls
from gateway.intake.examiner import Examiner
from gateway.intake.gate import Gate
from gateway.intake.handler import IntakeHandler
from gateway.intake.lines import LineReader
from gateway.intake.opening import BodyDecoder
from gateway.intake.reading import BodyReader
from gateway.intake.replies import Replier
from gateway.intake.server import IntakeServer
from gateway.intake.staging import StagingArea, prepare_directory
from gateway.intake.tokens import IntakeToken
from gateway.intake.uploads import UploadDesk
from gateway.intake.workers import Workers
from gateway.orders.desk import OrderDesk
from gateway.outbox.taking import IntakeParts
from gateway.service import Service, Watchers
from spool.store import Spool
from uploaders.dispatcher import DestinationPlan, Dispatcher

INTAKE_THREADS = 2
"""Threads that decode, hash and split large bodies: as many as there are cores on the smallest machines."""


def now() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


async def build_service(settings: Settings, watchers: Watchers) -> Service:
    """Open the spool and wire everything to it; nothing listens or delivers yet.

    Raises `spool.errors.SpoolError`, and `OSError` where a certificate file cannot be read.
    """
    names = [destination.name for destination in settings.destinations]
    spool = await Spool.open(options.spool_options(settings), names, now, watchers.metrics)
    try:
        calls = OpenCalls(await spool.live_calls(now() - OLDEST, MOST))
        courtesy = Courtesy(options.courtesy_rule(settings.drain), calls, now)
        dispatcher = _build_dispatcher(settings, spool, watchers, courtesy)
        executor = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="intake")
        gate = Gate()
        workers = Workers(executor)
        examiner = Examiner(workers)
        intake, parts = _build_intake(settings, spool, watchers, gate, workers, examiner, calls)
        outboxes = build_outboxes(settings.whispey, parts, watchers.metrics.outboxes, now)
    except BaseException:
        await spool.close()
        raise
    spool.listener = dispatcher.offer
    spool.room.gave_up = watchers.details_given_up
    taken = {destination.name: takes(destination) for destination in settings.destinations}
    desk = OrderDesk(spool, parts.staging, dispatcher, taken, now)
    return Service(spool, dispatcher, intake, gate, calls, courtesy, desk, examiner, executor, outboxes)


def _build_dispatcher(settings: Settings, spool: Spool, watchers: Watchers, courtesy: Courtesy) -> Dispatcher:
    """With a plan for each destination."""
    uploaders = UploaderFactory(spool, settings.spool.dir.absolute(), watchers.metrics, now, courtesy)
    plans = {
        destination.name: DestinationPlan(
            uploader=uploaders.make(destination),
            policy=options.retry_policy(destination.retry),
            concurrency=options.concurrency(destination.concurrency),
            shared_token=isinstance(destination, EndpointTable) and options.replaces_token(destination),
            when_too_large=ladder(destination, settings.destinations),
            type=destination.type,
            details_at_once=courtesy.details_at_once,
        )
        for destination in settings.destinations
    }
    observer = Observers(watchers.metrics, watchers.events)
    # Jitter needs no unpredictability, only spread.
    return Dispatcher(spool, plans, now, random.random, observer)


def _build_intake(
    settings: Settings,
    spool: Spool,
    watchers: Watchers,
    gate: Gate,
    workers: Workers,
    examiner: Examiner,
    calls: OpenCalls,
) -> tuple[IntakeServer, IntakeParts]:
    intake, metrics = settings.intake, watchers.metrics
    budget = MemoryBudget(intake.memory_budget, wait_seconds=intake.memory_wait)
    staging = StagingArea(prepare_directory(settings.spool.dir.absolute()), spool, workers)
    decoder = BodyDecoder(options.decoding_limits(intake), intake.inline_max, budget, staging, workers)
    reader = BodyReader(options.body_limits(intake), budget, staging, workers, decoder)
    routes = [options.destination_route(destination) for destination in settings.destinations]
    rule = options.size_rule(settings.split, settings.spool.compression_level)
    acceptor = Acceptor(spool, routes, rule, workers, examiner, decoder, metrics, now, calls)
    desk = UploadDesk(spool, now, options.milliseconds(intake.upload_url_ttl))
    replier = Replier(acceptor, desk)
    lines = LineReader(intake.body_max, staging, workers)
    batch = BatchRunner(options.batch_limits(intake), budget, reader, lines, acceptor, replier, gate, metrics)
    token = IntakeToken(intake.token.get_secret_value() if intake.token else None)
    handler = IntakeHandler(gate, token, reader, acceptor, desk, replier, batch, spool, metrics)
    server = IntakeServer(
        intake.listen.host, intake.listen.port, handler, gate, metrics, options.connection_limits(intake)
    )
    return server, IntakeParts(acceptor, budget, staging, workers, token, metrics)
