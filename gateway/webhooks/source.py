"""The way in of webhooks: verify the bytes as they came, name the call, make it durable, then answer 200.

What a provider counts as success is 200 (ElevenLabs and Telnyx count nothing else), and what it repeats after is a 503:
so a secret that is missing here, and a spool that is full, are answered 503. A wrong signature is a 401 and leaves
nothing behind. A body that is genuine is never refused for its content.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import aiohttp
import msgspec
import structlog
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from gateway.calllog.errors import CallLogError
from gateway.intake.accept import Acceptor, Arrival
from gateway.intake.body_reader import BodyReader, body_of
from gateway.intake.memory import Body
from gateway.intake.parse import CallLog
from gateway.intake.responses import Rejection, in_place_of_507
from gateway.intake.routes import ANSWERED, Match, Result, Route
from gateway.intake.staging import StagingArea, Workers
from gateway.webhooks.adapters import Event, Treatment
from gateway.webhooks.document import call_log_of, decode, without_mark
from gateway.webhooks.providers import Provider
from gateway.webhooks.recordings import InlineAudio, can_be_copied
from gateway.webhooks.signatures import Verdict, Verification, Webhook, check_headers, verify
from spool.records import Accepted, Buffer, Clock, principal_of

# Forwarding: what a provider asks is passed on, and the answer back, byte for byte.

_ANSWER_MOST_BYTES = 4 << 20
"""An answer to a provider is a few KB."""
_NOT_PASSED_ON = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1), and those that are made anew."""


class Forwarder:
    """One client for all sources; opened with the first request. For the event loop."""

    def __init__(self, timeout: float, via: str) -> None:
        """`timeout` in seconds: within it the provider must have its answer. `via` is what the gateway is called.

        A server that leads back here would be asked, and ask, without end: it recognises that name (`LoopGuard`).
        """
        self._timeout = timeout
        self._via = via
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, url: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """The answer of the server there, whatever it says. Raises `Rejection` (502, 504) where there is none."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout)
            # A cookie that answers one call's question would go with those of all others.
            cookies = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False, cookie_jar=cookies)
        made_anew = _NOT_PASSED_ON | {"content-encoding"}  # the body was decoded
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in made_anew]
        headers.append(("Via", f"1.1 {self._via}"))
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                answer = await response.content.read(_ANSWER_MOST_BYTES + 1)
                while chunk := await response.content.read(_ANSWER_MOST_BYTES + 1 - len(answer)):
                    answer += chunk
                given = response.headers.items()  # some come in several lines
                kept = CIMultiDict((name, value) for name, value in given if name.lower() not in _NOT_PASSED_ON)
                status = response.status
        except TimeoutError:
            raise self._failed(504, url, f"gave no answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
            raise self._failed(502, url, f"could not be asked: {type(error).__name__}") from error
        if len(answer) > _ANSWER_MOST_BYTES:
            raise self._failed(502, url, f"answered more than {_ANSWER_MOST_BYTES} bytes")
        return web.Response(status=status, body=answer, headers=kept)

    async def close(self) -> None:
        """Close its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _failed(self, status: int, url: str, what: str) -> Rejection:
        # The provider's user hears silence now: an operator should see why.
        _log.error("webhook_not_answered", host=URL(url).host, reason=what)
        hint = "Check forward_url of the source, and that its server is up."
        return Rejection(status, "forward_failed", f"The server behind forward_url {what}.", hint)


_log = structlog.get_logger(__name__)

ROUTE = "webhook"
"""Labels metrics of the intake."""
_INLINE_BYTES = 1 << 20
"""An HMAC of this much takes 0.6 ms; what is larger is verified in a thread, as is a form that is not small."""
_TYPES_MOST = 64
"""Types of events of one source that metrics count apart; more could be made up."""


class WebhookObserver(Protocol):
    """Observes webhooks for metrics, on the event loop."""

    def webhook(self, source: str, type_: str, result: str) -> None:
        """One ended: accepted, duplicate, ignored, forwarded, needs_answer, unconfigured, or why it was refused."""

    def webhook_skew(self, source: str, seconds: float) -> None:
        """A signed time lies so far in the past; negative for the future."""

    def webhook_accepted_at(self, source: str, at: int) -> None:
        """The last genuine one was accepted then, in milliseconds since 1970."""

    def webhook_dropped(self, source: str, count: int) -> None:
        """The provider says that it gave up so many."""


