"""The handler of every request: finds the route, reads, replies, counts, and never lets an error out as a 500."""

import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog
from aiohttp import web

from gateway.intake.accept import SUPERSEDED_BY, Acceptor, PostService, Result, Sender, accepted_result, answered
from gateway.intake.batch import BatchRunner
from gateway.intake.body_reader import BodyReader
from gateway.intake.parse import Prepared, call_id_of
from gateway.intake.ports import IntakeObserver, RecordStore
from gateway.intake.protocol import AdmissionGate
from gateway.intake.responses import JsonResponse, Rejection, internal, rejection_response, translate
from gateway.intake.routes import IntakeToken, Match, Route, match, usable
from gateway.intake.upload_urls import UploadUrlService
from gateway.trace import trace_of

_log = structlog.get_logger(__name__)
_SUCCESS = 200


class IntakeHandler:
    """Answers the requests of agents."""

    def __init__(
        self,
        gate: AdmissionGate,
        token: IntakeToken,
        reader: BodyReader,
        acceptor: Acceptor,
        uploads: UploadUrlService,
        posts: PostService,
        batch: BatchRunner,
        store: RecordStore,
        observer: IntakeObserver,
    ) -> None:
        self._gate = gate
        self._token = token
        self._reader = reader
        self._acceptor = acceptor
        self._uploads = uploads
        self._posts = posts
        self._batch = batch
        self._store = store
        self._observer = observer
        self._answerers: Mapping[Route, Callable[[web.BaseRequest, Match], Awaitable[Result]]] = {
            Route.SEND_CALL_LOG: self._post,
            Route.CALLS: self._post,
            Route.UPLOAD_URL: self._give_address,
            Route.UPLOAD: self._take_upload,
            Route.TRACE: self._trace,
        }

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request. Nothing is raised but a cancellation."""
        started = time.perf_counter()
        route = Route.NONE
        try:
            found = match(request.method, request.rel_url.raw_path)
            route = found.route
            self._gate.check()
            if route is not Route.UPLOAD:
                self._token.check(request)
            if route is Route.BATCH:
                return await self._batch.run(request, self._sender(request, found))
            reply = await self._answerers[route](request, found)
        except Exception as error:  # noqa: BLE001  # whatever it is, the sender must learn to keep its call log
            rejection = translate(error)
            if rejection is None:
                _log.error("unexpected error in the intake", route=route.value, exc_info=error)
                rejection = internal()
            self._observer.posted(route.value, rejection.code)
            return rejection_response(rejection)
        self._observer.posted(route.value, reply.result)
        if reply.acknowledges:
            self._observer.acknowledged(time.perf_counter() - started)
        return JsonResponse(reply.status, reply.body)

    async def _post(self, request: web.BaseRequest, found: Match) -> Result:
        body = await self._reader.read(request)
        try:
            opened = await self._acceptor.examine(body)
            return await self._posts.reply(opened, self._sender(request, found))
        finally:
            body.release()

    async def _give_address(self, request: web.BaseRequest, found: Match) -> Result:
        """An address for whatever document names a call: the SDK sends the id and a content type."""
        body = await self._reader.read(request)
        try:
            opened = await self._acceptor.examine(body)
            return await self._posts.give_address(call_id_of(opened), self._sender(request, found))
        finally:
            body.release()

    async def _take_upload(self, request: web.BaseRequest, found: Match) -> Result:
        claim = await self._uploads.claim(found.argument)
        body = await self._reader.read(request)
        try:
            opened = await self._acceptor.examine(body)
            if not isinstance(opened, Prepared):
                raise Rejection(400, "not_a_call_log", "The uploaded document is no call log.", "PUT the call log.")
            claim.check_same(opened.digest)
            key = usable(opened.about.token) or claim.upload.token
            accepted = await self._acceptor.accept(opened, key, upload_key_hash=claim.key_hash)
            return accepted_result(opened, accepted, _SUCCESS)
        finally:
            body.release()

    async def _trace(self, _request: web.BaseRequest, found: Match) -> Result:
        records = await self._store.trace(found.argument)
        if not records:
            raise Rejection(
                404,
                "unknown_call",
                "No call log of this call is known.",
                "A receipt is kept for a day after everything was delivered, by default.",
            )
        return answered(msgspec.json.encode(trace_of(found.argument, records)))

    def _sender(self, request: web.BaseRequest, found: Match) -> Sender:
        return Sender(self._token.agents_key(request), request, found.prefix, request.headers.get(SUPERSEDED_BY))
