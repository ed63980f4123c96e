"""From the settings of sources to what answers webhooks."""

import importlib.util
from dataclasses import dataclass, replace

from config.settings import Settings
from config.sources import ProviderName, SourceSettings
from gateway.admin.metrics import Metrics
from gateway.intake.accept import Acceptor
from gateway.intake.admission import AdmissionGate
from gateway.intake.body_reader import BodyReader
from gateway.intake.routes import IntakeHandler, IntakeToken, LoopGuard, Router
from gateway.intake.server import IntakeServer
from gateway.intake.staging import StagingArea, Workers
from gateway.runtime import options
from gateway.runtime.destinations import DriverMissing
from gateway.runtime.recordings import RecordingParts
from gateway.webhooks.adapters import pointed
from gateway.webhooks.forward import Forwarder
from gateway.webhooks.providers import PROVIDERS, Provider
from gateway.webhooks.recordings import InlineAudio
from gateway.webhooks.signatures import Algorithm, Encoding, HmacScheme, LivekitScheme, Scheme, SecretHeaderScheme
from gateway.webhooks.source import Source, WebhookSource
from spool.records import system_clock

_NEEDED = {ProviderName.LIVEKIT: "jwt", ProviderName.TELNYX: "cryptography"}
"""Modules of the extra, by the provider that needs them."""


@dataclass(frozen=True, slots=True)
class WebhookParts:
    """What the listener shares with the intake."""

    reader: BodyReader
    acceptor: Acceptor
    staging: StagingArea
    workers: Workers
    gate: AdmissionGate
    loop_guard: LoopGuard
    token: IntakeToken
    metrics: Metrics
    forwarder: Forwarder
    recordings: RecordingParts


def webhook_server(settings: Settings, parts: WebhookParts) -> IntakeServer | None:
    """The listener of providers, where one is configured: the intake shows calls, and must not be open to the outside.

    Raises `DriverMissing` and `CannotListen`.
    """
    store = parts.recordings.store
    if settings.webhooks.listen is None:
        return None
    source = WebhookSource(
        sources_of(settings),
        parts.reader,
        parts.acceptor,
        parts.staging,
        parts.workers,
        parts.forwarder,
        None if store is None else InlineAudio(store, parts.workers, system_clock),
        parts.recordings.copying,
        parts.metrics,
        system_clock,
    )
    posted_to = ", ".join(route.path for route in source.routes()) or "a source: none is configured"
    router = Router(source.routes(), hint=f"POST to {posted_to}.")
    handler = IntakeHandler(router, parts.gate, parts.loop_guard, parts.token, parts.metrics)
    limits = options.connection_limits(settings.intake)
    return IntakeServer(options.listen_options(settings.webhooks), handler.handle, parts.gate, parts.metrics, limits)


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