@dataclass(frozen=True, slots=True)
class Source:
    """A configured sender of webhooks."""

    name: str
    provider: Provider
    secrets: tuple[str, ...]
    paths: tuple[str, ...]
    events: frozenset[str] = frozenset()
    """Types to keep besides those that the provider's adapter keeps."""
    tolerance: float = 300.0
    """Seconds by which a signature's time may be off."""
    forward_url: str | None = None
    """Who answers what the provider asks."""
    public_url: str = ""
    """What the provider calls this listener, up to the path."""
    agents_key: str | None = None
    """What destinations that forward keys are sent."""
    tenant: str | None = None
    """Whose calls it brings."""
    copies_recordings: bool = False
    """Whether the recordings that it refers to are fetched."""


class _Answer(msgspec.Struct):
    success: bool
    call_id: str
    record_id: str
    duplicate: bool


class WebhookSource:
    """Answers the webhooks of all sources. For the event loop."""

    def __init__(
        self,
        sources: Sequence[Source],
        reader: BodyReader,
        acceptor: Acceptor,
        staging: StagingArea,
        workers: Workers,
        forwarder: Forwarder,
        audio: InlineAudio | None,
        copying: Acceptor | None,
        observer: WebhookObserver,
        clock: Clock,
    ) -> None:
        """`copying` accepts what has a recording to be fetched; None where no source copies recordings."""
        self._sources = sources
        self._reader = reader
        self._acceptor = acceptor
        self._staging = staging
        self._workers = workers
        self._forwarder = forwarder
        self._audio = audio
        self._copying = copying
        self._observer = observer
        self._clock = clock
        self._types: dict[str, set[str]] = {source.name: set() for source in sources}

    def routes(self) -> Sequence[Route]:
        """One for each path of each source. Whoever has no secret is not let in, so the intake's token is not asked."""
        return tuple(
            Route(ROUTE, "POST", path, partial(self._respond, source), needs_token=False, posts=True)
            for source in self._sources
            for path in source.paths
        )

    async def _respond(self, source: Source, request: web.BaseRequest, match: Match) -> Result | web.StreamResponse:
        """Raises `Rejection`, and what reading and accepting raise, but nothing that a provider would not repeat."""
        secrets = source.secrets
        if not secrets:
            self._observer.webhook(source.name, "", "unconfigured")
            raise _unconfigured(source)
        now = self._clock() / 1000
        early = check_headers(source.provider.scheme, request.headers, now, source.tolerance)
        if early is not None:
            raise self._refused(source, early)
        try:
            with await self._reader.read(request) as body:
                await self._verify(source, secrets, request, body, now)
                return await self._keep(source, request, body, match.trace_context)
        except Exception as error:
            rejection = in_place_of_507(error)
            if rejection is None:
                raise
            raise rejection from error

    async def _verify(
        self, source: Source, secrets: Sequence[str], request: web.BaseRequest, body: Body, now: float
    ) -> None:
        """Return for a genuine one; raises `Rejection` (401) otherwise."""
        url = source.public_url + request.rel_url.raw_path_qs
        webhook = Webhook(request.headers, body.data, url)
        arguments = (source.provider.scheme, secrets, webhook, now, source.tolerance)
        inline = body.small if source.provider.is_form else len(body.data) <= _INLINE_BYTES
        verification = verify(*arguments) if inline else await self._workers.run(verify, *arguments)
        if verification.skew is not None:
            self._observer.webhook_skew(source.name, verification.skew)
        if verification.verdict is not Verdict.GENUINE:
            raise self._refused(source, verification)

    async def _keep(
        self, source: Source, request: web.BaseRequest, body: Body, trace_context: str | None
    ) -> Result | web.StreamResponse:
        read = partial(_read, source.provider, without_mark(body.data))
        event, is_json = read() if body.small else await self._workers.run(read)
        kind = self._label(source, event)
        if event.dropped:
            self._observer.webhook_dropped(source.name, event.dropped)
        if event.treatment is Treatment.QUESTION:
            return await self._ask(source, request, body, kind)
        if event.treatment is Treatment.IGNORED and event.type not in source.events:
            self._observer.webhook(source.name, kind, "ignored")
            return Result(200, b'{"success":true,"ignored":true}', ANSWERED)
        call_log, accepted = await self._accept(source, event, body, trace_context, is_json=is_json)
        self._observer.webhook(source.name, kind, "duplicate" if accepted.duplicate else "accepted")
        self._observer.webhook_accepted_at(source.name, self._clock())
        answer = _Answer(True, call_log.call_id, accepted.uid, accepted.duplicate)
        return Result(200, msgspec.json.encode(answer), "duplicate" if accepted.duplicate else "accepted")

    async def _ask(self, source: Source, request: web.BaseRequest, body: Body, kind: str) -> web.StreamResponse:
        """The answer of the user's own server, as it came. Ours would be taken for a tool's result."""
        if source.forward_url is None:
            self._observer.webhook(source.name, kind, "needs_answer")
            raise Rejection(
                501,
                "needs_answer",
                f"{source.provider.name} asks for an answer to {kind}, which this gateway cannot give.",
                f"Set forward_url of the source {source.name} to the server that answers, or send these events there.",
            )
        response = await self._forwarder.forward(source.forward_url, request, bytes(body.data))
        self._observer.webhook(source.name, kind, "forwarded")
        return response

    async def _accept(
        self, source: Source, event: Event, body: Body, trace_context: str | None, *, is_json: bool
    ) -> tuple[CallLog, Accepted]:
        data = without_mark(body.data)
        if event.audio_at and self._audio is not None and event.call_id is not None:
            agent_id = event.members.get("agent_id")
            is_erased = partial(
                self._acceptor.is_erased, event.call_id, principal_of(source.tenant, source.agents_key),
                agent_id if isinstance(agent_id, str) else None, source.agents_key,
            )  # fmt: skip
            kept = await self._audio.keep(source.name, event, data, is_erased)
            if kept is not None:
                event, data = kept
        copies = source.copies_recordings and can_be_copied(event.members.get("recording_url"))
        acceptor = self._copying if copies and self._copying is not None else self._acceptor
        provider = source.provider.name
        arrival = Arrival(
            agents_key=source.agents_key,
            tenant=source.tenant,
            idempotency_key=None if event.key is None else f"{source.name}:{event.key}",
            key_decides=True,
            trace_context=trace_context,
        )
        # A call log that cannot be read with the original in it, or under that id, is kept as text, under its digest.
        unnamed = replace(event, call_id=None, key=None)
        for attempt, readable in ((event, is_json), (unnamed, False)):
            pieces = call_log_of(source.name, provider, attempt, data, is_json=readable)
            with await body_of(pieces, self._staging) as document:
                try:
                    parsed = await acceptor.parse(document, arrival)
                except CallLogError as error:
                    if attempt is unnamed:
                        raise
                    _log.warning("webhook_kept_as_text", source=source.name, type=event.type, reason=error.message)
                    continue
                assert isinstance(parsed, CallLog), "it has an id and is no reference"
                return parsed, await acceptor.accept(parsed, arrival)
        raise AssertionError("the second attempt returns or raises")

    def _refused(self, source: Source, verification: Verification) -> Rejection:
        self._observer.webhook(source.name, "", verification.verdict.value)
        return refusal(source.provider, verification, source.tolerance)

    def _label(self, source: Source, event: Event) -> str:
        """The event's type for metrics."""
        known = self._types[source.name]
        if event.type not in known and len(known) >= _TYPES_MOST:
            return "other"
        known.add(event.type[:_TYPES_MOST])
        return event.type[:_TYPES_MOST]


