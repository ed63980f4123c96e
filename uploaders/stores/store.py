"""What a store is: a database that calls are written to by their parts, and asked for as calls.

The interface is narrow on purpose, and every implementation passes one conformance suite (tests/stores). A write is
durable when its method returns, and writing a part again changes nothing, so that whoever is unsure writes again.
Documents come out byte for byte as they went in.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from uploaders.stores.completion import CallFields, CallRow, CallState, fields_of
from uploaders.stores.parts import Part, PartKind, key_text, storable_text

# Everything that a store raises is a `StoreError`; each engine translates its own errors in one place.


class StoreError(Exception):
    """Base of all errors of stores."""


class StoreUnavailable(StoreError):
    """It may work later: the database is down, full, locked, read-only, or the connection broke.

    Whether a write that met this was committed is unknown; writing it again is safe.
    """


class StoreRefused(StoreError):
    """It will not work until somebody changes something: the wrong database, a missing grant, a damaged file."""


class SchemaTooNew(StoreRefused):
    """A newer callspool has migrated this database; this one refuses to guess what it means."""


class PartRefused(StoreError):
    """The database refuses a value among those it was given; nothing of this batch was kept, others may work."""


# What is written.


class Span(Struct, frozen=True):
    """The columns of one span of a detail; its attributes and events stay in the detail."""

    seq: int
    """Its place in the detail, from 0."""
    trace_id: str | None
    span_id: str | None
    parent_span_id: str | None
    name: str | None
    operation: str | None
    start_ns: int | None
    duration_ns: int | None
    status: int | None
    error: bool
    body: str | None = None
    """The span as it was posted, where a store keeps that."""


@dataclass(frozen=True, slots=True)
class Detail:
    """The content of a DETAIL part, which may be larger than memory."""

    frames: AsyncIterator[bytes]
    """Zstd frames; decompressed one after the other they are the JSON document."""
    spans: Callable[[], Iterator[Span]] = lambda: iter(())
    """Its spans, made as they are asked for, in any thread; may be called only after the last frame."""
    document: Callable[[], bytes | None] = lambda: None
    """All of it in one piece, where a store is to keep that too; under the same conditions."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did, as counts."""

    new: Mapping[PartKind, int] = field(default_factory=dict)
    """The parts that the store did not have; the others were duplicates."""
    completed: int = 0
    """Calls that became complete in time."""
    late: int = 0
    """Calls that became complete after they had been given up."""
    waits: Mapping[int, int] = field(default_factory=dict, compare=False)
    """Of the calls that became complete: how many whole seconds, rounded up, since their first part, and how many."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: how many calls were given up."""

    timed_out: int = 0
    orphans: int = 0
    waiting: int = field(default=0, compare=False)
    """How many calls still wait for their other part."""


# What is asked.


class CallPath(StrEnum):
    """From what a store answers what is asked of calls. See docs/migration.md."""

    MERGED = "merged"
    """The old path: each call is made of its parts when it is asked for."""
    COMPLETE = "complete"
    """The new path: the row that was made when its parts came, or by a backfill."""


@dataclass(frozen=True, slots=True)
class CallQuery:
    """Which calls to list, the newest first. Times are milliseconds since the Unix epoch."""

    project: str = ""
    limit: int = 50
    since: int | None = None
    """Began, or was first heard of, at or after this."""
    until: int | None = None
    """And before this."""
    agent_id: str | None = None
    customer_number: str | None = None
    state: CallState | None = None
    id_prefix: str | None = None
    """Its id begins with this."""
    after: tuple[int, str] | None = None
    """Behind the call of this place and id, in the order of lists: what begins at one moment goes by its id."""

    def as_stored(self) -> "CallQuery":
        """The same query, with its texts as a store has them: one with a NUL is no error of the store."""
        return replace(
            self,
            project=key_text(self.project),
            agent_id=self.agent_id and storable_text(self.agent_id),
            customer_number=self.customer_number and storable_text(self.customer_number),
            id_prefix=self.id_prefix and storable_text(self.id_prefix),
            after=self.after and (self.after[0], storable_text(self.after[1])),
        )


