"""Tenants: which there are, which agents belong to none of them, and whose an agent is."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from gateway.admin.answers import answer, refused
from gateway.admin.audit import note
from gateway.admin.view import GatewayView
from gateway.operations.tenants import TenantAdmin, UnknownTenant
from spool.errors import SpoolError
from uploaders.redact import redact


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
            order = msgspec.json.decode(await request.read(), type=_Assignment)
        except msgspec.MsgspecError as error:
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
