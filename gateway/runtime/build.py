"""From settings to the wired parts of a gateway."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from config.destinations import (
    Destination,
    FileDestination,
    HttpDestination,
    Large,
    PresignedDestination,
    S3Destination,
)
from config.destinations.base import EndpointTable
from config.settings import Settings, WhispeySettings
from gateway.admin.events import Observers
from gateway.admin.metrics import Metrics
from gateway.intake.accept import Acceptor, Replier
from gateway.intake.admission import Gate
from gateway.intake.batch import BatchRunner, LineReader
from gateway.intake.body_reader import BodyReader
from gateway.intake.decoding import BodyDecoder
from gateway.intake.handler import IntakeHandler
from gateway.intake.memory import MemoryBudget
from gateway.intake.parse_worker import Examiner
from gateway.intake.ports import Clock
from gateway.intake.routes import IntakeToken
from gateway.intake.server import IntakeServer
from gateway.intake.staging import StagingArea, Workers, prepare_directory
from gateway.intake.upload_urls import UploadDesk
from gateway.live_calls import MOST, OLDEST, Courtesy, OpenCalls
from gateway.operations.service import OrderDesk
from gateway.runtime import options
from gateway.runtime.lifecycle import Service, Watchers
from gateway.runtime.options import fallbacks, reduction, s3_options, takes, takes_uploads
from gateway.sdk_outbox.rescue import OutboxWatch, RescueObserver
from gateway.sdk_outbox.sinks import IntakeParts, SpoolTaker
from spool.records import Lane
from spool.store import Spool
from uploaders.base import Uploader
from uploaders.dispatch.dispatcher import DestinationPlan, Dispatcher
from uploaders.file import FileUploader
from uploaders.http.uploader import HttpUploader
from uploaders.presigned import PresignedUploader, RoutingUploader
from uploaders.rate_limit import Bandwidth, RateLimit

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
            when_too_large=fallbacks(destination, settings.destinations),
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


# From the settings of each destination to its uploader.


class UploaderFactory:
    """Makes uploaders that read from one spool. `scratch` is a directory for what one of them has to keep a moment."""

    def __init__(
        self, spool: Spool, scratch: Path, metrics: Metrics, clock: Callable[[], int], courtesy: Courtesy
    ) -> None:
        self._spool = spool
        self._scratch = scratch
        self._metrics = metrics
        self._clock = clock
        self._shared = (RateLimit(courtesy.rate),) if courtesy.limits_rate else ()

    def make(self, destination: Destination) -> Uploader:
        """The uploader of this destination. Raises `OSError` where a certificate file cannot be read."""
        bandwidth = self._bandwidth(destination)
        match destination:
            case HttpDestination():
                return self._http(destination, bandwidth)
            case PresignedDestination():
                posting = HttpUploader(options.posting_options(destination), self._spool, self._clock, bandwidth)
                return RoutingUploader(posting, self._uploading(destination, bandwidth), frozenset(Lane))
            case S3Destination():
                # A gateway without a bucket does without 11 MB of memory and an eighth of a second at its start.
                from uploaders.s3.uploader import S3Uploader  # noqa: PLC0415  # see above

                chosen, ledger, observer = s3_options(destination), self._spool.ledger, self._metrics.uploads
                return S3Uploader(chosen, self._spool, ledger, self._clock, observer, bandwidth)
            case FileDestination():
                return FileUploader(destination.path.absolute(), self._spool, bandwidth)

    def _bandwidth(self, destination: Destination) -> Bandwidth:
        """The limit of all destinations together, and its own."""
        rate = destination.max_bytes_per_second
        own = () if rate is None else (RateLimit(lambda: rate),)
        return Bandwidth((*self._shared, *own), time.monotonic)

    def _http(self, destination: HttpDestination, bandwidth: Bandwidth) -> Uploader:
        """It posts; where large call logs go through upload addresses, always or as a way on, it has both."""
        chosen = replace(
            options.http_options(destination), reduction=reduction(destination, self._scratch), scratch=self._scratch
        )
        posting = HttpUploader(chosen, self._spool, self._clock, bandwidth)
        if destination.large is not Large.PRESIGNED and not takes_uploads(destination):
            return posting
        return RoutingUploader(posting, self._uploading(destination, bandwidth), frozenset({Lane.DETAIL}))

    def _uploading(
        self, destination: HttpDestination | PresignedDestination, bandwidth: Bandwidth
    ) -> PresignedUploader:
        """Through the upload addresses of this endpoint."""
        chosen = options.presigned_options(destination)
        return PresignedUploader(chosen, self._spool, self._clock, self._metrics.uploads, bandwidth)


# From the settings of the SDK's outboxes to what watches them.


def build_outboxes(
    whispey: WhispeySettings, intake: IntakeParts, observer: RescueObserver, clock: Clock
) -> OutboxWatch:
    """What watches the configured outboxes; it begins when it is started."""
    key = whispey.outbox_token.get_secret_value() if whispey.outbox_token else None
    paths = tuple(dict.fromkeys(path.absolute() for path in whispey.outbox))
    return OutboxWatch(paths, whispey.outbox_interval, SpoolTaker(intake, key), clock, observer)
