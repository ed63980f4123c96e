"""The admin API of open deliveries, of orders (replay, discard, reroute, salvage, erase) and of tenants."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import partial

import msgspec
from aiohttp import web

from gateway.admin.answers import (
    HEADERS,
    BadRequest,
    answer,
    check_parameters,
    decoded,
    limit_of,
    order_of,
    refused,
    streamed,
)
from gateway.admin.audit import note
from gateway.admin.auth import Handler
from gateway.admin.view import GatewayView
from gateway.operations import salvage
from gateway.operations.advice import ADVICE, ReasonKind
from gateway.operations.erasure import ErasureOrder
from gateway.operations.export import archive_of
from gateway.operations.salvage import SalvageOrder, carry_out
from gateway.operations.schemas import LARGEST_LIMIT, LIMIT, ImportHeader, OrderName, OrderRequest, Resumed, Select
from gateway.operations.selection import BadSelection
from gateway.operations.service import DeliveryAdmin, UnknownDelivery
from gateway.operations.tenants import TenantAdmin, UnknownTenant
from gateway.operations.transfer import compressed, plain
from spool.errors import CorruptPayload, SpoolError, SpoolFull
from uploaders.document.render import BadLocation
from uploaders.redact import redact

HEARTBEAT_SECONDS = 1.0
"""An empty line, so that a client knows that an order continues: a single record may be large."""
_FILTERS = ("destination", "form", "reason", "older_than", "newer_than", "target", "kind")

_encode = msgspec.json.Encoder().encode
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
_Work = Callable[[web.Request, DeliveryAdmin], Awaitable[web.StreamResponse]]


class OrderHandlers:
    """Lists deliveries and carries out orders."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        open_spool, router = self._with_open_spool, app.router
        router.add_get("/api/deliveries", open_spool(self.list))
        router.add_get("/api/deliveries/{key:.+}", open_spool(self.story))
        router.add_get("/api/documents/{key:.+}", open_spool(self.document))
        router.add_post("/api/dead-letters/import", open_spool(self.import_record))
        router.add_get("/api/dead-letters/export", open_spool(self.export))
        for name in OrderName:
            router.add_post(f"/api/orders/{name}", open_spool(partial(self.order, name)))
        router.add_post("/api/destinations/{destination}/resume", self.resume)
        router.add_post("/api/reload", self.reload)
        router.add_post("/api/salvage", open_spool(self.salvage))
        router.add_post("/api/rekey", open_spool(self.rekey))
        router.add_post("/api/erasures", open_spool(self.erase))

    async def list(self, request: web.Request, admin: DeliveryAdmin) -> web.StreamResponse:
        """A page of deliveries, as the query selects them."""
        query = request.query
        check_parameters(request, (*_FILTERS, "state", "limit", "cursor"))
        limit = limit_of(query, LIMIT, LARGEST_LIMIT)
        select = _selected(request, states=query.getall("state", []))
        return answer(await admin.list(select, query.get("cursor"), limit))

    async def export(self, request: web.Request, admin: DeliveryAdmin) -> web.StreamResponse:
        """Dead letters with what they carry, as a zip file; what is asked for by HEAD is who may do that."""
        check_parameters(request, (*_FILTERS, "key"))
        select = _selected(request, states=["dead"], keys=request.query.getall("key", []))
        note(request, select=msgspec.to_builtins(select))
        day = datetime.fromtimestamp(self._gateway.now() // 1000, UTC).date()
        name = f'attachment; filename="dead-letters-{day}.zip"'
        headers = {**HEADERS, "Content-Type": "application/zip", "Content-Disposition": name}
        if request.method == "HEAD":
            return web.Response(headers=headers)
        blocks = archive_of(admin, select, self._gateway.now())
        return await streamed(request, await anext(blocks), blocks, headers)

    async def story(self, request: web.Request, admin: DeliveryAdmin) -> web.StreamResponse:
        """Everything about one delivery."""
        return answer(await admin.report(request.match_info["key"]))

    async def document(self, request: web.Request, admin: DeliveryAdmin) -> web.StreamResponse:
        """What a delivery carries, as JSON; compressed with zstd for clients that accept it."""
        delivery = await admin.document(request.match_info["key"])
        if "zstd" in request.headers.get("Accept-Encoding", ""):
            headers = {**HEADERS, "Content-Encoding": "zstd"}
            blocks = compressed(delivery, admin.payloads)
            return await streamed(request, await anext(blocks), blocks, headers)
        blocks = plain(delivery, admin.payloads)
        return await streamed(request, await anext(blocks), blocks)

    async def import_record(self, request: web.Request, admin: DeliveryAdmin) -> web.StreamResponse:
        """Import an exported call log: a line of JSON that describes it, then its documents, stored as they come."""
        try:
            line = await request.content.readuntil(b"\n") if request.can_read_body else b""
        except ValueError:  # longer than what the server buffers
            line = b""
        if not line.endswith(b"\n"):
            raise BadSelection("the first line, which describes the call log, is missing or too long")
        header = decoded(line, ImportHeader)
        note(request, call_id=header.call_id, record_id=header.record_id, to=header.to)
        return answer(await admin.importer.import_record(header, request.content))

    async def order(self, name: OrderName, request: web.Request, admin: DeliveryAdmin) -> web.StreamResponse:
        """Carry out one step of an order."""
        order = await order_of(request, OrderRequest)
        note(request, select=msgspec.to_builtins(order.select), to=order.to, dry_run=order.dry_run)
        step = await admin.take(name, order)
        note(request, matched=step.matched, done=step.done)
        return answer(step)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """Try a destination and its refused tokens at once; 404 where none is configured under this name."""
        if self._gateway.spool_stats() is None:
            return _not_open()
        name = request.match_info["destination"]
        waited = self._gateway.resume(name)
        if waited is None:
            known = [each.name for each in self._gateway.destinations() if each.configured]
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"The configuration has: {', '.join(known) or 'none'}."
            return refused(404, "unknown_destination", "No destination is configured under this name.", hint)
        return answer(Resumed(destination=name, waited=waited))

    async def reload(self, _request: web.Request) -> web.StreamResponse:
        """Reload the settings; the answer says whether, and where they are wrong or need a restart."""
        return answer(await self._gateway.reload())

    async def salvage(self, request: web.Request, _admin: DeliveryAdmin) -> web.StreamResponse:
        """Import what another database holds into this gateway's spool, and report as NDJSON.

        It stops when the client is gone; a repeated order continues where it stopped.
        """
        salvages = self._gateway.salvages
        if salvages is None:
            return _not_open()
        order = await order_of(request, SalvageOrder)
        note(request, order=msgspec.to_builtins(order))
        return await _as_lines(request, carry_out(salvages, order))

    async def rekey(self, request: web.Request, _admin: DeliveryAdmin) -> web.StreamResponse:
        """Bring everything in the spool under its current key, and report as NDJSON. A repeated order continues."""
        spool = self._gateway.spool
        if spool is None:
            return _not_open()
        return await _as_lines(request, salvage.rekey(spool.rekeying))

    async def erase(self, request: web.Request, _admin: DeliveryAdmin) -> web.StreamResponse:
        """Erase calls wherever this gateway reaches them, and report as NDJSON.

        It stops when the client is gone; a repeated order finishes what was begun.
        """
        eraser = self._gateway.call_eraser
        if eraser is None:
            return _not_open()
        order = await order_of(request, ErasureOrder)
        eraser.check(order)
        # The audit log must not keep what is to be forgotten: ids as the hashes that stay of them, no numbers.
        hashes = [eraser.hash_of(call_id, order.tenant) for call_id in order.call_ids]
        note(
            request, calls=hashes, by_phone=order.phone is not None, agent=order.agent, tenant=order.tenant,
            dry_run=order.dry_run,
        )  # fmt: skip
        return await _as_lines(request, eraser.carry_out(order))

    def _with_open_spool(self, work: _Work) -> Handler:
        """A handler that does the work; every failure becomes an answer that says what to do."""

        async def handler(request: web.Request) -> web.StreamResponse:
            admin = self._gateway.delivery_admin
            if admin is None:
                return _not_open()
            try:
                return await work(request, admin)
            except tuple(_REFUSALS) as error:
                status, code, sentence, hint = next(each for kind, each in _REFUSALS.items() if isinstance(error, kind))
                return refused(status, code, redact(sentence.format(error)), hint)

        return handler


def _selected(request: web.Request, **more: Sequence[str]) -> Select:
    given = {name: request.query[name] for name in _FILTERS if name in request.query}
    return msgspec.convert({**given, **more}, Select, strict=False)


def _not_open() -> web.Response:
    return refused(503, "spool_unavailable", "The spool is not open.", _READY_HINT)


async def _as_lines(request: web.Request, reported: AsyncGenerator[msgspec.Struct, None]) -> web.StreamResponse:
    """The lines as NDJSON, as they come; it ends with the client."""
    response = web.StreamResponse(headers={**HEADERS, "Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    async with aclosing(reported) as lines:
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
            await response.write_eof()
        except ConnectionError:
            note(request, outcome="aborted")
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    return response


# Tenants: which there are, which agents belong to none of them, and whose an agent is.


class _Assignment(msgspec.Struct, forbid_unknown_fields=True):
    tenant: str
    agent: str | None = None
    """None: of what came without an agent."""


class TenantHandlers:
    """Answers what is asked of tenants."""

    def __init__(self, gateway: GatewayView) -> None:
        self._gateway = gateway

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_get("/api/tenants", self._with_tenants(self.list))
        app.router.add_post("/api/tenants/assign", self._with_tenants(self.assign))

    async def list(self, _request: web.Request, admin: TenantAdmin) -> web.Response:
        """All tenants, and the agents that belong to none."""
        return answer(await admin.list())

    async def assign(self, request: web.Request, admin: TenantAdmin) -> web.Response:
        """Give an agent, and its call logs that wait, to a tenant."""
        try:
            order = await order_of(request, _Assignment)
        except BadRequest as error:
            hint = 'Send {"agent": "AGENT_ID", "tenant": "NAME"}.'
            return refused(400, "bad_request", f"Invalid request: {error}.", hint)
        note(request, agent=order.agent, tenant=order.tenant)
        return answer(await admin.assign(order.agent, order.tenant))

    def _with_tenants(
        self, handler: Callable[[web.Request, TenantAdmin], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            """Answer for a gateway without tenants, and for a spool that is not well."""
            admin = self._gateway.tenant_admin
            if admin is None:
                hint = "Add [tenants.NAME] to the configuration: docs/tenants.md."
                return refused(404, "no_tenants", "This gateway has no tenants.", hint)
            try:
                return await handler(request, admin)
            except UnknownTenant as error:
                return refused(404, "unknown_tenant", f"There is no tenant {error}.", "`callspool tenants list`.")
            except SpoolError as error:
                return refused(503, "spool_unavailable", redact(str(error)), "Try again when /readyz answers 200.")

        return handle
