"""From the settings of ways in to what answers there: posts, webhooks, recordings, spans, heartbeats and turns."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from config.listeners import ListenerTable, LiveSettings, OtlpSettings
from config.settings import Settings
from config.sources import ProviderName, SourceSettings, recordings_bucket
from gateway.admin.events import Observers
from gateway.admin.metrics import Metrics
from gateway.fanout import DestinationRoute, RouteKind
from gateway.heartbeats.source import HeartbeatSource
from gateway.heartbeats.watch import HeartbeatWatch
from gateway.intake.accept import Acceptor, PostService
from gateway.intake.admission import AdmissionGate
from gateway.intake.body_reader import BodyReader
from gateway.intake.decoding import BodyDecoder
from gateway.intake.memory import MemoryBudget
from gateway.intake.parse_worker import ParseWorker
from gateway.intake.routes import IntakeHandler, IntakeToken, LoopGuard, Router
from gateway.intake.server import IntakeServer
from gateway.intake.sources.batch import BatchSource, LineReader
from gateway.intake.sources.sdk import SdkSource
from gateway.intake.staging import StagingArea, Workers
from gateway.intake.turns import Threads
from gateway.intake.upload_urls import PublicAddress, UploadUrlService
from gateway.live_calls import OpenCalls
from gateway.otlp.assembler import ClosingRule, TraceAssembler
from gateway.otlp.source import TraceSource
from gateway.otlp.spans import SpanRule
from gateway.runtime import options
from gateway.runtime.destinations import DriverMissing
from gateway.telemetry import Spans
from gateway.tenants import TenantTable
from gateway.webhooks.adapters import pointed
from gateway.webhooks.providers import PROVIDERS, Provider
from gateway.webhooks.recordings import InlineAudio, RecordingCopier
from gateway.webhooks.signatures import Algorithm, Encoding, HmacScheme, LivekitScheme, Scheme, SecretHeaderScheme
from gateway.webhooks.source import Forwarder, Source, WebhookSource
from spool.records import Lane, system_clock
from spool.store import Spool
from uploaders.base import Eraser
from uploaders.dispatch.dispatcher import DestinationPlan
from uploaders.dispatch.policy import RetryPolicy
from uploaders.http.download import Downloader
from uploaders.recordings import DirectoryRecordings, RecordingsBySource, RecordingStore
from uploaders.upload_hosts import UploadHosts

# The intake: what all ways in share, and the listener that agents post to.

INTAKE_TURNS: Final = 2
"""Large bodies that are decoded or parsed at a time: as many as there are cores on the smallest machines."""
INTAKE_THREADS: Final = INTAKE_TURNS + 2
"""Others write staging files meanwhile, which waits for the disk more than for a core."""


@dataclass(frozen=True, slots=True)
class IntakeParts:
    """What all ways in share: how a post is let in, read, accepted and counted."""

    spool: Spool
    executor: ThreadPoolExecutor
    gate: AdmissionGate
    budget: MemoryBudget
    staging: StagingArea
    reader: BodyReader
    parse_worker: ParseWorker
    token: IntakeToken
    calls: OpenCalls
    make_acceptor: Callable[[Sequence[DestinationRoute]], Acceptor]
    """Makes what accepts call logs for these destinations."""
    acceptor: Acceptor
    """Accepts for all of them."""
    metrics: Metrics
    spans: Spans | None

    def server(self, settings: Settings, listener: ListenerTable, router: Router) -> IntakeServer:
        """What listens there for requests of these routes. Raises `CannotListen`."""
        guard = LoopGuard(self.spool.id)
        handler = IntakeHandler(router, self.gate, guard, self.token, self.metrics, self.spans)
        limits = options.connection_limits(settings.intake)
        return IntakeServer(options.listen_options(listener), handler.handle, self.gate, self.metrics, limits)


def intake_parts(
    settings: Settings, observers: Observers, spool: Spool, scratch: Path, routes: Sequence[DestinationRoute],
    calls: OpenCalls, tenants: TenantTable | None,
) -> IntakeParts:  # fmt: skip
    """Memory and staging, then what reads, decodes, parses and accepts a post."""
    intake, metrics = settings.intake, observers.metrics
    executor = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="intake")
    budget = MemoryBudget(intake.memory_budget, wait_seconds=intake.memory_wait)
    workers = Workers(executor)
    threads = Threads(workers, INTAKE_TURNS)
    staging = StagingArea(scratch, spool, workers, budget.try_reserve if settings.spool.key else None)
    decoder = BodyDecoder(options.decoding_limits(intake), intake.inline_max, budget, staging, threads)
    reader = BodyReader(options.body_limits(intake), budget, staging, workers, decoder)
    redactions = options.redactions(settings)
    parse_worker = ParseWorker(workers, ("re2",) if redactions.has_patterns else ())
    token = IntakeToken(intake.token.get_secret_value() if intake.token else None, intake.hosts, tenants)
    rule = options.size_rule(settings.split, settings.spool.compression_level, settings.destinations)

    def make_acceptor(routes: Sequence[DestinationRoute]) -> Acceptor:
        return Acceptor(
            spool,
            routes,
            rule,
            threads,
            parse_worker,
            decoder,
            metrics,
            system_clock,
            calls,
            token,
            tenants,
            redactions,
        )

    return IntakeParts(
        spool, executor, AdmissionGate(), budget, staging, reader, parse_worker, token, calls, make_acceptor,
        make_acceptor(routes), metrics, observers.spans,
    )  # fmt: skip


def intake_server(
    settings: Settings, parts: IntakeParts, traces: TraceSource, heartbeats: HeartbeatSource
) -> IntakeServer:
    """The listener that agents post to. Raises `CannotListen`."""
    intake, spool, reader, token = settings.intake, parts.spool, parts.reader, parts.token
    uploads = UploadUrlService(spool, system_clock, options.milliseconds(intake.upload_url_ttl))
    public = PublicAddress(intake.public_url, intake.trusted_proxies)
    posts = PostService(reader, parts.acceptor, uploads, token, public)
    sdk = SdkSource(reader, parts.acceptor, posts, uploads, spool, token)
    lines = LineReader(intake.body_max, parts.staging, parts.staging.workers)
    batch = BatchSource(options.batch_limits(intake), parts.budget, reader, lines, posts, parts.gate, parts.metrics)
    routes = [*sdk.routes(), *batch.routes(), *traces.routes(), *heartbeats.routes()]
    return parts.server(settings, intake, Router(routes))


# Recordings of webhooks: where they are kept, and what fetches those behind addresses.

RECORDINGS_NAME: Final = "recordings"
"""What the copying of recordings is called among the destinations."""
RECORDINGS_ROUTE: Final = DestinationRoute(RECORDINGS_NAME, RouteKind.RECORDINGS)
GIVE_UP_SECONDS: Final = 24 * 3600.0
"""How long a recording is tried to be fetched: most addresses are good for less."""
AT_ONCE: Final = 2
"""Recordings under way; of each, one part of a bucket is in memory."""
MOST_BYTES: Final = 4 << 30
"""Of one recording: a day of sound."""


def copies_recordings(settings: Settings) -> bool:
    """Whether recordings behind addresses are fetched."""
    return settings.webhooks.listen is not None and any(each.copies for each in settings.sources)


@dataclass(frozen=True, slots=True)
class RecordingParts:
    """What webhooks and the dispatcher need for recordings."""

    store: RecordingStore | None
    """None where recordings are kept nowhere."""
    copying: Acceptor | None
    """Accepts call logs whose recording is to be fetched; None where none is."""
    plans: Mapping[str, DestinationPlan]

    @property
    def erasers(self) -> dict[str, Eraser]:
        """What takes recordings back, by the name that it has among the destinations."""
        return {} if self.store is None else {RECORDINGS_NAME: self.store}


def recording_parts(settings: Settings, parts: IntakeParts, routes: Sequence[DestinationRoute]) -> RecordingParts:
    """How recordings are kept and fetched; what says where they are goes to the `routes`."""
    spool = parts.spool
    store = _store(settings, spool, parts.metrics)
    if store is None or not copies_recordings(settings):
        return RecordingParts(store, None, {})
    hosts = UploadHosts((), settings.webhooks.recording_hosts, any_name=True)
    downloader = Downloader(hosts, MOST_BYTES)
    plan = DestinationPlan(
        uploader=RecordingCopier(downloader, store, parts.reader, parts.acceptor, spool, system_clock),
        policy=RetryPolicy(give_up_after=GIVE_UP_SECONDS),
        concurrency={Lane.CORE: 1, Lane.DETAIL: AT_ONCE},
        type=RECORDINGS_NAME,
    )
    return RecordingParts(store, parts.make_acceptor([*routes, RECORDINGS_ROUTE]), {RECORDINGS_NAME: plan})


def _store(settings: Settings, spool: Spool, metrics: Metrics) -> RecordingStore | None:
    """The directory, else the first bucket that is no tenant's own, and the buckets of tenants; None without any."""
    if settings.webhooks.listen is None:
        return None
    owners = {source.name: source.tenant for source in settings.sources if source.tenant is not None}
    buckets: dict[str, RecordingStore] = {}

    def bucket_of(tenant: str | None) -> RecordingStore | None:
        own = {name: each.destinations for name, each in settings.tenants.items()}
        found = recordings_bucket(tenant, settings.destinations, own)
        if found is None:
            return None
        # A gateway without a bucket does without 11 MB of memory and an eighth of a second at its start.
        from uploaders.s3.uploader import BucketRecordings  # noqa: PLC0415  # see above

        if found.name not in buckets:
            buckets[found.name] = BucketRecordings(options.s3_options(found), spool.uploader_state, metrics, owners)
        return buckets[found.name]

    directory = settings.webhooks.recordings
    shared = bucket_of(None) if directory is None else DirectoryRecordings(directory.absolute(), owners)
    by_source = {source: bucket_of(tenant) for source, tenant in owners.items()}
    own = {source: store for source, store in by_source.items() if store is not None}
    return RecordingsBySource(shared, own) if own else shared


