"""The admin API of deliveries that have not ended: list them, read them, and give orders about them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing

import msgspec
from aiohttp import web

from gateway.admin.auth import HEADERS, Access, answer, refused
from gateway.admin.view import GatewayView
from gateway.operations.advice import ADVICE, ReasonKind
from gateway.operations.salvage import SalvageOrder, carry_out
from gateway.operations.schemas import IMPORT_TYPE, LIMIT, ImportHeader, OrderName, OrderRequest, Resumed, Select
from gateway.operations.selection import BadSelection
from gateway.operations.service import DeliveryAdmin, UnknownDelivery
from gateway.operations.transfer import compressed, plain
from spool.errors import CorruptPayload, SpoolError, SpoolFull
from uploaders.document.render import BadLocation
from uploaders.redact import redact

LARGEST_REQUEST = 64 << 10
_PROTECTED = frozenset({OrderName.DISCARD, OrderName.REROUTE, OrderName.REPLACE_TOKEN})
"""What gives call logs up, or sends them elsewhere or with another key."""
_FILTERS = ("destination", "form", "reason", "older_than", "newer_than", "target")

_decode = msgspec.json.Decoder(OrderRequest).decode
_decode_import = msgspec.json.Decoder(ImportHeader).decode
_READY_HINT = "Try again when /readyz answers 200."
_REQUEST_HINT = "docs/operating.md describes the requests of the admin API."
_KEY_HINT = "`/api/deliveries` lists those that have not ended; the others are in the trace of their call."
# The first match counts: a subclass stands before its base.
_REFUSALS: Mapping[type[Exception], tuple[int, str, str, str]] = {
    UnknownDelivery: (404, "unknown_delivery", "There is no open delivery {}.", _KEY_HINT),
    CorruptPayload: (409, "unreadable", "The payload cannot be read: {}.", ADVICE[ReasonKind.UNREADABLE]),
    BadLocation: (409, "unreadable", "The payload cannot be read: {}.", ADVICE[ReasonKind.UNREADABLE]),
    msgspec.MsgspecError: (400, "bad_request", "Invalid request: {}.", _REQUEST_HINT),
    BadSelection: (400, "bad_request", "Invalid request: {}.", _REQUEST_HINT),
    SpoolFull: (507, "spool_full", "{}", "Try again when there is room."),
    SpoolError: (503, "spool_unavailable", "{}", _READY_HINT),
}
_Work = Callable[[DeliveryAdmin], Awaitable[web.StreamResponse]]


class OrderHandlers:
    """Lists deliveries and carries out orders about them."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application, access: Access) -> None:
        """Add the routes."""
        app.router.add_get("/api/deliveries", access.local(self.list))
        app.router.add_get("/api/deliveries/{key:.+}", access.protected(self.story))
        app.router.add_get("/api/documents/{key:.+}", access.protected(self.document))
        app.router.add_post("/api/dead-letters/import", access.order(self.bring, IMPORT_TYPE, protected=True))
        for name in OrderName:
            handler = access.order(self._taker(name), protected=name in _PROTECTED)
            app.router.add_post(f"/api/orders/{name}", handler)

    async def list(self, request: web.Request) -> web.StreamResponse:
        """A page of deliveries, as the query selects them."""

        async def work(desk: DeliveryAdmin) -> web.StreamResponse:
            """Read the query and ask."""
            query = request.query
            given = {name: query[name] for name in _FILTERS if name in query}
            select = msgspec.convert({**given, "states": query.getall("state", [])}, Select, strict=False)
            limit = msgspec.convert(query.get("limit", LIMIT), int, strict=False)
            return answer(await desk.list(select, query.get("cursor"), limit))

        return await self._with_delivery_admin(work)

    async def story(self, request: web.Request) -> web.StreamResponse:
        """Everything about one delivery."""

        async def work(desk: DeliveryAdmin) -> web.StreamResponse:
            """Look it up."""
            return answer(await desk.story(request.match_info["key"]))

        return await self._with_delivery_admin(work)

    async def document(self, request: web.Request) -> web.StreamResponse:
        """What a delivery carries, as JSON; compressed with zstd for clients that accept it."""

        async def work(desk: DeliveryAdmin) -> web.StreamResponse:
            """Look it up, and read it as it is sent."""
            delivery = await desk.document(request.match_info["key"])
            if "zstd" in request.headers.get("Accept-Encoding", ""):
                headers = {**HEADERS, "Content-Encoding": "zstd"}
                return await _streamed(request, compressed(delivery, desk.payloads), headers)
            return await _streamed(request, plain(delivery, desk.payloads), HEADERS)

        return await self._with_delivery_admin(work)

    async def bring(self, request: web.Request) -> web.StreamResponse:
        """A call log that was exported elsewhere comes in: a line that tells of it, then its documents."""

        async def work(desk: DeliveryAdmin) -> web.StreamResponse:
            """Read the line; the rest is read as it is stored."""
            try:
                line = await request.content.readuntil(b"\n") if request.can_read_body else b""
            except ValueError:  # longer than what the server buffers
                line = b""
            if not line.endswith(b"\n"):
                raise BadSelection("the line that tells of it is missing or too long")
            return answer(await desk.importer.import_record(_decode_import(line), request.content))

        return await self._with_delivery_admin(work)

    def _taker(self, name: OrderName) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of one order."""

        async def handler(request: web.Request) -> web.StreamResponse:
            """Carry out one step."""
            try:
                body = await request.read()
            except web.HTTPRequestEntityTooLarge:
                hint = "Select by a filter and continue with the cursor."
                return refused(413, "too_large", f"An order may have at most {LARGEST_REQUEST} bytes.", hint)

            async def work(desk: DeliveryAdmin) -> web.StreamResponse:
                """Read the order and take it."""
                return answer(await desk.take(name, _decode(body)))

            return await self._with_delivery_admin(work)

        return handler

    async def _with_delivery_admin(self, work: _Work) -> web.StreamResponse:
        """Do the work; every failure becomes an answer that says what to do."""
        desk = self._gateway.delivery_admin
        if desk is None:
            return refused(503, "spool_unavailable", "The spool is not open.", _READY_HINT)
        try:
            return await work(desk)
        except tuple(_REFUSALS) as error:
            status, code, sentence, hint = next(
                refusal for kind, refusal in _REFUSALS.items() if isinstance(error, kind)
            )
            return refused(status, code, redact(sentence.format(error)), hint)


async def _streamed(
    request: web.Request, blocks: AsyncIterator[bytes], headers: Mapping[str, str]
) -> web.StreamResponse:
    """JSON, a block at a time. An error before the first block is an answer; after it, the answer breaks off."""
    first = await anext(blocks)
    response = web.StreamResponse(headers={**headers, "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(first)
    try:
        async for block in blocks:
            await response.write(block)
    except SpoolError:
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


# `POST /api/destinations/{destination}/resume`: closes a destination's breaker for a try, and retries refused tokens.


class ResumeHandler:
    """Resumes a destination."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application, access: Access) -> None:
        """Add the route."""
        app.router.add_post("/api/destinations/{destination}/resume", access.order(self.resume))

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Try a destination at once; 404 where none is configured under this name."""
        name = request.match_info["destination"]
        if self._gateway.spool_stats() is None:
            return refused(503, "spool_unavailable", "The spool is not open.", "Try again when /readyz answers 200.")
        waited = self._gateway.resume(name)
        if waited is None:
            known = ", ".join(each.name for each in self._gateway.destinations() if each.configured)
            hint = f"The configuration has: {known or 'none'}."
            return refused(404, "unknown_destination", "No destination is configured under this name.", hint)
        return answer(Resumed(destination=name, waited=waited))


# `POST /api/salvage`: imports what another database holds into this gateway's spool, and reports line by line.

HEARTBEAT_SECONDS = 1.0
"""An empty line, so that the client knows that the work continues: a single record may be large."""

_decode_salvage = msgspec.json.Decoder(SalvageOrder).decode
_encode = msgspec.json.Encoder().encode


class SalvageHandler:
    """Carries out the order; stops when the client is gone. A repeated order continues where it stopped."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application, access: Access) -> None:
        """Add the route."""
        app.router.add_post("/api/salvage", access.order(self.take, protected=True))

    async def take(self, request: web.Request) -> web.StreamResponse:
        """Carry it out, and report as NDJSON."""
        salvages = self._gateway.salvages
        if salvages is None:
            return refused(503, "spool_unavailable", "The spool is not open.", "Try again when /readyz answers 200.")
        try:
            order = _decode_salvage(await request.read())
        except msgspec.MsgspecError as error:
            hint = "docs/operating.md describes the requests of the admin API."
            return refused(400, "bad_request", f"Invalid request: {error}.", hint)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with aclosing(carry_out(salvages, order)) as lines:
            following = asyncio.ensure_future(anext(lines, None))
            try:
                while True:
                    done, _ = await asyncio.wait({following}, timeout=HEARTBEAT_SECONDS)
                    if not done:
                        await response.write(b"\n")
                        continue
                    line = following.result()
                    if line is None:
                        break
                    await response.write(_encode(line) + b"\n")
                    following = asyncio.ensure_future(anext(lines, None))
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
        await response.write_eof()
        return response
