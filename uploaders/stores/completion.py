"""Completion: how the parts of a call become one record, in whatever order and however often they come.

Pure. `add_part` is the rule for one part, `expire` the one for time, and `merge` makes a call of all its parts at once.
A store either calls them in a transaction that holds the call's row, or says the same in SQL; the conformance suite
compares every store with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from uploaders.stores.parts import Head, Part, PartKind


class CallState(IntEnum):
    """Where a call stands. The numbers are stored."""

    PENDING = 0
    """Only details or updates have come so far: neither start nor end."""
    OPEN = 1
    """It began and has not ended."""
    ENDED = 2
    """Its end came, and its start has not."""
    COMPLETE = 3
    """Both came, or all of it in one call log."""
    TIMED_OUT = 4
    """No end came in time: an error record, which a late end repairs."""
    ORPHAN = 5
    """No start came in time: a record with all that the end has, which a late start repairs."""


LEGAL_TRANSITIONS: Final[Mapping[CallState, frozenset[CallState]]] = {
    CallState.PENDING: frozenset({CallState.OPEN, CallState.ENDED, CallState.COMPLETE, CallState.TIMED_OUT}),
    CallState.OPEN: frozenset({CallState.COMPLETE, CallState.TIMED_OUT}),
    CallState.ENDED: frozenset({CallState.COMPLETE, CallState.ORPHAN}),
    CallState.COMPLETE: frozenset(),
    CallState.TIMED_OUT: frozenset({CallState.OPEN, CallState.ENDED, CallState.COMPLETE}),
    CallState.ORPHAN: frozenset({CallState.COMPLETE}),
}
"""From each state, where a call may go. TIMED_OUT goes back to OPEN or ENDED only where nothing but a detail or an
update had come before."""

EXPIRED_STATES: Final = frozenset({CallState.TIMED_OUT, CallState.ORPHAN})
"""A call that has been in one of these is late."""


@dataclass(frozen=True, slots=True)
class CompletionRule:
    """How calls are completed. Times are milliseconds."""

    timeout: int = 5 * 60_000
    """For the start, from when the end came."""
    open_timeout: int = 60 * 60_000
    """For the end, from when the start came: voice calls last longer than 5 minutes."""
    pairs: bool = True
    """Whether the row of a call is written with its parts; otherwise parts alone, and rows are left to a backfill."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Of the parts of one kind the one that is shown: that of the highest rank."""

    accepted_at: int
    digest: bytes
    head: Head

    @property
    def rank(self) -> tuple[int, bytes]:
        """As `Part.rank`."""
        return (self.accepted_at, self.digest)


@dataclass(frozen=True, slots=True)
class CallRow:
    """The one row of a call. Times are milliseconds since the Unix epoch, by the store's clock."""

    project: str
    call_id: str
    first_part_at: int
    state: CallState = CallState.PENDING
    late: bool = False
    """It had been given up as timed out or orphaned before its latest part came."""
    start: Shown | None = None
    end: Shown | None = None
    """Of END and CALL parts."""
    detail: Shown | None = None
    self_contained: bool = False
    """A CALL part has come: no start is waited for."""
    conflicts: int = 0
    """How many further parts, different from the first, came for a start or an end that was there."""
    due_at: int | None = None
    """When it is given up unless the missing part comes."""
    completed_at: int | None = None
    error: str | None = None


def add_part(row: CallRow | None, part: Part, now: int, rule: CompletionRule) -> CallRow:
    """The row after a part that the store did not have yet; one that it has changes nothing and is not given here."""
    row = row or CallRow(part.project, part.call_id, now, due_at=now + rule.open_timeout)
    shown = Shown(part.accepted_at, part.digest, part.head)
    match part.kind:
        case PartKind.START:
            after = replace(row, start=_newer(row.start, shown), conflicts=row.conflicts + (row.start is not None))
        case PartKind.END | PartKind.CALL:
            whole = row.self_contained or part.kind is PartKind.CALL
            conflicts = row.conflicts + (row.end is not None)
            after = replace(row, end=_newer(row.end, shown), self_contained=whole, conflicts=conflicts)
        case PartKind.DETAIL:
            after = replace(row, detail=_newer(row.detail, shown))
        case PartKind.UPDATE | PartKind.REFERENCE:
            after = row
    state = _state(row, after)
    if state is row.state:
        return after
    assert state in LEGAL_TRANSITIONS[row.state], f"a call may not go from {row.state.name} to {state.name}"
    late = row.late or row.state in EXPIRED_STATES
    due_at = {CallState.OPEN: now + rule.open_timeout, CallState.ENDED: now + rule.timeout}.get(state)
    completed_at = now if state is CallState.COMPLETE else None
    return replace(after, state=state, late=late, due_at=due_at, completed_at=completed_at, error=None)