_NEEDED = {ProviderName.LIVEKIT: "jwt", ProviderName.TELNYX: "cryptography"}
"""Modules of the extra, by the provider that needs them."""


def webhook_server(
    settings: Settings, parts: IntakeParts, forwarder: Forwarder, recordings: RecordingParts
) -> IntakeServer | None:
    """The listener of providers, where one is configured: the intake shows calls, and must not be open to the outside.

    Raises `DriverMissing` and `CannotListen`.
    """
    store, workers = recordings.store, parts.staging.workers
    if settings.webhooks.listen is None:
        return None
    source = WebhookSource(
        sources_of(settings),
        parts.reader,
        parts.acceptor,
        parts.staging,
        workers,
        forwarder,
        None if store is None else InlineAudio(store, workers, system_clock),
        recordings.copying,
        parts.metrics,
        system_clock,
    )
    posted_to = ", ".join(route.path for route in source.routes()) or "a source: none is configured"
    return parts.server(settings, settings.webhooks, Router(source.routes(), hint=f"POST to {posted_to}."))


def sources_of(settings: Settings) -> tuple[Source, ...]:
    """The configured sources. Raises `DriverMissing`."""
    return tuple(_source(each, settings.webhooks.public_url or "") for each in settings.sources)


def _source(settings: SourceSettings, public_url: str) -> Source:
    needed = _NEEDED.get(settings.provider)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise DriverMissing(f"the source {settings.name} needs the module {needed}: pip install 'callspool[webhooks]'")
    provider = provider_of(settings)
    return Source(
        name=settings.name,
        provider=provider,
        secrets=tuple(secret.get_secret_value() for secret in settings.secrets),
        paths=settings.paths,
        events=frozenset(settings.events),
        tolerance=provider.tolerance if settings.tolerance is None else settings.tolerance,
        forward_url=settings.forward_url,
        public_url=public_url.rstrip("/"),
        agents_key=settings.token.get_secret_value() if settings.token else None,
        tenant=settings.tenant,
        copies_recordings=settings.copies,
    )


