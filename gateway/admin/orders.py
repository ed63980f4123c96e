"""The part of the admin API that is about deliveries that have not ended: finding them, and orders about them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from gateway.admin.access import Access
from gateway.admin.answers import HEADERS, answer, refused
from gateway.admin.sources import Sources
from gateway.logs import redact_text
from gateway.orders.advice import ADVICE, ReasonKind
from gateway.orders.desk import OrderDesk, UnknownDelivery
from gateway.orders.documents import LIMIT, OrderName, OrderRequest, Select
from gateway.orders.payload import compressed, plain
from gateway.orders.selecting import BadSelection
from spool.errors import CorruptPayload, SpoolError
from uploaders.forms import BadLocation

LARGEST_REQUEST = 64 << 10
_FILTERS = ("destination", "form", "reason", "older_than", "newer_than", "target")

_decode = msgspec.json.Decoder(OrderRequest).decode
_Work = Callable[[OrderDesk], Awaitable[web.StreamResponse]]


class OrderHandlers:
    """Answers the requests about deliveries and takes orders."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def add_to(self, app: web.Application, access: Access) -> None:
        """Add the routes."""
        app.router.add_get("/api/deliveries", access.secret(self.list))
        app.router.add_get("/api/deliveries/{key:.+}", access.secret(self.story))
        app.router.add_get("/api/documents/{key:.+}", access.secret(self.document))
        for name in OrderName:
            app.router.add_post(f"/api/orders/{name}", access.order(self._taker(name)))

    async def list(self, request: web.Request) -> web.StreamResponse:
        """A page of deliveries, as the query selects them."""

        async def work(desk: OrderDesk) -> web.StreamResponse:
            """Read the query and ask."""
            query = request.query
            given = {name: query[name] for name in _FILTERS if name in query}
            select = msgspec.convert({**given, "states": query.getall("state", [])}, Select, strict=False)
            limit = msgspec.convert(query.get("limit", LIMIT), int, strict=False)
            return answer(await desk.list(select, query.get("cursor"), limit))

        return await self._at_the_desk(work)

    async def story(self, request: web.Request) -> web.StreamResponse:
        """Everything about one delivery."""

        async def work(desk: OrderDesk) -> web.StreamResponse:
            """Look it up."""
            return answer(await desk.story(request.match_info["key"]))

        return await self._at_the_desk(work)

    async def document(self, request: web.Request) -> web.StreamResponse:
        """What a delivery carries, as JSON; compressed with zstd for whoever takes that."""

        async def work(desk: OrderDesk) -> web.StreamResponse:
            """Look it up, and read it as it is sent."""
            delivery = await desk.document(request.match_info["key"])
            if "zstd" in request.headers.get("Accept-Encoding", ""):
                headers = {**HEADERS, "Content-Encoding": "zstd"}
                return await _streamed(request, compressed(delivery, desk.payloads), headers)
            return await _streamed(request, plain(delivery, desk.payloads), HEADERS)

        return await self._at_the_desk(work)

    def _taker(self, name: OrderName) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of one order."""

        async def handler(request: web.Request) -> web.StreamResponse:
            """Carry out one step."""
            try:
                body = await request.read()
            except web.HTTPRequestEntityTooLarge:
                hint = "Select by a filter, and go on by the cursor."
                return refused(413, "too_large", f"An order may have {LARGEST_REQUEST} bytes.", hint)

            async def work(desk: OrderDesk) -> web.StreamResponse:
                """Read the order and take it."""
                return answer(await desk.take(name, _decode(body)))

            return await self._at_the_desk(work)

        return handler

    async def _at_the_desk(self, work: _Work) -> web.StreamResponse:
        """Every failure as an answer that says what to do."""
        desk = self._sources.desk()
        if desk is None:
            return refused(503, "spool_unavailable", "The spool is not open.", "Try again when /readyz answers 200.")
        try:
            return await work(desk)
        except UnknownDelivery as error:
            hint = "`/api/deliveries` lists those that have not ended; what has, is in the trace of its call."
            return refused(404, "unknown_delivery", f"No delivery that has not ended is called {error}.", hint)
        except (CorruptPayload, BadLocation) as error:
            return refused(
                409, "unreadable", redact_text(f"It cannot be read: {error}."), ADVICE[ReasonKind.UNREADABLE]
            )
        except (msgspec.MsgspecError, BadSelection) as error:
            hint = "docs/operating.md describes the requests of the admin API."
            return refused(400, "bad_request", redact_text(f"The request cannot be meant: {error}."), hint)
        except SpoolError as error:
            return refused(503, "spool_unavailable", redact_text(str(error)), "Try again when /readyz answers 200.")


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
