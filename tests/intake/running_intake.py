"""A running intake over a real spool, with every option within reach of a test, and short ways of asking it."""

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import zstandard

from gateway.admin.metrics import Metrics
from gateway.fanout import DestinationRoute
from gateway.intake.accept import Acceptor, PostService, Redactions
from gateway.intake.admission import AdmissionGate
from gateway.intake.body_reader import BodyLimits, BodyReader
from gateway.intake.decoding import BodyDecoder, DecodingLimits
from gateway.intake.memory import MemoryBudget
from gateway.intake.parse import SizeRule
from gateway.intake.parse_worker import ParseWorker
from gateway.intake.ports import IntakeObserver
from gateway.intake.protocol import ConnectionLimits
from gateway.intake.routes import IntakeHandler, IntakeToken, LoopGuard, Router
from gateway.intake.server import IntakeServer
from gateway.intake.sources.batch import BatchLimits, BatchSource, LineReader
from gateway.intake.sources.sdk import SdkSource
from gateway.intake.staging import StagingArea, Workers, prepare_directory
from gateway.intake.turns import Threads
from gateway.intake.upload_urls import PublicAddress, UploadUrlService
from gateway.listeners import ListenOptions
from gateway.live_calls import OpenCalls
from gateway.sdk_outbox.sinks import SpoolSink
from gateway.tenants import TenantTable
from spool.records import Clock, Fragment, Record, WhenFull
from spool.stats import TracedRecord
from spool.store import Spool, SpoolOptions
from tests.spool.spool_parts import Clock as MovableClock
from tests.spool.spool_parts import becomes

# The intake put together as `gateway.runtime.build` does it.


