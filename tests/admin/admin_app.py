"""The real admin application: over figures that a test decides, or over a real spool."""

from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.test_utils import TestClient
from msgspec.structs import replace as changed

from gateway.admin.app import build_admin_app
from gateway.admin.audit import AuditLog
from gateway.admin.auth import Access
from gateway.admin.events import Observers, RecentEvents
from gateway.admin.history import Recorder
from gateway.admin.metrics import Metrics
from gateway.admin.permissions import Role
from gateway.admin.view import BackPressure, Lifecycle, Phase, SettingInForce
from gateway.calls import LiveEntry
from gateway.intake.accept import Owner
from gateway.intake.memory import Body
from gateway.intake.staging import StagingArea, Workers, prepare_directory
from gateway.live_calls import ThrottleStatus
from gateway.operations.erasure import CallEraser
from gateway.operations.schemas import Reloaded
from gateway.operations.selection import Accepts
from gateway.operations.service import DeliveryAdmin
from gateway.operations.tenants import TenantAdmin
from gateway.sdk_outbox.model import OutboxState, OutboxStatus
from spool.errors import SpoolError
from spool.records import (
    DeadLetter,
    Delivery,
    DeliveryState,
    Form,
    Fragment,
    Lane,
    NewDelivery,
    Record,
    StoredFragment,
    principal_of,
)
from spool.salvage.service import SalvageService
from spool.stats import LaneCounts, SpoolStats, TracedDelivery, TracedRecord
from spool.store import Spool
from tests.spool.spool_parts import BUCKET, CORE, DETAIL, ENDPOINT, Clock, a_record, opened, split_fragments
from uploaders.base import BreakerState, DestinationStatus
from uploaders.dispatch.dispatcher import Dispatcher
from uploaders.pipeline.service import Pipeline
from uploaders.stores.routing import CallReads, Routing
from uploaders.stores.store import Store

NOW = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""

RECORD = Record(
    record_id=7,
    uid="spool-7",
    call_id="call-1",
    agent_id="agent",
    event="call_ended",
    environment="prod",
    digest=bytes(32),
    raw_bytes=12_000_000,
    stored_bytes=2_400_000,
    accepted_at=NOW - 5_000,
    token_id=None,
    first_chunk=1,
    fragments={Fragment.BASE: StoredFragment(1, 1, 1), Fragment.REST: StoredFragment(1, 1, 1)},
)

STATS = SpoolStats(
    used_bytes=3_400_000_000,
    limit_bytes=10_000_000_000,
    lanes={
        ("endpoint", Lane.CORE): LaneCounts(owed=110, ready=6, waiting=3, held=1, delivered=100, queued_bytes=5_000),
        ("endpoint", Lane.DETAIL): LaneCounts(owed=42, ready=40, dead=2, queued_bytes=480_000_000),
        ("gone", Lane.CORE): LaneCounts(owed=3, ready=3, queued_bytes=6_000),
    },
    oldest_pending={("endpoint", Lane.CORE): NOW - 90_000, ("endpoint", Lane.DETAIL): NOW - 7_300_000},
    unaccounted=0,
    failure=None,
    dead_reasons={("endpoint", Lane.DETAIL): {"HTTP 400: no x, token=hush": 1, "HTTP 409: no": 1}},
    reserve_bytes=500_000_000,
)

ENDPOINT_DOWN = DestinationStatus(
    "endpoint",
    "http",
    configured=True,
    up=False,
    reason="503 Service Unavailable",
    retry_at=NOW + 30_000,
    in_flight={Lane.CORE: 1},
    breaker=BreakerState.OPEN,
    since=NOW - 60_000,
    slots={Lane.CORE: 8, Lane.DETAIL: 2},
)
LOCAL_UP = DestinationStatus(
    "local", "file", configured=True, up=True, reason="", retry_at=None, in_flight={Lane.CORE: 2, Lane.DETAIL: 1}
)


LOCAL_TOKEN = "local-token-of-the-tests"
"""What the spool's directory of a world would hold."""
AUTHORIZED = {"Authorization": f"Bearer {LOCAL_TOKEN}"}
RUNNING = Lifecycle(Phase.RUNNING)
NO_CALLS = ThrottleStatus(live_calls=0, slowed=False, rate=None)


