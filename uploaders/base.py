"""The interfaces of this package: what an uploader is, and what it may use.

An uploader delivers to one kind of destination. It gets a delivery and a reader for its payload, makes one attempt and
returns the outcome. It has no queue, decides no retry time and never raises for what a destination or a network does.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from spool.records import (
    BreakerSnapshot,
    BreakerUpdate,
    Delivery,
    DeliveryKey,
    Due,
    Fragment,
    Lane,
    OfTenant,
    PartProgress,
    Record,
    Settlement,
    UploadProgress,
)


class Scope(StrEnum):
    """What an outcome applies to, besides the delivery that was attempted."""

    RECORD = "record"
    """Only this delivery."""
    CREDENTIAL = "credential"
    """Everything that this destination authenticates by the same token."""
    DESTINATION = "destination"
    """Everything for this destination."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination confirmed it. `location` says where the object is, for the notice about it."""

    location: str | None = None


RETRY_AFTER_LIMIT_SECONDS = 3600.0
"""A longer Retry-After is cut to this: a mistyped header must not make deliveries wait for a year."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """It may work later. `after_seconds` is what the destination asked for (Retry-After).

    `give_up_after_seconds` bounds how long this one reason is worth retrying; None leaves that to the policy.
    """

    reason: str
    scope: Scope = Scope.RECORD
    after_seconds: float | None = None
    give_up_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The destination rejects it. With scope RECORD it becomes a dead letter, otherwise a pause with a probe follows.

    `too_large`: its size alone was the reason. `maybe_address`: it is also what a wrong address says (404), so that a
    few in a row are no verdict about their records.
    """

    reason: str
    scope: Scope = Scope.RECORD
    too_large: bool = False
    maybe_address: bool = False


Outcome = Delivered | RetryLater | Refused


class PayloadReader(Protocol):
    """Reads and verifies the payload of records, one chunk at a time; holds no resources between chunks."""

    def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        """The stored zstd frames of a fragment, in order; each is a complete frame of at most 1 MiB raw.

        Raises `spool.errors.CorruptPayload` when a chunk is missing or does not match its checksum.
        """

    async def token(self, token_id: int) -> str | None:
        """The agent's own token by its id; None once it was overwritten."""


class Uploader(Protocol):
    """Delivers to one destination."""

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Make one attempt. It may be cancelled: the delivery is then still owed."""

    async def close(self) -> None:
        """Close connections and files. No attempt is under way when this is called."""


@dataclass(frozen=True, slots=True)
class CallToErase:
    """A call of which everything is to be taken back."""

    call_id: str
    tenants: frozenset[str] | None = None
    """Whose calls of this id are meant; None: everybody's."""
    uids: frozenset[str] = frozenset()
    """With tenants: the records of their calls, as far as receipts go back."""
    others: frozenset[str] = frozenset()
    """And those of other tenants' calls of the same id."""

    def has(self, uid: str | None) -> bool | None:
        """Whether what was made of this record belongs to it; None: nobody can tell any more."""
        if self.tenants is None or uid in self.uids:
            return True
        return False if uid in self.others else None

    def is_of(self, tenant: str | None) -> bool | None:
        """Whether what is this tenant's belongs to it; None for a tenant that nobody knows."""
        if self.tenants is None:
            return True
        return None if tenant is None else tenant in self.tenants


OF_NOBODY = "{} of the same id may be another tenant's, and no receipt says whose: an order without a tenant takes them"
"""What is said of what nobody can tell."""


@dataclass(frozen=True, slots=True)
class Erased:
    """What an uploader took back."""

    count: int = 0
    """Files or objects."""
    unreached: str | None = None
    """What could not be, and why; None where nothing is left."""
    again: bool = False
    """Whether a repetition may reach it."""


@runtime_checkable
class Eraser(Protocol):
    """An uploader that can take back what it delivered."""

    async def erase(self, calls: Sequence[CallToErase], *, dry_run: bool = False) -> Erased:
        """Delete all that it delivered of these calls, or count it. It can be called again; it never raises for what
        a destination or a network does. No delivery of these calls is under way."""


@runtime_checkable
class BatchUploader(Uploader, Protocol):
    """Delivers several at once for less than one after the other: into a database, a broker, a directory.

    The dispatcher never puts two deliveries of a call that have an order into one batch: the queue names the second
    one as due only after the first one ended.
    """

    batch_size: int
    """The most deliveries of one batch."""

    async def deliver_many(self, deliveries: Sequence[Delivery]) -> Sequence[Outcome]:
        """Make one attempt for each; the outcomes are in the same order, and each settles its own delivery.

        Raises what `deliver` raises when a payload cannot be read; then each is attempted alone.
        """


