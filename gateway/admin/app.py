"""The admin application: metrics, health, the status page and its JSON API.

It answers from memory, but for the trace of a call. Nothing here changes anything.
"""

import msgspec
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from gateway.admin.events import RecentEvents
from gateway.admin.gauges import GaugeCollector
from gateway.admin.metrics import Metrics
from gateway.admin.page import Page, load_page
from gateway.admin.readiness import obstacles
from gateway.admin.sources import Sources
from gateway.admin.status import status_of
from gateway.logs import redact_text
from gateway.trace import trace_of
from spool.errors import SpoolError

_encode = msgspec.json.Encoder().encode

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class _Health(msgspec.Struct):
    status: str
    reasons: tuple[str, ...] = ()


class _Error(msgspec.Struct):
    code: str
    message: str
    hint: str


class _Refused(msgspec.Struct):
    error: _Error
    success: bool = False


class AdminHandlers:
    """Answers the requests of the admin listener."""

    def __init__(self, sources: Sources, metrics: Metrics, events: RecentEvents) -> None:
        self._sources = sources
        self._metrics = metrics
        self._events = events
        self._page: Page = load_page()

    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics, in the text format that the scraper asks for."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = encode(self._metrics.registry)
        return web.Response(body=body, headers={**_HEADERS, "Content-Type": content_type})

    async def healthz(self, _request: web.Request) -> web.Response:
        """The process lives: that it answers is all there is to say."""
        return _json(_Health("ok"))

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 if posts can be accepted, else 503 with the reasons."""
        reasons = tuple(redact_text(reason) for reason in obstacles(self._sources.lifecycle(), self._sources.spool()))
        if reasons:
            return _json(_Health("not ready", reasons), status=503)
        return _json(_Health("ready"))

    async def page(self, _request: web.Request) -> web.Response:
        """The status page."""
        headers = {**_HEADERS, "Content-Security-Policy": self._page.policy}
        return web.Response(text=self._page.html, content_type="text/html", headers=headers)

    async def status(self, _request: web.Request) -> web.Response:
        """What the status page shows, as JSON."""
        sources = self._sources
        return _json(
            status_of(
                now=sources.clock(),
                lifecycle=sources.lifecycle(),
                stats=sources.spool(),
                destinations=sources.destinations(),
                events=self._events.recent(),
            )
        )

    async def call(self, request: web.Request) -> web.Response:
        """The trace of a call; 404 if the spool knows none of that id, 503 if it cannot be read."""
        call_id = request.match_info["call_id"]
        try:
            records = await self._sources.trace(call_id)
        except SpoolError as error:
            return _refused(503, "spool_unavailable", redact_text(str(error)), "Try again when /readyz answers 200.")
        if not records:
            hint = "Receipts of delivered calls are kept for a limited time only."
            return _refused(404, "unknown_call", "The spool knows no call of this id.", hint)
        return _json(trace_of(call_id, records))


def build_admin_app(sources: Sources, metrics: Metrics, events: RecentEvents) -> web.Application:
    """The application of the admin listener. Registers the gauges of `sources` with the metrics."""
    metrics.registry.register(GaugeCollector(sources))
    handlers = AdminHandlers(sources, metrics, events)
    app = web.Application()
    app.router.add_get("/", handlers.page)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/healthz", handlers.healthz)
    app.router.add_get("/readyz", handlers.readyz)
    app.router.add_get("/api/status", handlers.status)
    app.router.add_get("/api/calls/{call_id:.+}", handlers.call)
    return app


def _json(document: msgspec.Struct, *, status: int = 200) -> web.Response:
    return web.Response(body=_encode(document), status=status, content_type="application/json", headers=_HEADERS)


def _refused(status: int, code: str, message: str, hint: str) -> web.Response:
    return _json(_Refused(_Error(code, message, hint)), status=status)
