"""The one path from a decoded body to a durable record, and to the answer for its sender.

Idempotency: the spool recognises a call log that it has accepted before (promise 3), and its sender is answered
`duplicate`.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil
from typing import NamedTuple

import msgspec
import structlog
from aiohttp import web

from gateway.calllog.document import Envelope, UploadRequest
from gateway.calllog.errors import CallLogError, Fault
from gateway.calllog.shape import IN_A_THREAD, ON_THE_LOOP, Bounds, Costly
from gateway.fanout import ANY_OTHER, DestinationRoute, TenantPlans, delivery_plans
from gateway.intake import responses
from gateway.intake.body_reader import BodyReader
from gateway.intake.decoding import ENVELOPE, BodyDecoder
from gateway.intake.memory import Body
from gateway.intake.parse import CallLog, Parsed, Reference, SizeRule, parse, text_of
from gateway.intake.parse_worker import ParseWorker
from gateway.intake.ports import IntakeObserver, RecordStore
from gateway.intake.responses import Rejection
from gateway.intake.routes import ANSWERED, IntakeToken, Match, Result
from gateway.intake.turns import Threads, sender_of
from gateway.intake.upload_urls import DIRECT, PublicAddress, UploadUrlService
from gateway.live_calls import ENDED, ENDS, STARTED, OpenCalls
from gateway.telemetry import current_post
from gateway.tenants import UNASSIGNED, TenantTable
from spool.live_calls import LostCall
from spool.records import Accepted, Clock, ClosedTrace, NewRecord, principal_of, tenant_of
from uploaders.redaction.options import Redaction

_log = structlog.get_logger(__name__)

_IN_PROCESS_BYTES = 8 << 20
"""A staged body above this is parsed in another process: below it, the interpreter is held for 5 ms at most."""
_REDACTED_HERE_BYTES = 4 << 10
"""A body above this is redacted in a thread: below it, the event loop is held for 0.3 ms at most."""
_REDACTED_IN_PROCESS_BYTES = 256 << 10
"""And above this in another process, which can be killed."""


class Owner(NamedTuple):
    """Whose a call log is."""

    tenant: str | None
    principal: str
    """See `spool.records.principal_of`."""


def owner_of(principal: str) -> Owner:
    """Whose it is that this principal posted; where there are tenants, what none posted is named by its agent."""
    return Owner(tenant_of(principal), principal)


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """How a call log came: all that is known of it besides the document."""

    agents_key: str | None = None
    """The agent's own key. It wins over the token in the document."""
    tenant: str | None = None
    """Whose the source or the token is through which it came."""
    owner: Owner | None = None
    """Whose it is, whatever keys and tokens say. Whose it is decides of which earlier call logs it can be a duplicate,
    or superseded by."""
    origin: str | None = None
    """The name of its record; it is a duplicate of what has that name already. None: the spool names it."""
    superseded_by: str | None = None
    """It is recorded, but sent to nobody, where the call has a record of this event already."""
    idempotency_key: str | None = None
    """By what the sender says which posts are one: only an earlier one with the same key can be its original."""
    key_decides: bool = False
    """Whether one with the same key is the original whatever is in it."""
    via: str | None = None
    """The gateways that passed it on (`LoopGuard.check`)."""
    trace_context: str | None = None
    """The sender's span (`trace_context_of`)."""
    upload_key_hash: bytes | None = None
    """The upload address that it was PUT to."""
    closes: ClosedTrace | None = None
    """The spans that it was made of."""
    loses: LostCall | None = None
    """The live call that it was made of."""


UNKNOWN = Arrival()
"""Nothing is known but the document."""


class Redactions(NamedTuple):
    """Which rules there are, and for whom."""

    of_all: Redaction | None = None
    """For every call log, where no tenant has rules of its own."""
    by_tenant: Mapping[str | None, Redaction | None] = {}
    """For the call logs of each tenant that has; None: those of the others."""

    def of(self, tenant: str | None) -> Redaction | None:
        """The rules for call logs of this tenant."""
        return self.by_tenant.get(tenant, self.by_tenant.get(None)) if self.by_tenant else self.of_all

    @property
    def has_patterns(self) -> bool:
        """Whether any of them needs RE2."""
        return any(each is not None and each.patterns for each in (self.of_all, *self.by_tenant.values()))


