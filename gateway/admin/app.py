"""The applications of the admin listener: of a gateway, and the smaller one of a worker.

A gateway shows metrics, health, the status, the API of calls and orders, and the pages. The routes here read from
memory and change nothing. What is asked of calls is in `gateway.admin.calls`, what may change something in
`gateway.admin.api`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.admin import permissions
from gateway.admin.answers import HEADERS, LARGEST_REQUEST, answer, explained
from gateway.admin.api import OrderHandlers, TenantHandlers
from gateway.admin.auth import Access
from gateway.admin.calls import CallHandlers
from gateway.admin.events import RecentEvents
from gateway.admin.gauges import GaugeCollector, MetricTable, family_of
from gateway.admin.metrics import Metrics
from gateway.admin.page.handlers import PageHandlers, current_status
from gateway.admin.pipeline import PipelineHandlers
from gateway.admin.status import attention, first_runbook, for_everyone, obstacles
from gateway.admin.view import GatewayView
from gateway.runbooks import Runbook
from uploaders.redact import redact


class _Health(msgspec.Struct):
    status: str
    reasons: tuple[str, ...] = ()
    runbook: str | msgspec.UnsetType = msgspec.UNSET
    """What to do about them; not there where there are none."""


class _Readiness(_Health):
    attention: tuple[str, ...] = ()
    """What an operator should do all the same."""


class AdminHandlers:
    """Answers the requests of the admin listener."""

    def __init__(self, gateway: GatewayView, metrics: Metrics, events: RecentEvents, access: Access) -> None:
        """Registers the gauges of `gateway` with the metrics."""
        self._gateway = gateway
        self._access = access
        self._metrics = metrics
        self._events = events
        self._gauges = GaugeCollector(gateway)
        metrics.registry.register(self._gauges)

    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics, in the text format that the scraper asks for."""
        await self._gauges.prepare()
        return exposition(self._metrics.registry, request)

    async def openapi(self, _request: web.Request) -> web.Response:
        """What can be asked here, as OpenAPI."""
        return web.Response(body=permissions.document(), content_type="application/json", headers=HEADERS)

    async def healthz(self, _request: web.Request) -> web.Response:
        """Liveness: the process answers, whatever disk and destinations do."""
        return answer(_Health("ok"))

    async def readyz(self, _request: web.Request) -> web.Response:
        """Readiness: 200 if posts can be accepted, else 503 with the reasons."""
        stats = self._gateway.spool_stats()
        closed = await self._gateway.intake_obstacle()
        found, notes = obstacles(self._gateway.lifecycle, stats, closed), attention(stats)
        readiness = _Readiness(
            "not ready" if found else "ready",
            tuple(redact(each.text) for each in found),
            first_runbook(found, notes) or msgspec.UNSET,
            tuple(redact(each.text) for each in notes),
        )
        return answer(readiness, status=503 if found else 200)

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
    handlers = AdminHandlers(gateway, metrics, events, access)
    app = web.Application(client_max_size=LARGEST_REQUEST, middlewares=[access.guard, explained])
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


# A worker: metrics, health and readiness.


@dataclass(frozen=True, slots=True)
class WorkFigures:
    """A worker at one moment."""

    messages: Mapping[str, int]
    """Messages by what became of them: new, duplicate, dead, dropped."""
    unaccounted: int
    rebalances: int
    commit_failures: int
    partitions: int
    lags: Mapping[tuple[str, int], int]
    obstacles: tuple[str, ...] = field(default=())
    """Why it does not work at the moment."""

    def in_one_line(self) -> str:
        """What `systemctl status` shows."""
        return "; ".join(self.obstacles) or f"working; {self.messages['new']:,} messages stored"


COUNTERS: Final[MetricTable] = {
    "work_messages": (
        "Messages read by a worker: new, duplicate (already in the store), dead (moved to the dead-letter topic), or "
        "dropped (their partition went to another worker, which reads them again).",
        ("result",),
    ),
    "work_dead": ("Messages that no store accepts, moved to the dead-letter topic with the reason.", ()),
    "work_rebalances": ("How often partitions were assigned to this worker or revoked.", ()),
    "work_commit_failures": (
        "Offset commits that failed after the messages were stored; the messages are read again.",
        (),
    ),
}
GAUGES: Final[MetricTable] = {
    "work_lag": (
        "Messages of a partition that this worker has not stored and committed yet.",
        ("topic", "partition"),
    ),
    "work_partitions": ("Partitions assigned to this worker.", ()),
    "work_unaccounted": (
        "Messages that were read and are neither in hand, stored, dead nor dropped, by independent counts. Must be 0.",
        (),
    ),
    "work_up": ("1 while the worker is in its group and its store accepts writes, else 0.", ()),
}


class WorkCollector(Collector):
    """Reads the figures of a worker when they are asked for."""

    def __init__(self, figures: Callable[[], WorkFigures]) -> None:
        self._figures = figures

    def describe(self) -> Iterator[Metric]:
        """The metrics without values, so that registering reads nothing."""
        yield from (_counter(name) for name in COUNTERS)
        yield from (_gauge(name) for name in GAUGES)

    def collect(self) -> Iterator[Metric]:
        """As they stand."""
        figures = self._figures()
        messages = _counter("work_messages")
        for result, count in figures.messages.items():
            messages.add_metric((result,), count)
        yield messages
        yield _counter("work_dead", figures.messages["dead"])
        yield _counter("work_rebalances", figures.rebalances)
        yield _counter("work_commit_failures", figures.commit_failures)
        lag = _gauge("work_lag")
        for (topic, partition), behind in figures.lags.items():
            lag.add_metric((topic, str(partition)), behind)
        yield lag
        yield _gauge("work_partitions", figures.partitions)
        yield _gauge("work_unaccounted", figures.unaccounted)
        yield _gauge("work_up", float(not figures.obstacles))


_counter = partial(family_of, CounterMetricFamily, COUNTERS)
_gauge = partial(family_of, GaugeMetricFamily, GAUGES)


def build_worker_app(figures: Callable[[], WorkFigures], metrics: Metrics, access: Access) -> web.Application:
    """The application of a worker's admin listener; all of it is open, as a gateway's metrics and health are."""
    metrics.registry.register(WorkCollector(figures))

    async def show_metrics(request: web.Request) -> web.Response:
        """See docs/kafka.md."""
        return exposition(metrics.registry, request)

    async def healthz(_request: web.Request) -> web.Response:
        """Liveness: a consumer that cannot go on ends the process."""
        return answer(_Health("ok"))

    async def readyz(_request: web.Request) -> web.Response:
        """Readiness: 200 while it has joined its group and its store takes what it writes."""
        reasons = tuple(redact(reason) for reason in figures().obstacles)
        if not reasons:
            return answer(_Health("ready"))
        return answer(_Health("not ready", reasons, Runbook.WORKER), status=503)

    app = web.Application(middlewares=[access.guard, explained])
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    return app