@dataclass(frozen=True)
class IntakeOptions:
    """What tests change about the intake. Sizes in bytes, times in seconds."""

    staging_directory: Path
    token: str | None = None
    hosts: tuple[str, ...] = ()
    listen: ListenOptions = field(default_factory=ListenOptions)
    tls: ssl.SSLContext | None = None
    public_url: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    memory_budget: int = 64 << 20
    memory_wait: float = 3.0
    upload_url_lifetime: float = 900.0
    batch_max_lines: int = 10_000
    bodies: BodyLimits = field(default_factory=BodyLimits)
    decoding: DecodingLimits = field(default_factory=DecodingLimits)
    sizes: SizeRule = field(default_factory=SizeRule)
    redactions: Redactions = field(default_factory=Redactions)
    tenants: TenantTable | None = None
    encrypts: bool = False
    """Whether bodies are encrypted while they come in, as where the spool has a key."""
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
        threads = Threads(workers, 2)
        self.budget = MemoryBudget(options.memory_budget, wait_seconds=options.memory_wait)
        within = self.budget.try_reserve if options.encrypts else None
        staging = StagingArea(options.staging_directory, store, workers, within)
        decoder = BodyDecoder(options.decoding, options.bodies.inline_max, self.budget, staging, threads)
        reader = BodyReader(options.bodies, self.budget, staging, workers, decoder)
        self.parse_worker = ParseWorker(workers)
        calls = OpenCalls()
        token = IntakeToken(options.token, options.hosts, options.tenants)
        self.make_acceptor = partial(
            Acceptor, store, rule=options.sizes, threads=threads, parse_worker=self.parse_worker, decoder=decoder,
            observer=observer, clock=clock, open_calls=calls, token=token, tenants=options.tenants,
            redactions=options.redactions,
        )  # fmt: skip
        acceptor = self.make_acceptor(destinations)
        uploads = UploadUrlService(store, clock, round(options.upload_url_lifetime * 1000))
        address = PublicAddress(options.public_url, options.trusted_proxies)
        posts = PostService(reader, acceptor, uploads, token, address)
        sdk = SdkSource(reader, acceptor, posts, uploads, store, token)
        lines = LineReader(options.bodies.body_max, staging, workers)
        self.open_calls = calls
        self.gate = AdmissionGate()
        batch = BatchSource(
            BatchLimits(options.batch_max_lines, options.bodies.progress_timeout),
            self.budget,
            reader,
            lines,
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
        self.reader, self.acceptor, self.staging, self.workers = reader, acceptor, staging, workers
        self.connections = options.connections
        self.server = IntakeServer(options.listen, handler.handle, self.gate, observer, options.connections)


# The intake while it runs.


DEADLINE = 30.0
"""For what takes a moment, on a machine that is busy with much else."""
ENDPOINT = DestinationRoute("endpoint", forwards_token=True)


@dataclass(frozen=True)
class Reply:
    """What an agent got back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class RunningIntake:
    """The intake, its spool, and what a test asks of them."""

    def __init__(self, spool: Spool, intake: Intake, metrics: Metrics, directory: Path, clock: MovableClock) -> None:
        self.spool = spool
        self.intake = intake
        self.metrics = metrics
        self.staging = directory / "staging"
        self.clock = clock

    @property
    def port(self) -> int:
        return self.intake.server.port

    def holds_nothing(self) -> bool:
        """Whether neither staging files nor memory are left of the posts."""
        return not self.staged_files() and not self.intake.budget.used_bytes

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        content_encoding: str | None = None,
    ) -> Reply:
        """One request on a connection of its own, as the SDK makes them. A dict goes as JSON."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        if isinstance(body, bytes):
            body = io.BytesIO(body)
        sent = dict(headers or {})
        if content_encoding is not None:
            sent["Content-Encoding"] = content_encoding
        url = path if path.startswith("http") else f"http://127.0.0.1:{self.port}{path}"
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.request(
                method, url, data=body, headers=sent, skip_auto_headers=("Content-Type",), compress=None,
                timeout=aiohttp.ClientTimeout(DEADLINE),
            ) as response,
        ):  # fmt: skip
            return Reply(response.status, response.headers, await response.read())

    async def post(self, body: Any, path: str = "/dev/send-call-log", **more: Any) -> Reply:
        return await self.ask("POST", path, body, **more)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send_raw(self, data: bytes) -> bytes:
        """Send bytes as they are and read until the server closes the connection."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            async with asyncio.timeout(DEADLINE):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def only_record(self, call_id: str) -> TracedRecord:
        records = await self.spool.trace(call_id)
        assert len(records) == 1
        return records[0]

    async def stored(self, record: Record, fragment: Fragment = Fragment.BODY) -> bytes:
        """The raw bytes of a fragment, read back from the spool."""
        frames = [frame async for frame in self.spool.frames(record, fragment)]
        return b"".join(zstandard.ZstdDecompressor().decompress(frame) for frame in frames)

    def counted(self, route: str, result: str) -> float:
        labels = {"route": route, "result": result}
        return self.metrics.registry.get_sample_value("callspool_posts_total", labels) or 0.0

    async def until(self, condition: Any, seconds: float = DEADLINE) -> None:
        """Wait until the condition holds: what it waits for may happen in other threads and processes."""
        await becomes(condition, seconds)

    def staged_files(self) -> list[Path]:
        return list(self.staging.iterdir())


@asynccontextmanager
async def running(
    directory: Path,
    *,
    destinations: tuple[DestinationRoute, ...] = (ENDPOINT,),
    spool_max: int | None = None,
    when_full: WhenFull = WhenFull.REFUSE,
    **options: Any,
) -> AsyncIterator[RunningIntake]:
    """A world whose intake takes posts; `options` are those of the intake."""
    metrics = Metrics()
    clock = MovableClock(1_700_000_000_000)
    names = [destination.name for destination in destinations]
    spool = await Spool.open(SpoolOptions(directory, max_bytes=spool_max, when_full=when_full), names, clock, metrics)
    executor = ThreadPoolExecutor(4)
    chosen = replace(IntakeOptions(prepare_directory(directory)), **options)
    intake = Intake(chosen, spool, destinations, metrics, clock, executor)
    world = RunningIntake(spool, intake, metrics, directory, clock)
    await intake.server.start(chosen.tls)
    intake.gate.open()
    try:
        yield world
    finally:
        await intake.server.stop(DEADLINE)
        await intake.parse_worker.close()
        executor.shutdown()
        await spool.close()
