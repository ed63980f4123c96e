"""A listener for webhooks over a running intake, and senders that sign as their providers do."""

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.intake.protocol import ConnectionLimits
from gateway.intake.routes import IntakeHandler, IntakeToken, LoopGuard, Router, via_pseudonym
from gateway.intake.server import IntakeServer
from gateway.listeners import ListenOptions
from gateway.webhooks.providers import PROVIDERS, Provider
from gateway.webhooks.recordings import InlineAudio
from gateway.webhooks.source import Forwarder, Source, WebhookSource
from tests.intake.running_intake import DEADLINE, Reply, RunningIntake, running
from uploaders.recordings import RecordingStore

PUBLIC_URL = "https://hooks.example.com"
SECRET = "a-secret-of-more-than-thirty-two-characters"  # made up here
_PRIVATE_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_SIGNING = {"telnyx": base64.b64encode(bytes(range(32))).decode()}
_CHECKING = {
    "telnyx": base64.b64encode(_PRIVATE_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
}


def signing_secret(provider: str) -> str:
    """What the provider signs with."""
    return _SIGNING.get(provider, SECRET)


def configured_secret(provider: str) -> str:
    """What is configured to verify that; the same, where the scheme is symmetric."""
    return _CHECKING.get(provider, SECRET)


def body_of(provider: Provider, sample: object) -> bytes:
    """The sample as the provider would send it."""
    if provider.is_form:
        assert isinstance(sample, dict)
        return urlencode(sample).encode()
    return json.dumps(sample).encode()


class Listener:
    """A listener with one source for each provider, named like it."""

    def __init__(self, world: RunningIntake, server: IntakeServer) -> None:
        self.world = world
        self.server = server

    @property
    def now(self) -> float:
        return self.world.clock() / 1000

    async def send(self, path: str, body: bytes, headers: Mapping[str, str], **more: Any) -> Reply:
        """Post a body as it is."""
        return await self.world.post(body, f"http://127.0.0.1:{self.server.port}{path}", headers=headers, **more)

    async def push(self, name: str, body: bytes, *, at: float | None = None, secret: str | None = None) -> Reply:
        """Sign a body as the provider does, and send it."""
        scheme = PROVIDERS[name].scheme
        path = f"/webhooks/{name}"
        headers = scheme.sign(secret or signing_secret(name), body, at or self.now, PUBLIC_URL + path)
        return await self.send(path, body, headers)

    def counted(self, source: str, result: str) -> float:
        """How many webhooks of a source ended so, of all types."""
        family = next(f for f in self.world.metrics.registry.collect() if f.name == "callspool_webhooks")
        return sum(s.value for s in family.samples if s.labels["source"] == source and s.labels["result"] == result)


@asynccontextmanager
async def listening(
    directory: Path,
    *,
    secrets: Mapping[str, Sequence[str]] | None = None,
    forward_url: str | None = None,
    forward_timeout: float = 5.0,
    store: RecordingStore | None = None,
    **options: Any,
) -> AsyncIterator[Listener]:
    """A listener for every provider. `secrets` replaces those of some sources."""
    async with running(directory, **options) as world:
        given = {name: (configured_secret(name),) for name in PROVIDERS} | dict(secrets or {})
        sources = [
            Source(
                name=name,
                provider=provider,
                secrets=tuple(given[name]),
                paths=(f"/webhooks/{name}",),
                forward_url=forward_url,
                public_url=PUBLIC_URL,
            )
            for name, provider in PROVIDERS.items()
        ]
        intake, forwarder = world.intake, Forwarder(forward_timeout, via_pseudonym(world.spool.id))
        source = WebhookSource(
            sources,
            intake.reader,
            intake.acceptor,
            intake.staging,
            intake.workers,
            forwarder,
            None if store is None else InlineAudio(store, intake.workers, world.clock),
            None,
            world.metrics,
            world.clock,
        )
        handler = IntakeHandler(
            Router(source.routes()), intake.gate, LoopGuard(world.spool.id), IntakeToken(None), world.metrics
        )
        server = IntakeServer(ListenOptions(), handler.handle, intake.gate, world.metrics, ConnectionLimits())
        await server.start()
        try:
            yield Listener(world, server)
        finally:
            await server.stop(DEADLINE)
            await forwarder.close()
