"""Stats: what people and metrics see of a spool, and what became of records. Plain data, like `spool.records`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spool.records import DeliveryKey, DeliveryState, Form, Lane, Outline, Record

HELD_WITH_DEAD = "held with a dead letter of its record"
"""The reason of a detail whose core is a dead letter, and of a notice whose object is."""
USUAL_LARGE_BYTES = 4 << 20
"""What a call log of 15 MB takes in the spool, about."""


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """How the deliveries of one destination and lane stand.

    `delivered`, `expired` and `discarded` only grow, and so does `owed`, except for deliveries that were replaced by
    others (`spool.records.Redirect`), or that were moved to another destination; the others are levels.
    """

    owed: int = 0
    ready: int = 0
    waiting: int = 0
    held: int = 0
    dead: int = 0
    delivered: int = 0
    expired: int = 0
    discarded: int = 0
    queued_bytes: int = 0
    """Raw bytes that the queued deliveries carry: a core its own, a detail the rest, a notice none."""

    @property
    def queued(self) -> int:
        """Deliveries still to be made."""
        return self.ready + self.waiting + self.held

    @property
    def unaccounted(self) -> int:
        """Zero, unless a delivery was lost: promise 2."""
        return self.owed - self.queued - self.dead - self.delivered - self.expired - self.discarded


@dataclass(frozen=True, slots=True)
class LiveCall:
    """A call that began and has not ended. Times in milliseconds."""

    call_id: str
    principal: str
    accepted_at: int
    happened_at: int | None
    """When it began, by the sender's own times."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to deliver that failed, or that succeeded after others had failed. Times in milliseconds."""

    number: int
    """From 1; there may be gaps, since the first one is kept, and the latest."""
    ended_at: int
    took: int | None
    """None where nothing was sent, or where that is not known."""
    outcome: str
    """delivered, retry, held, diverted or dead."""
    answer: str
    """What the destination answered, or why nothing was sent."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """An attempt that failed, and what it was to deliver."""

    call_id: str
    form: Form
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call as the spool lists it: its newest record."""

    record: Record
    outline: Outline
    superseded: bool
    deliveries: tuple["TracedDelivery", ...]


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls to list; what is None selects nothing."""

    tenant: str | None = None
    agent: str | None = None
    id_prefix: str | None = None
    number_end: str | None = None
    """The last digits of the caller's number, three at most."""
    state: str | None = None
    """`waits`, `dead` or `sent`."""
    before: int | None = None
    """Accepted before this time."""
    after: int | None = None
    """Older than this record, by its number."""


@dataclass(frozen=True, slots=True)
class CallPage:
    """Calls, the newest first."""

    rows: tuple[CallRow, ...]
    older: int | None
    """`CallFilter.after` of the next page; None where that was all."""
    searched_all: bool
    """False where it was looked for long enough, and older records were not looked at."""


@dataclass(frozen=True, slots=True)
class TracedDelivery:
    """One delivery of a record as a person sees it."""

    destination: str
    form: Form
    lane: Lane
    state: DeliveryState
    attempts: int
    due_at: int
    settled_at: int | None
    error: str | None
    history: tuple[Attempt, ...] = ()
    """Where it was asked for: the attempts that failed, and the one that succeeded after them."""
    location: str | None = None
    """Where its object lies, as its destination reported it."""


@dataclass(frozen=True, slots=True)
class TracedRecord:
    """One record of a call as a person sees it, receipts included."""

    record: Record
    superseded: bool
    settled_at: int | None
    deliveries: tuple[TracedDelivery, ...]


@dataclass(frozen=True, slots=True)
class OpenDelivery:
    """A delivery that has not ended, queued or a dead letter, with the record whose payload it keeps."""

    record: Record
    delivery: TracedDelivery

    @property
    def key(self) -> DeliveryKey:
        """What names it in orders, and as the place where the next page begins."""
        return DeliveryKey(self.record.record_id, self.delivery.destination, self.delivery.form)

    @property
    def since(self) -> int:
        """Since when it is as it is: a dead letter since it became one, any other since its record was accepted."""
        settled_at = self.delivery.settled_at
        return self.record.accepted_at if settled_at is None else settled_at


@dataclass(frozen=True, slots=True)
class QuarantinedDatabase:
    """A corrupt database that was moved into quarantine."""

    directory: Path
    reason: str
    size: int
    """Bytes of its files."""
    imported: bool
    """Whether its records were imported into the present database already."""


@dataclass(frozen=True, slots=True)
class TenantUse:
    """What a tenant has in the spool, what it may have, and how long it is kept. Times in milliseconds."""

    stored_bytes: int
    """Of its records that have not ended."""
    share_bytes: int | None
    """What its share of the quota allows; None: all of it."""
    receipts_keep: int
    expire_after: int | None
    """None: what cannot be delivered stays."""


@dataclass(frozen=True, slots=True)
class SpoolStats:
    """The spool at one moment, read from memory: asking costs nothing."""

    used_bytes: int
    """Database pages in use, write-ahead log, headroom and staging files."""
    limit_bytes: int
    lanes: Mapping[tuple[str, Lane], LaneCounts]
    """Every destination that was ever owed something, those that the configuration no longer has included."""
    oldest_pending: Mapping[tuple[str, Lane], int]
    """When the oldest record with a queued delivery was accepted; lanes with none are missing."""
    unaccounted: int
    """Deliveries owed that are neither queued, ended nor dead, by independent counts. Must be 0."""
    failure: str | None
    """Why the spool cannot accept records at the moment, if so."""
    shortage: str | None = None
    """Why the disk has no room, if so: nothing large may go in, and nothing at all without its headroom."""
    reserve_bytes: int = 0
    """The last part of the limit, which only records without details may use."""
    dead_reasons: Mapping[tuple[str, Lane], Mapping[str, int]] = field(default_factory=dict)
    """How many of the newest dead letters of a lane have each reason, as of some seconds ago."""
    quarantined: tuple[QuarantinedDatabase, ...] = ()
    """Corrupt databases that are in quarantine still."""
    oldest_ready: Mapping[tuple[str, Lane], int] = field(default_factory=dict)
    """As `oldest_pending`, of what waits for its destination alone: not of a notice that waits for its object."""

    @property
    def full_of_details(self) -> bool:
        """Whether, by the quota, a large record of usual size does not fit any more."""
        room = self.limit_bytes - self.reserve_bytes - self.used_bytes
        return room < min(USUAL_LARGE_BYTES, self.limit_bytes // 16)