class Acceptor:
    """Parses bodies and accepts call logs. For the event loop."""

    def __init__(
        self,
        store: RecordStore,
        destinations: Sequence[DestinationRoute],
        rule: SizeRule,
        threads: Threads,
        parse_worker: ParseWorker,
        decoder: BodyDecoder,
        observer: IntakeObserver,
        clock: Clock,
        open_calls: OpenCalls,
        token: IntakeToken,
        tenants: TenantTable | None = None,
        redactions: Redactions | None = None,
    ) -> None:
        self._tenants = tenants
        self._redactions = redactions or Redactions()
        self.open_calls = open_calls
        self._token = token
        self._store = store
        self._plans = delivery_plans(destinations)
        self._tenant_plans = TenantPlans(destinations, tenants) if tenants is not None else None
        self._keeps_tokens = any(destination.forwards_token for destination in destinations)
        self._rule = rule
        self._threads = threads
        self._parse_worker = parse_worker
        self._decoder = decoder
        self._observer = observer
        self._clock = clock
        # Asked once: at 2 KB a post, asking each time costs as much as checking the body.
        self._log_each = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)

    async def parse(self, body: Body, arrival: Arrival = UNKNOWN) -> Parsed:
        """What the body is, redacted as its tenant has it; one that is an envelope becomes what it carries.

        Raises `CallLogError`, and what decoding raises.
        """
        started = time.time_ns()
        posted = await self._unless_envelope(body)
        carried = posted or await self._unless_envelope(body)
        if carried is None:
            raise _bad_envelope("what it carries is an envelope again")
        if self._redactions.by_tenant and not isinstance(carried, UploadRequest):
            carried = await self._as_its_tenant_has_it(carried, body, arrival)
        post = current_post.get()
        if post is not None:
            post.stage("parse", started)
        return carried

    async def _as_its_tenant_has_it(self, carried: CallLog | Reference, body: Body, arrival: Arrival) -> Parsed:
        call_log = carried.note if isinstance(carried, Reference) else carried
        redaction = self._redactions.of(self._owner(call_log, arrival).tenant)
        if redaction is None:
            return carried
        redacted = await self._parse(body, redaction)
        assert not isinstance(redacted, Envelope), "it is what that carried"
        return redacted

    async def _unless_envelope(self, body: Body) -> Parsed | None:
        """What the body is; None where it was an envelope, which is held no longer: it is what that carried."""
        parsed = await self._parse(body, self._redactions.of_all)
        if not isinstance(parsed, Envelope):
            return parsed
        quoted = parsed.text[parsed.data.start : parsed.data.end]
        if bytes(quoted[:1]) != b'"':
            raise _bad_envelope("`data` is not a text")
        body.become(await self._decoder.decode(quoted[1:-1], ENVELOPE, body.request))
        return None

    async def accept(self, call_log: CallLog, arrival: Arrival = UNKNOWN) -> Accepted:
        """Make a call log durable that `parse` made of what came so.

        Raises `SpoolError`, and `Rejection`: 410 for a call that was erased, 429 above the rate of its tenant.

        A start that comes after its end is sent only to destinations that keep every event of a call, and so is an end
        that says that the agent is lost after a real one.

        Cancelling this leaves open whether it was accepted, and harms nothing: what the spool still reads stays
        in memory for as long as it holds it.
        """
        tenant, principal = self._owner(call_log, arrival)
        if self._store.is_erased(call_log.call_id, principal, call_log.agent_id):
            raise erased()
        if call_log.redaction != self._redactions.of(tenant):
            raise RuntimeError("a call log was to be stored that was not redacted as its tenant has it")
        named = arrival.owner is not None and arrival.owner.tenant is not None
        if self._tenants is not None and tenant is not None and not named:
            _admit(self._tenants, tenant)
        key = self.key_for(tenant, arrival.agents_key, call_log.token)
        plans = self._plans if self._tenant_plans is None or tenant is None else self._tenant_plans.of(tenant)
        deliveries = plans.get((call_log.stored_as, call_log.event))
        if deliveries is None:
            deliveries = plans[call_log.stored_as, ANY_OTHER]
        # What a post began on the way here may still run when it was answered: that belongs to another context.
        post = current_post.get()
        commit, started = None, 0
        if post is not None and post.trace_context == arrival.trace_context:
            commit, started = post.context.child(), time.time_ns()
        accepted = await self._store.accept(
            NewRecord(
                call_id=call_log.call_id,
                agent_id=call_log.agent_id,
                event=call_log.event,
                environment=call_log.environment,
                digest=call_log.digest,
                raw_bytes=call_log.raw_bytes,
                token=key if self._keeps_tokens else None,
                fragments=call_log.fragments,
                deliveries=deliveries,
                superseded_by=arrival.superseded_by
                or (ENDED if call_log.event == STARTED or call_log.agent_lost else None),
                superseded_everywhere=arrival.superseded_by is not None,
                upload_key_hash=arrival.upload_key_hash,
                origin=arrival.origin,
                tenant=tenant,
                principal=principal,
                happened_at=call_log.happened_at,
                idempotency_key=arrival.idempotency_key,
                key_decides=arrival.key_decides,
                via=arrival.via,
                trace_context=arrival.trace_context if commit is None else commit.text,
                closes=arrival.closes,
                outline=call_log.outline,
                ends_call=call_log.event in ENDS and not call_log.agent_lost,
                loses=arrival.loses,
            )
        )
        if post is not None and commit is not None:
            post.stage("commit", started, commit, record_id=accepted.uid, duplicate=accepted.duplicate)
        self._note(call_log, accepted, principal)
        return accepted

    def is_erased(self, call_id: str, principal: str, agent_id: str | None, key: str | None) -> bool:
        """Whether what this principal posts of this call, and agent, is refused, because it was erased."""
        return self._store.is_erased(call_id, self.principal_of_agent(principal, agent_id, key), agent_id)

    @property
    def redacts(self) -> bool:
        """Whether there are any rules."""
        return self._redactions != Redactions()

    def redaction_of(self, agent_id: str | None, key: str | None, tenant: str | None) -> Redaction | None:
        """The rules for what this agent posts, with this key or the token of this tenant."""
        if self._tenants is not None:
            tenant = tenant or self._tenants.of_token(key) or self._tenants.of_agent(agent_id) or UNASSIGNED
        return self._redactions.of(tenant)

    async def redacted(self, body: Body, tenant: str | None) -> memoryview | None:
        """What the rules of this tenant leave of a document that is no post, as long as `body` lives; None: all of it.

        Raises as `parse` does.
        """
        redaction = self._redactions.of(tenant)
        if redaction is None:
            return None
        parsed = await self._parse(body, redaction)
        if isinstance(parsed, Envelope | UploadRequest):
            raise CallLogError(Fault.NOT_AN_OBJECT, "It is no call log.", "Import what `callspool dead export` wrote.")
        return text_of(parsed)

    def principal_of_agent(self, principal: str, agent_id: str | None, key: str | None) -> str:
        """Whose a call log of this agent is that this principal posts, as `accept` says with it as the owner."""
        if self._tenants is None or owner_of(principal).tenant is not None:
            return principal
        return principal_of(self._tenants.of_token(key) or self._tenants.of_agent(agent_id) or UNASSIGNED, None)

    def owner_of_imported(self, tenant: str | None, agent_id: str | None, key: str | None) -> Owner:
        """Whose a call log of this tenant is that is imported: where that is not known here, its agent decides."""
        tenants = self._tenants
        if tenants is None:
            return Owner(None, principal_of(None, key))
        if tenant not in tenants.tenants:
            tenant = tenants.of_token(key) or tenants.of_agent(agent_id) or UNASSIGNED
        return Owner(tenant, principal_of(tenant, None))

    def key_for(self, tenant: str | None, agents_key: str | None, posted: str | None = None) -> str | None:
        """What destinations that forward the agents' tokens are sent with a call log of this tenant."""
        if self._tenants is None or tenant is None:
            return agents_key or self._token.foreign(posted)
        known = self._tenants.tenants.get(tenant)
        own = known.endpoint_token if known else None
        return own or self._token.foreign(agents_key) or self._token.foreign(posted)

    def _owner(self, call_log: CallLog, arrival: Arrival) -> Owner:
        """Whose call log it is that came so."""
        tenants, owner, tenant = self._tenants, arrival.owner, arrival.tenant
        if owner is not None and (owner.tenant is not None or tenants is None):
            return owner
        if tenants is None:
            return Owner(tenant, principal_of(None, arrival.agents_key or self._token.foreign(call_log.token)))
        tenant = tenant or tenants.of_token(arrival.agents_key) or tenants.of_token(call_log.token)
        tenant = tenant or tenants.of_agent(call_log.agent_id) or UNASSIGNED
        return Owner(tenant, principal_of(tenant, None))

    async def _parse(self, body: Body, redaction: Redaction | None) -> Parsed | Envelope:
        """Parse it where that holds up nobody: here, in a thread, or in the parse worker.

        A `Costly` is dropped before the next place is tried, because what was built by then hangs on it.
        """
        size = len(body.data)

        async def in_a_thread(bounds: Bounds | None) -> Parsed | Envelope:
            sender = sender_of(body.request)
            return await self._threads.run(sender, parse, body.data, body.scratch, self._rule, bounds, redaction)

        if body.small:
            if redaction is None or size <= _REDACTED_HERE_BYTES:
                with suppress(Costly):
                    return parse(body.data, body.scratch, self._rule, ON_THE_LOOP, redaction)
            return await in_a_thread(None)
        redacted_there = redaction is not None and body.staged is not None and size > _REDACTED_IN_PROCESS_BYTES
        if not redacted_there and (body.file is None or size <= _IN_PROCESS_BYTES):
            with suppress(Costly):
                return await in_a_thread(IN_A_THREAD if body.staged is not None else None)
        return await self._parse_worker.parse(body, self._rule, redaction)

    def _note(self, call_log: CallLog, accepted: Accepted, principal: str) -> None:
        """Count and log what was accepted."""
        # A repeated start says nothing new: its call may have ended since.
        if not accepted.superseded and not (accepted.duplicate and call_log.event == STARTED):
            self.open_calls.accepted(call_log.call_id, call_log.event, self._clock(), principal, call_log.happened_at)
        if self.open_calls.call_ended is not None and call_log.event in ENDS:
            self.open_calls.call_ended(call_log.call_id, principal)
        if not accepted.duplicate:
            self._observer.payload(accepted.raw_bytes, accepted.stored_bytes)
            if accepted.two_phase:
                self._observer.two_phase()
            if call_log.nonfinite_numbers:
                self._observer.nonfinite_numbers(call_log.nonfinite_numbers)
            if call_log.stray_token:
                self._observer.stray_token()
            if call_log.redacted:
                self._observer.redacted(call_log.redacted)
        if self._log_each:
            _log.debug(
                "accepted",
                call_id=call_log.call_id,
                call_event=call_log.event,
                record_id=accepted.uid,
                raw_bytes=accepted.raw_bytes,
                duplicate=accepted.duplicate,
                superseded=accepted.superseded,
            )


