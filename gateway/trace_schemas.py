"""The documents of a trace: what came of the records of a call, as the intake and the admin API answer it.

Plain data that imports nothing of the spool: every command that asks a gateway loads it.
"""

from enum import StrEnum

import msgspec


class Stage(StrEnum):
    """The state of a record, the most urgent first."""

    SUPERSEDED = "superseded"
    """A later event of the call had been accepted before: recorded, and sent to nobody."""
    DEAD = "dead"
    """At least one delivery is a dead letter."""
    HELD = "held"
    """At least one delivery is held until its reason is resolved."""
    QUEUED = "queued"
    """Accepted, but not yet delivered to every destination."""
    CORE_SENT = "core_sent"
    """Every destination has the core; a detail or a notice is still queued."""
    GIVEN_UP = "given_up"
    """At least one delivery expired or was discarded; nothing is queued."""
    DELIVERED = "delivered"
    """Everything is delivered."""


class AttemptTrace(msgspec.Struct, frozen=True, kw_only=True):
    """A failed attempt, or one that succeeded after failures."""

    number: int
    """Counted from 1; of many attempts, the first and the latest are kept."""
    ended_at: str
    took_seconds: float | None
    """None if nothing was sent."""
    outcome: str
    """`delivered`, `retry`, `held`, `diverted` or `dead`."""
    status: str
    """`503` of an HTTP response, `AccessDenied` of S3; else the kind of failure, in a word or two."""
    answer: str
    """The response of the destination, or why nothing was sent, with secrets masked."""


class DeliveryTrace(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery. Times are ISO 8601 in UTC."""

    destination: str
    form: str
    lane: str
    state: str
    attempts: int
    """How many attempts have failed."""
    next_attempt_at: str | None
    """When the next attempt is due; None unless it is ready."""
    settled_at: str | None
    """When it was delivered or given up."""
    error: str | None
    location: str | None = None
    """The location of its object, as the destination reported it."""
    history: tuple[AttemptTrace, ...] = ()
    """Failed attempts, and the one that succeeded after them."""


class RecordTrace(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the call. Times are ISO 8601 in UTC, sizes bytes."""

    record_id: str
    event: str
    agent_id: str | None
    environment: str | None
    accepted_at: str
    upload_method: str
    """`single` or `two_phase`."""
    sha256: str
    raw_bytes: int
    stored_bytes: int
    stage: Stage
    where: str
    """Where it is now, in a sentence."""
    core_sent_at: str | None
    """When the last destination had the core (or the whole); None while one has not."""
    detail_sent_at: str | None
    """When the last destination had the detail; None while one has not, or if there is none."""
    deliveries: tuple[DeliveryTrace, ...]


class NumberedTrace(msgspec.Struct, frozen=True, kw_only=True):
    """One of the newest records of all calls."""

    number: int
    """It grows with each record that is accepted."""
    call_id: str
    record: RecordTrace


class NewestTraces(msgspec.Struct, frozen=True, kw_only=True):
    """The newest records, the oldest of them first."""

    records: tuple[NumberedTrace, ...]


class CallTrace(msgspec.Struct, frozen=True, kw_only=True):
    """All records of a call, in the order of acceptance."""

    call_id: str
    records: tuple[RecordTrace, ...]