@dataclass
class AdminFigures:
    """What the admin side reads, for a test to change."""

    stats: SpoolStats | None = STATS
    destinations: tuple[DestinationStatus, ...] = (ENDPOINT_DOWN, LOCAL_UP)
    outboxes: tuple[OutboxStatus, ...] = (OutboxStatus("/tmp/outbox.db", OutboxState.UNUSABLE, "damaged", 2),)
    lifecycle: Lifecycle = RUNNING
    calls: Mapping[str, tuple[TracedRecord, ...]] = field(default_factory=dict)
    trace_error: SpoolError | None = None
    delivery_admin: DeliveryAdmin | None = None
    spool: Spool | None = None
    token: str | None = None
    tokens: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    audit: AuditLog | None = None
    now: int = NOW
    throttle: ThrottleStatus | None = NO_CALLS
    live_calls: tuple[LiveEntry, ...] = ()
    intake_obstacle: str | None = None
    call_store: Store | None = None
    pipeline: Pipeline | None = None
    tenant_admin: TenantAdmin | None = None
    call_eraser: CallEraser | None = None
    spool_token: str | None = LOCAL_TOKEN
    """None while the gateway is starting."""
    resumed: list[str] = field(default_factory=list)
    """The destinations that were ordered to be tried."""
    settings: tuple[SettingInForce, ...] = ()
    on_resume: Callable[[str], bool | None] | None = None
    """Takes such an order."""

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.events = RecentEvents(lambda: self.now)
        tokens = self.tokens or ({Role.ADMIN: (self.token,)} if self.token else {})
        self.access = Access(
            tokens, audit=self.audit, refused=self.metrics.admin_refused, clock=lambda: self.now / 1000
        )
        if self.spool_token is not None:
            self.access.accept_spool_token(self.spool_token)
        self.recorder = Recorder(self.metrics, self.events, lambda: self.now)
        self.app = build_admin_app(View(self), self.metrics, self.events, self.access)


class View:
    """The world as the admin side sees it: the `GatewayView` of the tests."""

    def __init__(self, world: AdminFigures) -> None:
        self._world = world

    @property
    def salvages(self) -> SalvageService | None:
        return self._world.spool.salvage if self._world.spool else None

    @property
    def call_eraser(self) -> CallEraser | None:
        return self._world.call_eraser

    @property
    def tenant_admin(self) -> TenantAdmin | None:
        return self._world.tenant_admin

    @property
    def pipeline(self) -> Pipeline | None:
        return self._world.pipeline

    @property
    def lifecycle(self) -> Lifecycle:
        return self._world.lifecycle

    @property
    def delivery_admin(self) -> DeliveryAdmin | None:
        return self._world.delivery_admin

    @property
    def call_store(self) -> CallReads | None:
        store = self._world.call_store
        return None if store is None else CallReads(store, Routing(), self._world.metrics, lambda: 1.0)

    @property
    def spool(self) -> Spool | None:
        return self._world.spool

    @property
    def receipts_seconds(self) -> float:
        return 86_400.0

    @property
    def recorder(self) -> Recorder:
        return self._world.recorder

    @property
    def intake_address(self) -> str:
        return "http://127.0.0.1:7717"

    def targets(self) -> Mapping[str, str]:
        return {"endpoint": "https://collect.example/dev/send-call-log"}

    def settings(self) -> tuple[SettingInForce, ...]:
        return self._world.settings

    def disk_free_bytes(self) -> int | None:
        return 10_000_000_000

    def audit_lines_dropped(self) -> int:
        return self._world.audit.dropped if self._world.audit else 0

    def now(self) -> int:
        return self._world.now

    def spool_stats(self) -> SpoolStats | None:
        return self._world.stats

    def destinations(self) -> tuple[DestinationStatus, ...]:
        return self._world.destinations

    def outboxes(self) -> tuple[OutboxStatus, ...]:
        return self._world.outboxes

    def back_pressure(self) -> BackPressure | None:
        return BackPressure(posts_in_flight=3, posts_waiting=2, memory_bytes=5_000_000, memory_limit_bytes=64 << 20)

    def drain_throttle(self) -> ThrottleStatus | None:
        return self._world.throttle

    def live_calls(self) -> tuple[LiveEntry, ...]:
        return self._world.live_calls

    def resume(self, destination: str) -> bool | None:
        self._world.resumed.append(destination)
        if self._world.on_resume is not None:
            return self._world.on_resume(destination)
        return {each.name: not each.up for each in self._world.destinations}.get(destination)

    async def reload(self) -> Reloaded:
        return Reloaded(applied=True)

    async def intake_obstacle(self) -> str | None:
        return self._world.intake_obstacle

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        if self._world.trace_error is not None:
            raise self._world.trace_error
        return self._world.calls.get(call_id, ())

    async def similar_call_ids(self, call_id: str) -> tuple[str, ...]:
        return tuple(get_close_matches(call_id, list(self._world.calls)))

    async def newest(self, after: int, limit: int) -> tuple[TracedRecord, ...]:
        records = [record for of_call in self._world.calls.values() for record in of_call]
        return tuple(record for record in records if record.record.record_id > after)[-limit:]