def erased() -> Rejection:
    """The answer to what comes of a call that was erased."""
    return Rejection(
        410,
        "erased",
        "The call was erased by order; nothing more of it is taken.",
        "Delete the call log on your side, too. `erasure.later_posts` says for how long posts are refused.",
    )


def _admit(tenants: TenantTable, tenant: str) -> None:
    """Raises `Rejection` (429) for a post above its tenant's rate."""
    wait = tenants.seconds_until_admitted(tenant, time.monotonic())
    if wait:
        raise Rejection(
            429,
            "too_many_posts",
            f"The tenant {tenant} posts more than it may.",
            "Send the call log again later.",
            retry_after=ceil(wait),
        )


def _bad_envelope(what: str) -> CallLogError:
    """The sender's fault: an envelope with nothing of use in it."""
    return CallLogError(
        Fault.BAD_ENVELOPE,
        f"The body says that it is compressed, but {what}.",
        "Put the base64 of the gzipped call log into `data`, or post the call log itself.",
    )


# What a parsed body is answered with: the same for a post, for an upload, and for a line of a batch.

SUPERSEDED_BY = "x-callspool-superseded-by"
"""The header by which a sender names the event of the call that its call log must not replace."""


IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header by which a sender says which posts are one (draft-ietf-httpapi-idempotency-key-header). Of a batch each
line has its own: the header and the line's number."""