def expire(row: CallRow, now: int) -> CallRow:
    """The row at this time: given up if what it waits for has not come by its deadline."""
    if row.due_at is None or row.due_at > now:
        return row
    state = CallState.TIMED_OUT if row.end is None else CallState.ORPHAN
    return replace(row, state=state, due_at=None, error=error_of(row.state))


@dataclass(frozen=True, slots=True)
class ReceivedPart:
    """A part as a store holds it."""

    kind: PartKind
    accepted_at: int
    digest: bytes
    head: Head
    received_at: int
    """When it was written, by the store's clock."""


def merge(key: tuple[str, str], parts: Sequence[ReceivedPart], now: int, rule: CompletionRule) -> CallRow:
    """The row of a call (project, call id) from all of its parts, at least one: what `add_part` made of them.

    Only `late` is coarser: it says whether start and end came further apart than the rule allows.
    """
    starts = [part for part in parts if part.kind is PartKind.START]
    ends = [part for part in parts if part.kind in {PartKind.END, PartKind.CALL}]
    details = [part for part in parts if part.kind is PartKind.DETAIL]
    first_part_at = min(part.received_at for part in parts)
    started, ended = (min((part.received_at for part in some), default=None) for some in (starts, ends))
    row = CallRow(
        *key,
        first_part_at,
        start=_highest(starts),
        end=_highest(ends),
        detail=_highest(details),
        self_contained=any(part.kind is PartKind.CALL for part in parts),
        conflicts=max(len(starts) - 1, 0) + max(len(ends) - 1, 0),
    )
    if started is not None and ended is not None:
        late = not row.self_contained and not -rule.timeout <= ended - started <= rule.open_timeout
        row = replace(row, completed_at=max(started, ended), late=late)
    if row.self_contained:
        alone = min(part.received_at for part in parts if part.kind is PartKind.CALL)
        row = replace(row, completed_at=alone if row.completed_at is None else min(alone, row.completed_at))
    if row.completed_at is not None:
        return replace(row, state=CallState.COMPLETE)
    if ended is not None:
        return expire(replace(row, state=CallState.ENDED, due_at=ended + rule.timeout), now)
    if started is not None:
        return expire(replace(row, state=CallState.OPEN, due_at=started + rule.open_timeout), now)
    return expire(replace(row, due_at=first_part_at + rule.open_timeout), now)


def _highest(parts: Sequence[ReceivedPart]) -> Shown | None:
    shown = max(parts, key=lambda part: (part.accepted_at, part.digest), default=None)
    return None if shown is None else Shown(shown.accepted_at, shown.digest, shown.head)


def error_of(state: CallState) -> str | None:
    """What is said of a call that is given up in this state."""
    return {
        CallState.PENDING: "neither its start nor its end came in time",
        CallState.OPEN: "its end did not come in time",
        CallState.ENDED: "its start did not come in time",
    }.get(state)


def _newer(present: Shown | None, shown: Shown) -> Shown:
    return shown if present is None or shown.rank > present.rank else present


def _state(before: CallRow, after: CallRow) -> CallState:
    """Where the parts put the call; what was given up stays so until the missing part comes."""
    if after.self_contained or (after.start and after.end):
        return CallState.COMPLETE
    if after.end:
        return CallState.ORPHAN if before.state is CallState.ORPHAN else CallState.ENDED
    if after.start:
        given_up = before.state is CallState.TIMED_OUT and before.start is not None
        return CallState.TIMED_OUT if given_up else CallState.OPEN
    return before.state


# What lists show of a call.


@dataclass(frozen=True, slots=True)
class CallFields:
    """The columns of a call: what its end says, else what its start says."""

    agent_id: str | None
    customer_number: str | None
    environment: str | None
    started_at: int | None
    ended_at: int | None
    duration_seconds: float | None
    reason: str | None
    summary: Mapping[str, int | float] | None


def fields_of(start: Head | None, end: Head | None) -> CallFields:
    """The columns of a call from the heads of its start and of its end."""
    first, last = start or Head(), end or Head()
    started_at = first.started_at if last.started_at is None else last.started_at
    ended_at = first.ended_at if last.ended_at is None else last.ended_at
    known = started_at is not None and ended_at is not None and ended_at >= started_at
    return CallFields(
        agent_id=last.agent_id or first.agent_id,
        customer_number=last.customer_number or first.customer_number,
        environment=last.environment or first.environment,
        started_at=started_at,
        ended_at=ended_at,
        duration_seconds=(ended_at - started_at) / 1000 if known and ended_at and started_at is not None else None,
        reason=last.reason or first.reason,
        summary=last.summary or first.summary,
    )
