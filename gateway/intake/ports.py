"""The interfaces that the intake owns and other packages implement."""

from collections.abc import Callable, Mapping
from typing import Protocol

from spool.records import Accepted, NewRecord, Upload
from spool.stats import TracedRecord

NO_ROUTE = "none"
"""The label of requests that are counted before their route is known."""


class StagingQuota(Protocol):
    """The part of the quota that staging files take."""

    def reserve_staging(self, byte_count: int) -> None:
        """Set so many bytes of the quota aside for a staging file. Raises `SpoolFull` where it has no room for them."""

    async def can_make_staging_room(self, byte_count: int) -> bool:
        """Whether a body of so many bytes would fit if details were evicted for it; nothing is."""

    async def make_staging_room(self, byte_count: int, rest: int) -> None:
        """Evict details for so many bytes that came, where that may be and suffices for `rest` more as well."""

    def release_staging(self, byte_count: int) -> None:
        """So many bytes of staging files are gone again."""


class RecordStore(StagingQuota, Protocol):
    """The durable store, as the intake sees it. All methods may raise `spool.errors.SpoolError`."""

    async def accept(self, record: NewRecord) -> Accepted:
        """Make the record durable, and return only then."""

    def is_erased(self, call_id: str, principal: str, agent_id: str | None) -> bool:
        """Whether what this principal posts of this call, and agent, is refused, because it was erased."""

    async def trace(self, call_id: str) -> tuple[TracedRecord, ...]:
        """All that is known of a call, in commit order; empty for an unknown one."""

    async def register_upload(
        self, key_hash: bytes, s3_key: str, call_id: str, token: str | None, expires_at: int
    ) -> None:
        """Remember an upload address until some time after `expires_at`; durable on return."""

    async def find_upload(self, key_hash: bytes) -> Upload | None:
        """The upload address with this hash of its key."""

    async def find_upload_by_s3_key(self, s3_key: str) -> Upload | None:
        """The upload address that was given out under this name."""


class HeldMemory(Protocol):
    """Bytes of the memory budget."""

    def release(self) -> None:
        """Give them back; harmless when repeated. For the event loop."""


TryReserve = Callable[[int], HeldMemory | None]
"""Takes so many bytes of the memory budget, if they are free now. For the event loop."""


class IntakeObserver(Protocol):
    """Observes the intake for metrics, on the event loop."""

    def posted(self, route: str, result: str) -> None:
        """A request ended: `result` is accepted, duplicate, superseded, answered, gone, or the rejection's code."""

    def acknowledged(self, seconds: float) -> None:
        """A call log was answered with 2xx this long after its headers were read."""

    def payload(self, raw: int, stored: int) -> None:
        """A new record of `raw` bytes takes `stored` bytes in the spool."""

    def nonfinite_numbers(self, count: int) -> None:
        """A new record had `count` NaN or Infinity, which were replaced by null."""

    def stray_token(self) -> None:
        """A new record has a `token` that is no credential, and that stays in it."""

    def redacted(self, counts: Mapping[str, int]) -> None:
        """In a new record each of these rules found something so often."""

    def two_phase(self) -> None:
        """A new record was split into core and detail."""
