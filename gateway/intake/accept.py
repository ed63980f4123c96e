"""The one path from a decoded body to a durable record."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import structlog
from aiohttp import web

from gateway.calllog.errors import CallLogError, Fault
from gateway.fanout import DestinationRoute, StoredAs, plan
from gateway.intake import responses
from gateway.intake.decoding import ENVELOPE, BodyDecoder
from gateway.intake.parse import (
    About,
    AddressRequest,
    EnvelopeFound,
    Examined,
    Opened,
    Prepared,
    Reference,
    SizeRule,
    UploadUrlRequestFound,
    examine,
    prepared,
)
from gateway.intake.parse_worker import ParseWorker
from gateway.intake.ports import IntakeObserver, RecordStore
from gateway.intake.responses import Rejection
from gateway.intake.routes import usable
from gateway.intake.staging import Body, Workers
from gateway.intake.upload_urls import UploadUrlService
from gateway.live_calls import ENDED, STARTED, OpenCalls
from spool.records import Accepted, Clock, NewRecord

_log = structlog.get_logger(__name__)

_IN_PROCESS_BYTES = 4 << 20
"""A staged body above this is examined in another process: below it, the interpreter is held for 2.5 ms at most."""


class Acceptor:
    """Examines bodies and accepts call logs. For the event loop."""

    def __init__(
        self,
        store: RecordStore,
        destinations: Sequence[DestinationRoute],
        rule: SizeRule,
        workers: Workers,
        parse_worker: ParseWorker,
        decoder: BodyDecoder,
        observer: IntakeObserver,
        clock: Clock,
        open_calls: OpenCalls,
    ) -> None:
        self.open_calls = open_calls
        self._store = store
        self._plans = {kind: plan(destinations, kind) for kind in StoredAs}
        self._keeps_tokens = any(destination.forwards_token for destination in destinations)
        self._rule = rule
        self._workers = workers
        self._parse_worker = parse_worker
        self._decoder = decoder
        self._observer = observer
        self._clock = clock
        # Asked once: at 2 KB a post, asking each time costs as much as checking the body.
        self._log_each = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)

    async def examine(self, body: Body) -> Opened:
        """What the body is; one that is an envelope becomes what it carries.

        Raises `CallLogError`, and what decoding raises.
        """
        examined = await self._look_at(body)
        if isinstance(examined.finding, EnvelopeFound):
            quoted = memoryview(examined.text)[examined.finding.data.start : examined.finding.data.end]
            if bytes(quoted[:1]) != b'"':
                raise _bad_envelope("`data` is not a text")
            body.become(await self._decoder.decode(quoted[1:-1], ENVELOPE))
            examined = await self._look_at(body)
            if isinstance(examined.finding, EnvelopeFound):
                raise _bad_envelope("what it carries is an envelope again")
        if isinstance(examined.finding, UploadUrlRequestFound):
            return AddressRequest(examined.finding.call_id)
        return prepared(examined.finding, examined.text)

    async def accept(
        self,
        call_log: Prepared,
        agents_key: str | None,
        *,
        upload_key_hash: bytes | None = None,
        superseded_by: str | None = None,
    ) -> Accepted:
        """Make a call log durable. `agents_key` wins over the token in the body. Raises `SpoolError`.

        With `superseded_by` it is recorded, but sent to nobody, where the call has a record of that event already, as a
        start has it that comes after its end.

        Cancelling this leaves open whether it was accepted, and harms nothing: what the spool still reads stays
        in memory for as long as it holds it.
        """
        about = call_log.about
        token = (agents_key or usable(about.token)) if self._keeps_tokens else None
        accepted = await self._store.accept(
            NewRecord(
                call_id=about.call_id,
                agent_id=about.agent_id,
                event=about.event,
                environment=about.environment,
                digest=call_log.digest,
                raw_bytes=about.raw_bytes,
                token=token,
                fragments=call_log.fragments,
                deliveries=self._plans[call_log.stored_as],
                superseded_by=ENDED if about.event == STARTED else superseded_by,
                upload_key_hash=upload_key_hash,
            )
        )
        self._note(about, accepted)
        return accepted

    async def _look_at(self, body: Body) -> Examined:
        """Examine it where that holds up nobody: here, in a thread, or in the other process."""
        if body.small:
            return examine(body.data, body.scratch, self._rule)
        if body.file is not None and len(body.data) > _IN_PROCESS_BYTES:
            return await self._parse_worker.examine(body.file, body.new_file, self._rule)
        return await self._workers.run(examine, body.data, body.scratch, self._rule)

    def _note(self, about: About, accepted: Accepted) -> None:
        """Tell what was accepted to whoever counts."""
        if not accepted.superseded:
            self.open_calls.accepted(about.call_id, about.event, self._clock())
        if not accepted.duplicate:
            self._observer.payload(accepted.raw_bytes, accepted.stored_bytes)
            if accepted.two_phase:
                self._observer.two_phase()
            if about.nonfinite_numbers:
                self._observer.nonfinite_numbers(about.nonfinite_numbers)
        if self._log_each:
            _log.debug(
                "accepted",
                call_id=about.call_id,
                call_event=about.event,
                record_id=accepted.uid,
                raw_bytes=accepted.raw_bytes,
                duplicate=accepted.duplicate,
                superseded=accepted.superseded,
            )


def _bad_envelope(what: str) -> CallLogError:
    """The sender's fault: an envelope with nothing of use in it."""
    return CallLogError(
        Fault.BAD_ENVELOPE,
        f"The body says that it is compressed, but {what}.",
        "Put the base64 of the gzipped call log into `data`, or post the call log itself.",
    )


