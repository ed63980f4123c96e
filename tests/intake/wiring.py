"""The intake put together as the assembly does it, with every option within reach of a test."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gateway.fanout import DestinationRoute
from gateway.intake.accept import Acceptor, PostService
from gateway.intake.body_reader import BodyLimits, BodyReader
from gateway.intake.decoding import BodyDecoder, DecodingLimits
from gateway.intake.memory import MemoryBudget
from gateway.intake.parse import SizeRule
from gateway.intake.parse_worker import ParseWorker
from gateway.intake.ports import IntakeObserver
from gateway.intake.protocol import AdmissionGate, ConnectionLimits
from gateway.intake.routes import IntakeHandler, IntakeToken, LoopGuard, Router
from gateway.intake.server import IntakeServer
from gateway.intake.sources.batch import BatchLimits, BatchSource, LineReader
from gateway.intake.sources.sdk import SdkSource
from gateway.intake.staging import StagingArea, Workers
from gateway.intake.upload_urls import UploadUrlService
from gateway.live_calls import OpenCalls
from gateway.sdk_outbox.sinks import SpoolSink
from spool.records import Clock
from spool.store import Spool


@dataclass(frozen=True)
class IntakeOptions:
    """What tests change about the intake. Sizes in bytes, times in seconds."""

    staging_directory: Path
    token: str | None = None
    hosts: tuple[str, ...] = ()
    memory_budget: int = 64 << 20
    memory_wait: float = 3.0
    upload_url_lifetime: float = 900.0
    batch_max_lines: int = 10_000
    bodies: BodyLimits = field(default_factory=BodyLimits)
    decoding: DecodingLimits = field(default_factory=DecodingLimits)
    sizes: SizeRule = field(default_factory=SizeRule)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


class Intake:
    """The intake, wired, on a free port."""

    def __init__(
        self,
        options: IntakeOptions,
        store: Spool,
        destinations: Sequence[DestinationRoute],
        observer: IntakeObserver,
        clock: Clock,
        executor: Executor,
    ) -> None:
        workers = Workers(executor)
        staging = StagingArea(options.staging_directory, store, workers)
        self.budget = MemoryBudget(options.memory_budget, wait_seconds=options.memory_wait)
        decoder = BodyDecoder(options.decoding, options.bodies.inline_max, self.budget, staging, workers)
        reader = BodyReader(options.bodies, self.budget, staging, workers, decoder)
        self.parse_worker = ParseWorker(workers)
        calls = OpenCalls()
        token = IntakeToken(options.token, options.hosts)
        acceptor = Acceptor(
            store, destinations, options.sizes, workers, self.parse_worker, decoder, observer, clock, calls, token
        )
        uploads = UploadUrlService(store, clock, round(options.upload_url_lifetime * 1000))
        posts = PostService(reader, acceptor, uploads, token)
        sdk = SdkSource(reader, acceptor, posts, uploads, store, token)
        lines = LineReader(options.bodies.body_max, staging, workers)
        self.open_calls = calls
        self.gate = AdmissionGate()
        batch = BatchSource(
            BatchLimits(options.batch_max_lines, options.bodies.progress_timeout),
            self.budget,
            reader,
            lines,
            acceptor,
            posts,
            self.gate,
            observer,
        )
        self.sink = partial(
            SpoolSink,
            acceptor=acceptor,
            budget=self.budget,
            staging=staging,
            workers=workers,
            token=token,
            observer=observer,
        )
        handler = IntakeHandler(
            Router([*sdk.routes(), *batch.routes()]), self.gate, LoopGuard(store.id), token, observer
        )
        self.server = IntakeServer("127.0.0.1", 0, handler.handle, self.gate, observer, options.connections)
