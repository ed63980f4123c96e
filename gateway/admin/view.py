"""What the admin side asks of the rest of the gateway: one view, read from memory but for the trace of a call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from gateway.admin.history import Recorder
from gateway.calls import LiveEntry
from gateway.live_calls import ThrottleStatus
from gateway.operations.schemas import Reloaded
from gateway.operations.service import DeliveryAdmin
from gateway.operations.tenants import TenantAdmin
from gateway.sdk_outbox.model import OutboxStatus
from spool.salvage.service import SalvageService
from spool.stats import SpoolStats, TracedRecord
from spool.store import Spool
from uploaders.base import DestinationStatus
from uploaders.stores.routing import CallReads

if TYPE_CHECKING:
    from gateway.operations.erasure import CallEraser
    from uploaders.pipeline.service import Pipeline


class Phase(StrEnum):
    """Where the gateway is between its start and its end."""

    STARTING = "starting"
    """Not yet able to accept posts."""
    RUNNING = "running"
    """Accepts posts, as far as the spool can."""
    STOPPING = "stopping"
    """A graceful shutdown: it drains, then ends."""
    STOPPED = "stopped"
    """No gateway runs: a command looks into its spool."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The phase of the gateway, and what it waits for or why it stops."""

    phase: Phase
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackPressure:
    """How busy the intake is: posts wait for memory before agents are answered 503."""

    posts_in_flight: int
    posts_waiting: int
    memory_bytes: int
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class SettingInForce:
    """One setting, as people write it; a secret is masked."""

    key: str
    value: str
    origin: str
    """`default`, or the file, variable or option that set it."""


class GatewayView(Protocol):
    """The running gateway as the admin listener sees it. What belongs to the spool is None while that is not open."""

    @property
    def lifecycle(self) -> Lifecycle:
        """The phase at this moment."""

    @property
    def delivery_admin(self) -> DeliveryAdmin | None:
        """Lists deliveries and carries out orders about them."""

    @property
    def tenant_admin(self) -> TenantAdmin | None:
        """Lists tenants and assigns agents to them; None without tenants."""

    @property
    def call_eraser(self) -> "CallEraser | None":
        """Erases calls wherever this gateway reaches them."""

    @property
    def salvages(self) -> SalvageService | None:
        """Imports what other databases hold."""

    @property
    def call_store(self) -> CallReads | None:
        """Answers what is asked of calls; None without a destination that is one."""

    @property
    def pipeline(self) -> "Pipeline | None":
        """Works on calls after they ended, and finds similar ones; None where none is configured."""

    @property
    def spool(self) -> Spool | None:
        """Lists the calls that are in it."""

    @property
    def receipts_seconds(self) -> float:
        """How long delivered calls are known."""

    @property
    def recorder(self) -> Recorder:
        """Knows the last hours."""

    @property
    def intake_address(self) -> str:
        """Where call logs are posted to."""

    def targets(self) -> Mapping[str, str]:
        """The addresses of configured destinations, without secrets."""

    def settings(self) -> Sequence[SettingInForce]:
        """The settings in force, secrets masked."""

    def disk_free_bytes(self) -> int | None:
        """What is free on the disk of the spool's directory; None where that cannot be known."""

    def audit_lines_dropped(self) -> int:
        """How many lines of the audit log were lost."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""

    def spool_stats(self) -> SpoolStats | None:
        """The spool at this moment."""

    def destinations(self) -> tuple[DestinationStatus, ...]:
        """Every destination, in the order of the configuration; those that only the spool knows come last."""

    def outboxes(self) -> tuple[OutboxStatus, ...]:
        """Every watched outbox of the SDK, in the order of the configuration."""

    def back_pressure(self) -> BackPressure | None:
        """How busy the intake is."""

    def drain_throttle(self) -> ThrottleStatus | None:
        """How far details are held back for live calls."""

    def live_calls(self) -> tuple[LiveEntry, ...]:
        """The calls that are watched, and those whose agents were lost not long ago; who was silent longest first."""

    async def intake_obstacle(self) -> str | None:
        """Why one of the ways in is closed, besides the spool itself; None where none is."""

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """The records of a call, the oldest first; none if it is unknown.

        Raises `spool.errors.SpoolError` where the spool cannot be read.
        """

    async def similar_call_ids(self, call_id: str) -> tuple[str, ...]:
        """Call ids that may have been meant. Raises like `trace`."""

    async def newest(self, after: int, limit: int) -> tuple[TracedRecord, ...]:
        """The newest records whose number is above `after`, the oldest first. Raises like `trace`."""

    async def reload(self) -> Reloaded:
        """Read the settings again, check them, and begin to apply them if all of them can be."""

    def resume(self, destination: str) -> bool | None:
        """Try a destination at once. Whether it waited for anything; None where none is configured under this name."""
