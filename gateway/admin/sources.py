"""What the admin side asks of the rest of the gateway: the narrow interfaces it reads from."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gateway.live_calls import CourtesyFigures
from gateway.operations.service import OrderDesk
from gateway.sdk_outbox.rows import OutboxStatus
from spool.salvage.service import Salvages
from spool.stats import SpoolStats, TracedRecord
from uploaders.base import DestinationStatus


class Phase(StrEnum):
    """Where the gateway stands between its start and its end."""

    STARTING = "starting"
    """Not yet able to take posts."""
    RUNNING = "running"
    """Takes posts, as far as the spool can."""
    STOPPING = "stopping"
    """Takes no new posts."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The phase of the gateway, and what it is waiting for or why it stops."""

    phase: Phase
    reasons: tuple[str, ...] = ()


class SpoolSource(Protocol):
    """Reads the spool's figures from memory."""

    def __call__(self) -> SpoolStats | None:
        """The spool at this moment; None while it is not open."""
        ...


class TraceSource(Protocol):
    """Looks up what came of a call."""

    def __call__(self, call_id: str) -> Awaitable[tuple[TracedRecord, ...]]:
        """The records of a call, the oldest first; none if it is unknown.

        Raises `spool.errors.SpoolError` where the spool cannot be read.
        """
        ...


class DestinationSource(Protocol):
    """Reads from memory how the destinations do."""

    def __call__(self) -> tuple[DestinationStatus, ...]:
        """Every destination, in the order of the configuration; those only the spool knows come last."""
        ...


class DeskSource(Protocol):
    """Knows where orders are taken."""

    def __call__(self) -> OrderDesk | None:
        """The desk; None while the spool is not open."""
        ...


class ResumeSource(Protocol):
    """Takes the order to try a destination at once."""

    def __call__(self, destination: str) -> bool | None:
        """Whether it waited for anything; None where none is configured under this name."""
        ...


class CourtesySource(Protocol):
    """Reads from memory what details leave to live calls."""

    def __call__(self) -> CourtesyFigures | None:
        """How it is at this moment; None while the spool is not open."""
        ...


class SalvageSource(Protocol):
    """Knows who brings what other databases hold."""

    def __call__(self) -> Salvages | None:
        """None while the spool is not open."""
        ...


class LifecycleSource(Protocol):
    """Reads the phase of the gateway."""

    def __call__(self) -> Lifecycle:
        """The phase at this moment."""
        ...


class OutboxSource(Protocol):
    """Reads from memory how the watched outboxes do."""

    def __call__(self) -> tuple[OutboxStatus, ...]:
        """Every outbox, in the order of the configuration."""
        ...


Clock = Callable[[], int]
"""Milliseconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that the admin side reads, and whom it takes orders to."""

    spool: SpoolSource
    trace: TraceSource
    destinations: DestinationSource
    lifecycle: LifecycleSource
    desk: DeskSource
    resume: ResumeSource
    courtesy: CourtesySource
    salvages: SalvageSource
    clock: Clock
    outboxes: OutboxSource