def _read(provider: Provider, data: Buffer) -> tuple[Event, bool]:
    """What the body says, and whether it can stand in a call log as it is."""
    value, is_json = decode(data, is_form=provider.is_form)
    return provider.adapt(value), is_json


def refusal(provider: Provider, verification: Verification, tolerance: float) -> Rejection:
    """The answer to a request that is not known to be genuine."""
    match verification.verdict:
        case Verdict.MISSING:
            message = f"The request has no signature of {provider.name} in {provider.scheme.header}."
            hint = f"Turn on signing at {provider.name} and check that no proxy removes the header."
        case Verdict.STALE:
            skew = verification.skew or 0.0
            direction = "ago" if skew > 0 else "ahead"
            message = f"The signature's time is {abs(skew):.0f} s {direction}; {tolerance:.0f} s are allowed."
            hint = "Check the clocks of both sides; a repeated request needs a new signature."
        case _:
            message = f"The signature in {provider.scheme.header} is not of this body and of any configured secret."
            hint = f"Configure {provider.secret}; check that no proxy changes the body (`callspool webhooks verify`)."
    return Rejection(401, verification.verdict.value, message, hint, closes=True)


def _unconfigured(source: Source) -> Rejection:
    return Rejection(
        503,
        "no_secret",
        f"The source {source.name} has no secret configured, so nothing can be verified.",
        f"Set {source.provider.secret} as the secret of the source; {source.provider.name} may send this again.",
        retry_after=60,
        closes=True,
    )