def delivery(form: Form = Form.CORE, destination: str = "endpoint", **of_record: object) -> Delivery:
    """A delivery of the record, as the dispatcher tells of it."""
    lane = Lane.DETAIL if form is Form.DETAIL else Lane.CORE
    record = changed(RECORD, **of_record)
    return Delivery(record, destination, form, lane, attempts=0, due_at=0, first_failed_at=None)


def traced(
    *deliveries: TracedDelivery, superseded: bool = False, fragments: dict[Fragment, StoredFragment] | None = None
) -> TracedRecord:
    """The record with these deliveries."""
    record = RECORD if fragments is None else changed(RECORD, fragments=fragments)
    return TracedRecord(record, superseded=superseded, settled_at=None, deliveries=deliveries)


def traced_delivery(
    form: Form,
    state: DeliveryState,
    *,
    destination: str = "endpoint",
    settled_at: int | None = None,
    error: str | None = None,
) -> TracedDelivery:
    """One delivery as the trace has it."""
    lane = Lane.DETAIL if form is Form.DETAIL else Lane.CORE
    attempts = 0 if error is None else 3
    return TracedDelivery(destination, form, lane, state, attempts, NOW, settled_at, error)


# Over a real spool, with short ways of asking it.


AnyAdmin = TypeVar("AnyAdmin", bound="SpoolAdmin")
Client = TestClient[web.Request, web.Application]

OTHER = "other"
OF_ACME = "of-acme"
TAKES = {
    ENDPOINT: Accepts(frozenset(Form), ordered=True),
    OTHER: Accepts(frozenset(Form) - {Form.NOTICE}, ordered=True),
    BUCKET: Accepts(frozenset({Form.WHOLE, Form.CORE, Form.DETAIL}), ordered=False),
    OF_ACME: Accepts(frozenset(Form), ordered=True, tenants=frozenset({"acme"})),
}


class WithoutRules:
    """Nothing is redacted, and there are no tenants."""

    def owner_of_imported(self, _tenant: str | None, _agent_id: str | None, key: str | None) -> Owner:
        return Owner(None, principal_of(None, key))

    def key_for(self, _tenant: str | None, agents_key: str | None) -> str | None:
        return agents_key

    async def redacted(self, _body: Body, _tenant: str | None) -> None:
        return None


class SpoolAdmin:
    """A spool with its orders behind the admin listener."""

    def __init__(self, spool: Spool, clock: Clock, staging: StagingArea) -> None:
        self.spool = spool
        self.clock = clock
        self.dispatcher = Dispatcher(spool, {}, clock, lambda: 0.0, Observers(Metrics(), RecentEvents(clock)))
        self.delivery_admin = DeliveryAdmin(spool, staging, self.dispatcher, TAKES, clock, WithoutRules())
        self.app = AdminFigures(delivery_admin=self.delivery_admin).app

    async def buried(
        self,
        call_id: str,
        *deliveries: NewDelivery,
        reason: str = "HTTP 400",
        token: str | None = None,
        rest: bytes = b'"rest": 1',
    ) -> Delivery:
        """A record whose first delivery is a dead letter; a core with its detail unless told otherwise."""
        new = a_record(call_id, *(deliveries or (CORE, DETAIL)), fragments=split_fragments(rest), token=token)
        accepted = await self.spool.accept(new)
        await self.spool.settle(accepted.ready[0], DeadLetter(reason))
        return accepted.ready[0]


class AskedSpoolAdmin(SpoolAdmin):
    """The same, asked over a real socket."""

    def __init__(self, spool: Spool, clock: Clock, staging: StagingArea) -> None:
        super().__init__(spool, clock, staging)
        self.client: Client

    async def list(self, **query: Any) -> Any:
        """A page of deliveries."""
        answer = await self.client.get("/api/deliveries", params=query)
        assert answer.status == 200, await answer.text()
        return await answer.json()

    async def order(self, name: str, select: dict[str, Any] | None = None, **fields: Any) -> Any:
        """One step of an order."""
        answer = await self.client.post(f"/api/orders/{name}", json={"select": select or {}, **fields})
        assert answer.status == 200, await answer.text()
        return await answer.json()


@asynccontextmanager
async def spool_admin(directory: Path, made: type[AnyAdmin]) -> AsyncIterator[AnyAdmin]:
    """What was `made`, over a new spool."""
    clock = Clock()
    async with opened(directory, clock=clock, destinations=TAKES) as spool:
        with ThreadPoolExecutor(1) as executor:
            yield made(spool, clock, StagingArea(prepare_directory(directory), spool, Workers(executor)))
