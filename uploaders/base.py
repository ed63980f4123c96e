"""What an uploader is, and what it may ask of the world: the interfaces of this package.

An uploader delivers to one kind of destination. It gets one delivery and a way to read that delivery's payload,
makes one attempt, and says what came of it. It keeps no queue, decides no retry time and never raises for what
a destination or a network does: that is an outcome.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from spool.records import (
    Delivery,
    DeliveryKey,
    Due,
    Fragment,
    Lane,
    OpenBreaker,
    PartProgress,
    Record,
    Settlement,
    UploadProgress,
)


class Scope(StrEnum):
    """What an outcome speaks about besides the delivery that met it."""

    RECORD = "record"
    """Only this delivery."""
    CREDENTIAL = "credential"
    """Everything that this destination authenticates by the same token."""
    DESTINATION = "destination"
    """Everything for this destination."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has it for certain. `location` says where, if a notice is to tell of it."""

    location: str | None = None


RETRY_AFTER_LIMIT_SECONDS = 3600.0
"""A destination that asks for more is asked again after this: nobody waits a year for a mistyped header."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """It may work later. `after_seconds` is the destination's own wish (Retry-After).

    `give_up_after_seconds` bounds how long this one reason is worth retrying; None leaves that to the policy.
    """

    reason: str
    scope: Scope = Scope.RECORD
    after_seconds: float | None = None
    give_up_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The destination will not have it. With scope RECORD a dead letter; otherwise a pause with a probe.

    `too_large` says that size alone was the reason.
    """

    reason: str
    scope: Scope = Scope.RECORD
    too_large: bool = False


Outcome = Delivered | RetryLater | Refused


class PayloadReader(Protocol):
    """Reads the payload of records, verified, one chunk at a time, holding nothing between chunks."""

    def frames(self, record: Record, fragment: Fragment) -> AsyncIterator[bytes]:
        """The stored zstd frames of a fragment, in order; each is a complete frame of at most 1 MiB raw.

        Raises `spool.errors.CorruptPayload` when a chunk is missing or does not match its checksum.
        """
        ...

    async def token(self, token_id: int) -> str | None:
        """The agent's own token by its id; None once it was overwritten."""
        ...


class Uploader(Protocol):
    """Delivers to one destination."""

    async def deliver(self, delivery: Delivery) -> Outcome:
        """Make one attempt. Cancelling it is safe: the delivery is then still owed."""
        ...

    async def close(self) -> None:
        """Give back connections and files. No attempt is under way when this is called."""
        ...


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
        ...


class BreakerMemory(Protocol):
    """Keeps open breakers through restarts. Both methods raise `SpoolError`."""

    async def read(self, destination: str) -> OpenBreaker | None:
        """What was kept last; None for a destination whose breaker is closed."""
        ...

    async def keep(self, destination: str, breaker: OpenBreaker | None) -> None:
        """Remember it, or that it is closed; durable when this returns."""
        ...


class Queue(Protocol):
    """What the dispatcher asks of the spool."""

    @property
    def breakers(self) -> BreakerMemory:
        """Where open breakers are kept."""
        ...

    async def due(self, destination: str, lane: Lane, *, now: int, limit: int) -> Due:
        """The oldest `limit` deliveries that may be sent now, in commit order.

        Deliveries that are being attempted are still among them: claims live in the dispatcher's memory.
        """
        ...

    async def settle(self, delivery: Delivery, settlement: Settlement) -> tuple[Delivery, ...]:
        """Write what an attempt did; returns, once that is durable, the deliveries that it freed."""
        ...

    async def release(
        self, destination: str, token_id: int | None, *, limit: int | None = None
    ) -> tuple[Delivery, ...]:
        """Free what `Hold` set aside for this token, the oldest first, at most `limit`.

        Returns the first of the freed ones; the others are found by `due`.
        """
        ...

    async def held_tokens(self, destination: str) -> tuple[int | None, ...]:
        """The tokens for which `Hold` has set something aside: after a restart they are to be tried again."""
        ...

    async def wake(self, destination: str, *, now: int) -> None:
        """Make every delivery that is ready but not yet due, due now: the destination answers again."""
        ...