def provider_of(settings: SourceSettings) -> Provider:
    """How the source signs, and what it sends."""
    match settings.provider:
        case ProviderName.HMAC | ProviderName.HEADER:
            name = settings.provider.value
            adapt = pointed(settings.fields, settings.event_names)
            return Provider(name, _own_scheme(settings), adapt, "the sender's secret", "sample", {"sample": {}})
        case ProviderName.VAPI if settings.header is not None:
            return replace(PROVIDERS["vapi"], scheme=_hmac(settings, settings.header))
        case ProviderName.LIVEKIT:
            return replace(PROVIDERS["livekit"], scheme=LivekitScheme(settings.api_key))
        case _:
            return PROVIDERS[settings.provider.value]


def _own_scheme(settings: SourceSettings) -> Scheme:
    header = settings.header or ""
    return SecretHeaderScheme(header) if settings.provider is ProviderName.HEADER else _hmac(settings, header)


def _hmac(settings: SourceSettings, header: str) -> HmacScheme:
    return HmacScheme(
        header=header,
        message=settings.message,
        fields=(settings.pairs[0], settings.pairs[1]) if settings.pairs else None,
        timestamp_header=settings.timestamp_header,
        timestamp_unit=1000.0 if settings.timestamp_unit == "ms" else 1.0,
        algorithm=Algorithm(settings.algorithm),
        encoding=Encoding(settings.encoding),
        prefix=settings.prefix,
        secret_is_base64=settings.secret_is_base64,
    )


# Calls that go on: their spans, heartbeats and turns.

PII_ATTRIBUTES = (
    "lk.pii.*",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.call.*",
    "input",
    "output",
    "transcript",
    "text",
    "tools",
)
"""What was said, by the names of LiveKit Agents 1.8 and Pipecat 1.14."""


def trace_source(settings: OtlpSettings, parts: IntakeParts) -> TraceSource:
    """What answers `/v1/traces`, and puts calls together that are open from before."""
    rule = ClosingRule(round(settings.close_after * 1000), round(settings.idle_after * 1000))
    dropped = (*settings.drop_attributes, *(PII_ATTRIBUTES if settings.drop_pii else ()))
    spans = SpanRule.of(settings.call_id_attributes, dropped)
    spool, staging = parts.spool, parts.staging
    assembler = TraceAssembler(
        spool.traces, parts.acceptor, staging, rule, spans, spool.token, parts.metrics, system_clock
    )
    return TraceSource(parts.reader, staging.workers, assembler, spans, parts.token, serves=settings.enabled)


def heartbeat_source(settings: LiveSettings, parts: IntakeParts) -> HeartbeatSource:
    """What answers heartbeats and turns, and watches the calls that are live from before."""
    spool, reader, acceptor = parts.spool, parts.reader, parts.acceptor
    watch = HeartbeatWatch(spool.live, acceptor, reader, settings.lost_after, spool.token, parts.metrics, system_clock)
    return HeartbeatSource(reader, parts.staging.workers, watch, acceptor, parts.token, serves=settings.enabled)
