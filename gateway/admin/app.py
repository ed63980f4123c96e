"""The admin application: metrics, health, the status, the API of calls and orders, and the pages.

These routes read from memory and change nothing. What is asked of calls is in `gateway.admin.calls`, what may change
something in `gateway.admin.api`.
"""

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway.admin import openapi
from gateway.admin.answers import HEADERS, answer
from gateway.admin.api import LARGEST_REQUEST, OrderHandlers
from gateway.admin.auth import Access
from gateway.admin.calls import CallHandlers
from gateway.admin.events import RecentEvents
from gateway.admin.gauges import GaugeCollector
from gateway.admin.metrics import Metrics
from gateway.admin.page.handlers import PageHandlers, current_status
from gateway.admin.pipeline import PipelineHandlers
from gateway.admin.status import attention, for_everyone, obstacles
from gateway.admin.tenants import TenantHandlers
from gateway.admin.view import GatewayView
from uploaders.redact import redact


class _Health(msgspec.Struct):
    status: str
    reasons: tuple[str, ...] = ()


class _Readiness(msgspec.Struct):
    status: str
    reasons: tuple[str, ...] = ()
    attention: tuple[str, ...] = ()
    """What an operator should do all the same."""


class AdminHandlers:
    """Answers the requests of the admin listener."""

    def __init__(self, gateway: GatewayView, metrics: Metrics, events: RecentEvents, access: Access) -> None:
        self._gateway = gateway
        self._access = access
        self._metrics = metrics
        self._events = events

    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics, in the text format that the scraper asks for."""
        return exposition(self._metrics.registry, request)

    async def openapi(self, _request: web.Request) -> web.Response:
        """What can be asked here, as OpenAPI."""
        return web.Response(body=openapi.document(), content_type="application/json", headers=HEADERS)

    async def healthz(self, _request: web.Request) -> web.Response:
        """Liveness: the process answers, whatever disk and destinations do."""
        return answer(_Health("ok"))

    async def readyz(self, _request: web.Request) -> web.Response:
        """Readiness: 200 if posts can be accepted, else 503 with the reasons."""
        stats = self._gateway.spool_stats()
        closed = await self._gateway.intake_obstacle()
        reasons = tuple(redact(reason) for reason in obstacles(self._gateway.lifecycle, stats, closed))
        notes = tuple(redact(note) for note in attention(stats))
        if reasons:
            return answer(_Readiness("not ready", reasons, notes), status=503)
        return answer(_Readiness("ready", attention=notes))

    async def status(self, request: web.Request) -> web.Response:
        """What the overview shows, as JSON; calls and what endpoints answered only to those who may see them."""
        status = await current_status(self._gateway, self._events)
        return answer(status if self._access.may_see_calls(request) else for_everyone(status))


def exposition(registry: CollectorRegistry, request: web.Request) -> web.Response:
    """The metrics of a registry, in the text format that the scraper asks for."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(registry), headers={**HEADERS, "Content-Type": content_type})


def build_admin_app(gateway: GatewayView, metrics: Metrics, events: RecentEvents, access: Access) -> web.Application:
    """The application of the admin listener. Registers the gauges of `gateway` with the metrics."""
    metrics.registry.register(GaugeCollector(gateway))
    handlers = AdminHandlers(gateway, metrics, events, access)
    app = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[access.guard])
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/openapi.json", handlers.openapi)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    app.router.add_get("/api/status", handlers.status)
    PipelineHandlers(gateway).add_to(app)
    CallHandlers(gateway).add_to(app)
    OrderHandlers(gateway).add_to(app)
    TenantHandlers(gateway).add_to(app)
    PageHandlers(gateway, events, access).add_to(app)
    return app
