"""A spool and destinations whose figures a test decides, read by the real admin application."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace as changed

from gateway.admin.app import build_admin_app
from gateway.admin.events import RecentEvents
from gateway.admin.metrics import Metrics
from gateway.admin.sources import Lifecycle, Phase, Sources
from gateway.live_calls import CourtesyFigures
from gateway.operations.service import OrderDesk
from gateway.sdk_outbox.rows import OutboxState, OutboxStatus
from spool.errors import SpoolError
from spool.records import Delivery, DeliveryState, Form, Fragment, Lane, Record, StoredFragment
from spool.stats import LaneCounts, SpoolStats, TracedDelivery, TracedRecord
from uploaders.base import BreakerState, DestinationStatus

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


RUNNING = Lifecycle(Phase.RUNNING)
NO_CALLS = CourtesyFigures(live_calls=0, slowed=False, rate=None)


@dataclass
class World:
    """What the admin side reads, for a test to change."""

    stats: SpoolStats | None = STATS
    destinations: tuple[DestinationStatus, ...] = (ENDPOINT_DOWN, LOCAL_UP)
    outboxes: tuple[OutboxStatus, ...] = (OutboxStatus("/tmp/outbox.db", OutboxState.UNUSABLE, "damaged", 2),)
    lifecycle: Lifecycle = RUNNING
    calls: Mapping[str, tuple[TracedRecord, ...]] = field(default_factory=dict)
    trace_error: SpoolError | None = None
    desk: OrderDesk | None = None
    token: str | None = None
    now: int = NOW
    courtesy: CourtesyFigures | None = NO_CALLS
    resumed: list[str] = field(default_factory=list)
    """The destinations that were ordered to be tried."""
    on_resume: Callable[[str], bool | None] | None = None
    """Takes such an order."""

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.events = RecentEvents(lambda: self.now)
        self.app = build_admin_app(self.sources, self.metrics, self.events, self.token)

    @property
    def sources(self) -> Sources:
        return Sources(
            spool=lambda: self.stats,
            trace=self._trace,
            destinations=lambda: self.destinations,
            lifecycle=lambda: self.lifecycle,
            desk=lambda: self.desk,
            resume=self._resume,
            courtesy=lambda: self.courtesy,
            salvages=lambda: None,
            clock=lambda: self.now,
            outboxes=lambda: self.outboxes,
        )

    def _resume(self, name: str) -> bool | None:
        self.resumed.append(name)
        if self.on_resume is not None:
            return self.on_resume(name)
        return {each.name: not each.up for each in self.destinations}.get(name)

    async def _trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        if self.trace_error is not None:
            raise self.trace_error
        return self.calls.get(call_id, ())


def delivery(form: Form = Form.CORE, destination: str = "endpoint", **of_record: object) -> Delivery:
    """A delivery of the record, as the dispatcher tells of it."""
    lane = Lane.DETAIL if form is Form.DETAIL else Lane.CORE
    record = changed(RECORD, **of_record)  # type: ignore[arg-type]  # the test names fields of Record
    return Delivery(record, destination, form, lane, attempts=0, due_at=0, first_failed_at=None)


def traced(*deliveries: TracedDelivery, superseded: bool = False, fragments: object = None) -> TracedRecord:
    """The record with these deliveries."""
    record = RECORD if fragments is None else changed(RECORD, fragments=fragments)  # type: ignore[arg-type]  # a mapping
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