NOT_COMPLETE: Final = f" AND state <> {CallState.COMPLETE:d}"
"""Says to an engine what it has to see to use its index of calls that are not complete."""


@dataclass(frozen=True, slots=True)
class CallSummary:
    """A call as lists show it."""

    project: str
    call_id: str
    state: CallState
    late: bool
    fields: CallFields
    first_part_at: int
    completed_at: int | None
    error: str | None
    conflicts: int
    has_detail: bool
    place: int
    """Where it stands in lists, in the engine's own unit of time: when it began, else when it was first heard of."""


def summary_of(row: CallRow) -> CallSummary:
    """A row as lists show it."""
    fields = fields_of(row.start.head if row.start else None, row.end.head if row.end else None)
    return CallSummary(
        row.project, row.call_id, row.state, row.late, fields, row.first_part_at, row.completed_at, row.error,
        row.conflicts, row.detail is not None, row.first_part_at if fields.started_at is None else fields.started_at,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredPart:
    """One part of a call as it lies in the store."""

    kind: PartKind
    event: str
    digest: bytes
    accepted_at: int
    source_uid: str
    document: bytes
    """Empty for a detail."""
    shown: bool
    """Whether it is the part of its kind that the call shows; always true of updates and references."""


def is_shown(kind: PartKind, digest: bytes, shown: Sequence[bytes | None]) -> bool:
    """Whether a call shows a part; `shown` has the digests of the start, the end and the detail that it shows.

    A whole call log and the detail made of it have one digest: a newer end without telemetry leaves its detail shown.
    """
    match kind:
        case PartKind.START:
            return digest == shown[0]
        case PartKind.END | PartKind.CALL:
            return digest == shown[1]
        case PartKind.DETAIL:
            return digest == shown[2]
        case PartKind.UPDATE | PartKind.REFERENCE:
            return True


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A call with all of its parts, oldest first."""

    summary: CallSummary
    parts: tuple[StoredPart, ...]


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """What a store says of itself."""

    engine: str
    """Such as `PostgreSQL 18.6`."""
    schema_version: int
    calls: Mapping[CallState, int]
    """How many calls are in each state."""


# Bringing the new path up to date, a day at a time.


class BackfillStatus(StrEnum):
    """How far the backfill of a day is."""

    RUNNING = "running"
    """It has begun; the next one goes on at its cursor."""
    COMPLETED = "completed"
    """Every call of the day has its row, and each row shows the parts that it should."""
    DIFFERING = "differing"
    """It ended, and counts or digests did not agree: the next run begins it anew."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Both paths of one day beside each other. The calls of a day are those of which a part was received on it."""

    calls: int
    """By their parts: what the old path has."""
    rows: int
    """How many of these have a row: what the new path has."""
    differing: int
    """How many of the rows show another start, end or detail than the parts say."""
    end_only: int
    """How many of the calls have an end and no start."""

    @property
    def agrees(self) -> bool:
        """Whether counts and digests are equal."""
        return self.calls == self.rows and self.differing == 0


@dataclass(frozen=True, slots=True)
class BackfillDay:
    """What has been done for one day (UTC)."""

    day: date
    status: BackfillStatus
    calls: int
    """Calls that were looked at."""
    written: int
    """Rows that were written or brought up to date; the others were right."""
    end_only: int
    """Calls without a start: they have a row (an orphan's), and are counted."""
    differing: int
    """Of the comparison at its end."""
    updated_at: int


def day_of(milliseconds: int) -> date:
    """The day (UTC) of a time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date()


def milliseconds_of(day: date) -> tuple[int, int]:
    """When a day (UTC) begins, and when the next one does."""
    begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return round(begin.timestamp() * 1000), round((begin + timedelta(days=1)).timestamp() * 1000)


CallKey = tuple[str, str]
"""Project and call id, as the store has them."""


@dataclass(frozen=True, slots=True)
class CallsWanted:
    """Which calls are to be erased: all that fit any of these, of whichever project."""

    call_ids: tuple[str, ...] = ()
    """As they were posted."""
    agent_id: str | None = None


class NumberFound(NamedTuple):
    """A number that a part of a call has."""

    project: str
    call_id: str
    number: str
    """As it is written there."""


@dataclass(frozen=True, slots=True)
class OldCalls:
    """Which calls have been kept for long enough."""

    keep: int
    """Since their last part was received; milliseconds."""
    limit: int
    project: str | None = None
    """Of this project alone."""
    all_but: tuple[str, ...] = ()
    """Of all projects but these."""


OWNER_SILENT_MILLISECONDS = 24 * 3600 * 1000
"""How long a claim is its owner's alone."""


class Store(Protocol):
    """One database. Every method raises `StoreError`, and connects first where there is no connection."""

    async def open(self) -> None:
        """Connect and migrate; does nothing where that was done. Raises `SchemaTooNew` for a newer schema."""

    async def write(self, parts: Sequence[Part]) -> Written:
        """Write parts in one transaction, and pair those of one call. None of them is a DETAIL."""

    async def write_detail(self, part: Part, detail: Detail) -> Written:
        """Write a DETAIL part and its spans, whole or not at all, at bounded memory."""

    async def sweep(self, limit: int = 1000) -> Swept:
        """Give up at most `limit` calls that are due, and clear what interrupted writes left."""

    async def claim_completions(self, owner: str, limit: int) -> list[CallKey]:
        """Calls that became complete and are still to be announced (transactional outbox); a store that announces
        writes them with what completes them.

        The oldest ones that `owner` has claimed, and those that nobody has, or whose owner has not been heard of for a
        day: its own from now on. Every later claim gives them again, until they are forgotten.
        """

    async def forget_completions(self, calls: Sequence[CallKey]) -> None:
        """They are announced."""

    async def calls(self, query: CallQuery, path: CallPath = CallPath.COMPLETE) -> list[CallSummary]:
        """The calls that a query asks for."""

    async def call(self, project: str, call_id: str, path: CallPath = CallPath.COMPLETE) -> StoredCall | None:
        """One call by its own id (as it was posted); None for one that is not here."""

    def detail(self, project: str, call_id: str) -> AsyncIterator[bytes]:
        """The frames of the detail that a call shows, one at a time; none for a call without a detail."""

    async def status(self) -> StoreStatus:
        """Engine, schema and counts."""

    async def check(self) -> tuple[str, ...]:
        """What does not belong together, a sentence each; reads every row."""

    async def oldest_day(self) -> date | None:
        """The day (UTC) on which the oldest part was received; None without parts."""

    async def parity(self, day: date) -> Parity:
        """Compare both paths for a day; reads all of its calls."""

    def backfill(self, day: date, page_rows: int | None = None) -> AsyncGenerator[BackfillDay, None]:
        """Write the rows that the calls of a day lack, in pages of so many calls (by default what suits the engine).

        Each page is one transaction, in which the cursor moves too; what was done is given after each, and after the
        comparison at the end. A day that was interrupted goes on; one that is completed is given as it is.
        """

    async def backfill_days(self) -> list[BackfillDay]:
        """Every day that a backfill has begun, the newest first."""

    async def pause_backfills(self, *, pause: bool) -> None:
        """Ask every backfill of this database to stop after its page; or no longer."""

    async def backfills_paused(self) -> bool:
        """Whether they have been asked to."""

    async def find_calls(self, wanted: CallsWanted) -> list[CallKey]:
        """The calls that are meant, by their keys here; reads every part where an agent is given."""

    async def find_numbers(self, like: str) -> list[NumberFound]:
        """The numbers that fit a pattern of SQL's `LIKE`, which holds no backslash; reads every part."""

    async def old_calls(self, wanted: OldCalls) -> list[CallKey]:
        """Calls of which nothing was received for long, by the store's clock."""

    async def delete(self, keys: Sequence[CallKey]) -> int:
        """Delete all that there is of these calls; returns how many parts they had. It can be called again."""

    async def wipe(self) -> None:
        """Leave nothing of what was deleted in the files of the store; what a server keeps is its own."""

    async def commit_seconds(self) -> float:
        """How long a small durable write takes at this moment, as a live one would."""

    async def missing_rights(self) -> tuple[str, ...]:
        """What this user may not do and a gateway must, as statements that allow it."""

    async def close(self) -> None:
        """Give back connections. No other method is running or called afterwards."""