# What an examined document is answered with: the same for a post, for an upload, and for a line of a batch.

_ANSWERED = "answered"
SUPERSEDED_BY = "x-callspool-superseded-by"
"""The header by which a sender says which event of the call its call log must not replace."""


class Sender(msgspec.Struct, frozen=True):
    """What is known of a sender besides the document."""

    agents_key: str | None
    """The agent's own key, from the header."""
    request: web.BaseRequest
    prefix: str
    """What the sender wrote before the path of the route."""
    superseded_by: str | None = None
    """The event of the call that its call log must not replace, as the sender says."""

    @property
    def base_url(self) -> str:
        """What stands before the path of a route, as the sender wrote it, or as the proxy between says it did."""
        headers = self.request.headers
        scheme = _first(headers.get("X-Forwarded-Proto")) or self.request.scheme
        host = _first(headers.get("X-Forwarded-Host")) or self.request.host
        return f"{scheme}://{host}{self.prefix}"


class Result(NamedTuple):
    """An answer before it goes over the wire."""

    status: int
    body: bytes
    result: str
    """What the observer is told."""

    @property
    def acknowledges(self) -> bool:
        """Whether it says that a call log is durable."""
        return self.result != _ANSWERED


def answered(body: bytes) -> Result:
    """The reply to a question."""
    return Result(200, body, _ANSWERED)


class PostService:
    """Decides and does what an examined document asks for. For the event loop."""

    def __init__(self, acceptor: Acceptor, uploads: UploadUrlService) -> None:
        self._acceptor = acceptor
        self._uploads = uploads

    async def reply(self, opened: Opened, sender: Sender) -> Result:
        """Accept a call log, or give an upload address. Raises `Rejection` and `SpoolError`."""
        if isinstance(opened, Prepared):
            accepted = await self._acceptor.accept(opened, sender.agents_key, superseded_by=sender.superseded_by)
            return accepted_result(opened, accepted, 202)
        if isinstance(opened, AddressRequest):
            return await self.give_address(opened.call_id, sender)
        return await self._reply_to_reference(opened, sender)

    async def give_address(self, call_id: str, sender: Sender) -> Result:
        """An address that one call log can be PUT to."""
        given = await self._uploads.give(call_id, sender.agents_key)
        url = f"{sender.base_url}/uploads/{given.secret}"
        return answered(responses.upload_address(url, given.s3_key, given.s3_bucket))

    async def _reply_to_reference(self, reference: Reference, sender: Sender) -> Result:
        """A reference to what was uploaded here tells nothing new; any other is for the endpoint to read."""
        upload = await self._uploads.find_by_s3_key(reference.s3_key)
        if upload is None:
            accepted = await self._acceptor.accept(reference.prepared, sender.agents_key)
            return accepted_result(reference.prepared, accepted, 202)
        if upload.record_uid is None:
            raise Rejection(
                409,
                "not_uploaded",
                "The address that this s3_key belongs to was never used.",
                "PUT the call log to its upload_url first, or post the call log itself.",
            )
        return Result(202, responses.referenced(reference.prepared.about.call_id, upload.record_uid), "duplicate")


def accepted_result(prepared: Prepared, accepted: Accepted, status: int) -> Result:
    """The answer to a call log that is durable."""
    result = "duplicate" if accepted.duplicate else "superseded" if accepted.superseded else "accepted"
    return Result(status, responses.accepted(prepared.about.call_id, accepted), result)


def _first(header: str | None) -> str:
    """What the outermost of several proxies wrote."""
    return header.split(",")[0].strip() if header else ""