class Queue(Protocol):
    """What the dispatcher asks of the spool."""

    @property
    def uploader_state(self) -> "UploaderState":
        """Where open circuit breakers are kept."""

    async def due(
        self, destination: str, lane: Lane, *, now: int, limit: int, of_tenant: OfTenant | None = None
    ) -> Due:
        """The oldest `limit` deliveries that may be sent now, in commit order; of one tenant, or of all.

        Deliveries that are being attempted are still among them: claims live in the dispatcher's memory.
        """

    async def settle(
        self, delivery: Delivery, settlement: Settlement, breaker: BreakerUpdate | None = None, took: int | None = None
    ) -> tuple[Delivery, ...]:
        """Write what an attempt did, also to its destination's breaker; durable with what is returned.

        `took` is how many milliseconds the attempt took; None where nothing was sent. Returns the deliveries that it
        freed.
        """

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """Free what `Hold` set aside for this token, the oldest first, at most `limit`.

        Returns the first of the freed ones; the others are found by `due`.
        """

    async def held_tokens(self, destination: str) -> tuple[int | None, ...]:
        """The tokens for which `Hold` has set something aside: after a restart they are to be tried again."""

    async def revive(self, destination: str, *, since: int, refused: Callable[[str], bool]) -> tuple[Delivery, ...]:
        """Put back what became a dead letter there at or after `since`, for a reason of which `refused` holds.

        It is as if never tried. Returns what may be sent now.
        """

    async def make_due(self, destination: str, *, now: int) -> None:
        """Make every delivery due now that was deferred until this destination accepts deliveries again."""


class DispatchObserver(Protocol):
    """Is called with what the dispatcher does, for metrics and logs."""

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended.

        `outcome` is delivered, retry, held, dead, diverted (a fallback takes its place), or corrupt (dead, because its
        payload is damaged in the spool).
        """

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        """A destination began or stopped accepting deliveries."""

    def credential_changed(self, destination: str, credential: str, accepted: bool, reason: str) -> None:
        """A destination began or stopped refusing a token, whose deliveries are held meanwhile."""


class BreakerState(StrEnum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    """Deliveries flow."""
    OPEN = "open"
    """Nothing is sent until its time."""
    HALF_OPEN = "half_open"
    """One delivery, the probe, is under way."""


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """The state of a destination at one moment, for people and for metrics."""

    name: str
    type: str
    """The kind of destination, as the configuration calls it; empty where it no longer is configured."""
    configured: bool
    """False for a destination that the configuration no longer has but that is still owed deliveries."""
    up: bool
    """Whether it accepts deliveries; one that was never tried counts as up."""
    reason: str
    """Why it is down; empty while it is up."""
    retry_at: int | None
    """When it is tried again while it is down."""
    in_flight: Mapping[Lane, int]
    """Attempts under way in each lane."""
    breaker: BreakerState = BreakerState.CLOSED
    since: int | None = None
    """Since when it is down."""
    refused_tokens: int = 0
    """How many tokens of agents it refuses; deliveries that need them are held."""
    slots: Mapping[Lane, int] = field(default_factory=dict)
    """How many attempts may be under way in each lane: the concurrency limit at this moment."""


# Observers of objects and uploads, for metrics and logs.


class ObjectObserver(Protocol):
    """Is called for objects that a storage confirmed."""

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """An object of `size` bytes was sent and confirmed; `large`: it was a delivery of the detail lane."""


# What uploaders keep through restarts.


class UploaderState(Protocol):
    """Keeps open circuit breakers, and the progress of multipart uploads.

    What was written is durable when a method returns. The progress of a delivery disappears when that is settled as
    delivered. Every method raises `SpoolError`.
    """

    async def read_breaker(self, destination: str) -> BreakerSnapshot | None:
        """What was kept last; None for a destination whose breaker is closed."""

    async def keep_breaker(self, destination: str, breaker: BreakerSnapshot | None) -> None:
        """Remember it, or that it is closed."""

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        """The progress of a delivery's upload; None when it has none."""

    async def begin_upload(self, progress: UploadProgress) -> None:
        """Save an upload that was begun, in place of an earlier one of this delivery."""

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        """Save parts as they are now: before they are sent, and with their ETag after."""

    async def forget_upload(self, key: DeliveryKey) -> None:
        """Forget the upload of a delivery."""

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        """Some uploads, without their parts, whose deliveries ended without being delivered."""


class S3Observer(ObjectObserver, Protocol):
    """Is called with what the S3 uploader does. Sizes in bytes, durations in seconds."""

    def part_sent(self, destination: str, size: int, *, repeated: bool) -> None:
        """A part was uploaded; `repeated`: an earlier attempt had begun it and did not see its end."""

    def parts_resumed(self, destination: str, count: int) -> None:
        """An upload was resumed: `count` parts were there already and were not sent again."""

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """`count` abandoned uploads were aborted at the server, `failed` could not be so far."""

    def read_back(self, destination: str, size: int) -> None:
        """The server gave no checksum that verifies an object, so it was downloaded and compared."""


class SilentObserver:
    """Reports nothing."""

    def part_sent(self, destination: str, size: int, *, repeated: bool) -> None:
        """Nothing."""

    def parts_resumed(self, destination: str, count: int) -> None:
        """Nothing."""

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """Nothing."""

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """Nothing."""

    def read_back(self, destination: str, size: int) -> None:
        """Nothing."""


__all__ = [
    "BreakerState",
    "Delivered",
    "DeliveryKey",
    "DestinationStatus",
    "DispatchObserver",
    "Outcome",
    "PartProgress",
    "PayloadReader",
    "Queue",
    "Refused",
    "RetryLater",
    "Scope",
    "UploadProgress",
    "Uploader",
    "UploaderState",
]