class Sender(msgspec.Struct, frozen=True):
    """Who posts, and how the call logs of the post came."""

    request: web.BaseRequest
    prefix: str
    """What the sender wrote before the path of the route."""
    arrival: Arrival


class PostService:
    """Does what a parsed body asks for, and answers its sender. For the event loop."""

    def __init__(
        self,
        reader: BodyReader,
        acceptor: Acceptor,
        uploads: UploadUrlService,
        token: IntakeToken,
        address: PublicAddress = DIRECT,
    ) -> None:
        self._reader = reader
        self._acceptor = acceptor
        self._uploads = uploads
        self._token = token
        self._address = address

    async def respond(self, request: web.BaseRequest, match: Match) -> Result:
        """Answer a post: read the body, parse it, and do what it asks for."""
        with await self._reader.read(request) as body:
            sender = self.sender(request, match)
            return await self.reply(await self.parse(body, sender), sender)

    async def parse(self, body: Body, sender: Sender) -> Parsed:
        """What this sender's body is."""
        return await self._acceptor.parse(body, sender.arrival)

    def sender(self, request: web.BaseRequest, match: Match) -> Sender:
        """What the request says of its sender."""
        arrival = Arrival(
            agents_key=self._token.agents_key(request),
            tenant=self._token.tenant_of(request),
            superseded_by=request.headers.get(SUPERSEDED_BY),
            idempotency_key=request.headers.get(IDEMPOTENCY_KEY),
            via=match.via,
            trace_context=match.trace_context,
        )
        return Sender(request, match.prefix, arrival)

    async def reply(self, parsed: Parsed, sender: Sender) -> Result:
        """Accept a call log, or give an upload address. Raises `Rejection` and `SpoolError`."""
        if isinstance(parsed, CallLog):
            accepted = await self._acceptor.accept(parsed, sender.arrival)
            return accepted_result(parsed, accepted, 202)
        if isinstance(parsed, UploadRequest):
            return await self.give_address(parsed.call_id, sender)
        return await self._reply_to_reference(parsed, sender)

    async def give_address(self, call_id: str, sender: Sender) -> Result:
        """An address that one call log can be PUT to."""
        # A tenant's token is kept with the address instead of the key: what comes through that is the tenant's.
        arrival = sender.arrival
        key = arrival.agents_key if arrival.tenant is None else self._token.presented_by(sender.request)
        given = await self._uploads.give(call_id, key)
        url = f"{self._address.base_url(sender.request)}{sender.prefix}/uploads/{given.secret}"
        return Result(200, responses.upload_address(url, given.s3_key, given.s3_bucket), ANSWERED)

    async def _reply_to_reference(self, reference: Reference, sender: Sender) -> Result:
        """A reference to what was uploaded here says nothing new; any other is for the endpoint to read."""
        upload = await self._uploads.find_by_s3_key(reference.s3_key)
        if upload is None:
            # These headers are about the call log, not about the note that says where it is.
            arrival = msgspec.structs.replace(sender.arrival, superseded_by=None, idempotency_key=None)
            accepted = await self._acceptor.accept(reference.note, arrival)
            return accepted_result(reference.note, accepted, 202)
        if upload.record_uid is None:
            raise Rejection(
                409,
                "not_uploaded",
                "The address that this s3_key belongs to was never used.",
                "PUT the call log to its upload_url first, or post the call log itself.",
            )
        return Result(202, responses.referenced(reference.call_id, upload.record_uid), "duplicate")


def accepted_result(call_log: CallLog, accepted: Accepted, status: int) -> Result:
    """The answer to a call log that is durable."""
    outcome = "duplicate" if accepted.duplicate else "superseded" if accepted.superseded else "accepted"
    return Result(status, responses.accepted(call_log.call_id, accepted), outcome)