class DispatchObserver(Protocol):
    """Hears what the dispatcher does, for metrics and logs."""

    def attempted(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """An attempt ended: `outcome` is delivered, retry, held, dead, diverted (it goes on in another way), or corrupt
        (dead, for what the spool has of it is damaged)."""
        ...

    def destination_changed(self, destination: str, up: bool, reason: str) -> None:
        """A destination began or ceased to take deliveries."""
        ...


class BreakerState(StrEnum):
    """Whether a destination is sent to."""

    CLOSED = "closed"
    """Deliveries flow."""
    OPEN = "open"
    """Nothing is sent until its time."""
    HALF_OPEN = "half_open"
    """One delivery is under way to find out."""


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """How a destination does at one moment, for people and for metrics."""

    name: str
    type: str
    """The kind of destination, as the configuration calls it; empty where it no longer is configured."""
    configured: bool
    """False for a destination that the configuration no longer has but that is still owed deliveries."""
    up: bool
    """Whether it takes deliveries; one that was never tried counts as up."""
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
    """How many tokens of agents it refuses; what needs them is held."""
    slots: Mapping[Lane, int] = field(default_factory=dict)
    """How many attempts may be under way in each lane, as it bears them now."""


# What is to be heard of objects, whichever way they went, for metrics.


class ObjectObserver(Protocol):
    """Hears of objects that a storage took."""

    def object_delivered(self, destination: str, size: int, seconds: float, *, large: bool) -> None:
        """An object of so many bytes was sent and confirmed; `large` says that it was a delivery of the detail lane."""
        ...


# What an uploader in parts asks of the spool: to remember how far it has come.


class Ledger(Protocol):
    """Keeps the progress of multipart uploads. What was written is durable when a method returns.

    The progress of a delivery disappears when that is settled as delivered. Every method raises `SpoolError`.
    """

    async def upload_progress(self, key: DeliveryKey) -> UploadProgress | None:
        """How far the upload of a delivery has come; None when it has none."""
        ...

    async def begin_upload(self, progress: UploadProgress) -> None:
        """Remember an upload that was begun, in place of an earlier one of this delivery."""
        ...

    async def write_parts(self, key: DeliveryKey, parts: Mapping[int, PartProgress]) -> None:
        """Remember parts as they are now: before they are sent, and with their ETag after."""
        ...

    async def forget_upload(self, key: DeliveryKey) -> None:
        """Forget the upload of a delivery."""
        ...

    async def abandoned_uploads(self, destination: str) -> tuple[UploadProgress, ...]:
        """Some uploads, without their parts, whose deliveries ended without being delivered."""
        ...


# What is to be heard of uploads, for metrics and logs.


class S3Observer(ObjectObserver, Protocol):
    """Hears what the uploader does. Sizes in bytes, durations in seconds."""

    def part_sent(self, destination: str, size: int, seconds: float, *, repeated: bool) -> None:
        """A part arrived; `repeated` says that it was begun before, by an attempt that did not see its end."""
        ...

    def parts_resumed(self, destination: str, count: int) -> None:
        """An upload went on: so many parts were there already and were not sent again."""
        ...

    def uploads_aborted(self, destination: str, count: int, *, failed: int) -> None:
        """So many uploads that nobody will complete were aborted at the server; others could not be, so far."""
        ...

    def read_back(self, destination: str, size: int) -> None:
        """The server told nothing that proves an object, so it was read back."""
        ...


class SilentObserver:
    """Tells nobody."""

    def part_sent(self, destination: str, size: int, seconds: float, *, repeated: bool) -> None:
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
    "BreakerMemory",
    "BreakerState",
    "Delivered",
    "DeliveryKey",
    "DestinationStatus",
    "DispatchObserver",
    "Ledger",
    "Outcome",
    "PartProgress",
    "PayloadReader",
    "Queue",
    "Refused",
    "RetryLater",
    "Scope",
    "UploadProgress",
    "Uploader",
]
