"""The ways in that agents use: those of the Whispey SDK, and `/v1/calls` for one call log, and for the trace of a call.

A body is a call log, an envelope of one, a request for an upload address or a reference; what it is decides, not the
path, because an SDK whose URL does not contain `/send-call-log` posts all of them to the same address.
"""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from gateway.intake import openapi
from gateway.intake.accept import IDEMPOTENCY_KEY, Acceptor, Arrival, PostService, accepted_result
from gateway.intake.body_reader import BodyReader
from gateway.intake.parse import CallLog
from gateway.intake.ports import RecordStore
from gateway.intake.responses import Rejection
from gateway.intake.routes import ANSWERED, IntakeToken, Match, Result, Route
from gateway.intake.upload_urls import UploadUrlService
from gateway.trace import trace_of

_SUCCESS = 200
"""What the SDK expects of an upload, exactly."""


class SdkSource:
    """Answers what the SDK sends. For the event loop."""

    def __init__(
        self,
        reader: BodyReader,
        acceptor: Acceptor,
        posts: PostService,
        uploads: UploadUrlService,
        store: RecordStore,
        token: IntakeToken,
    ) -> None:
        self._reader = reader
        self._acceptor = acceptor
        self._posts = posts
        self._uploads = uploads
        self._store = store
        self._token = token

    def routes(self) -> Sequence[Route]:
        """Its routes."""
        post = self._posts.respond
        return (
            Route("send_call_log", "POST", "*/send-call-log", post, posts=True),
            Route("calls", "POST", "/v1/calls", post, posts=True),
            Route("upload_url", "POST", "*/get-upload-url", self._give_address),
            Route("upload", "PUT", "*/uploads/{secret}", self._accept_upload, needs_token=False, posts=True),
            Route("trace", "GET", "/v1/calls/{call_id}", self._trace),
            Route("openapi", "GET", "/openapi.json", self._openapi, needs_token=False),
        )

    async def _give_address(self, request: web.BaseRequest, match: Match) -> Result:
        """An address for whatever document names a call: the SDK sends the id and a content type."""
        with await self._reader.read(request) as body:
            parsed = await self._acceptor.parse(body)
        return await self._posts.give_address(parsed.call_id, self._posts.sender(request, match))

    async def _accept_upload(self, request: web.BaseRequest, match: Match) -> Result:
        claim = await self._uploads.claim(match.argument)
        with await self._reader.read(request) as body:
            arrival = Arrival(
                agents_key=claim.upload.token,
                tenant=self._token.tenant_of_key(claim.upload.token),
                upload_key_hash=claim.key_hash,
                idempotency_key=request.headers.get(IDEMPOTENCY_KEY),
                via=match.via,
                trace_context=match.trace_context,
            )
            parsed = await self._acceptor.parse(body, arrival)
            if not isinstance(parsed, CallLog):
                raise Rejection(400, "not_a_call_log", "The uploaded document is no call log.", "PUT the call log.")
            claim.check_same(parsed.digest)
            # A token in the call log wins over the key with which its address was asked for.
            if own := self._token.foreign(parsed.token):
                arrival = msgspec.structs.replace(arrival, agents_key=own)
            accepted = await self._acceptor.accept(parsed, arrival)
            return accepted_result(parsed, accepted, _SUCCESS)

    async def _openapi(self, _request: web.BaseRequest, _match: Match) -> Result:
        """What can be posted here, as OpenAPI."""
        return Result(200, openapi.document(), ANSWERED)

    async def _trace(self, request: web.BaseRequest, match: Match) -> Result:
        """With a tenant's token only what is that tenant's."""
        records = await self._store.trace(match.argument)
        tenant = self._token.tenant_of(request)
        if tenant is not None:
            records = tuple([traced for traced in records if traced.record.tenant == tenant])
        if not records:
            raise Rejection(
                404,
                "unknown_call",
                "No call log of this call is known.",
                "A receipt is kept for a day after everything was delivered, by default.",
            )
        return Result(200, msgspec.json.encode(trace_of(match.argument, records)), ANSWERED)
