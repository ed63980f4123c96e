"""Calls as people and programs see them: those in the store of a receiver, and those that go on.

Pure: the same documents are served by the admin API and read by the command line.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.trace import instant
from gateway.trace_schemas import RecordTrace
from uploaders.stores.parts import PartKind
from uploaders.stores.store import CallSummary, StoredCall

CALL_COMPLETE = "call_complete"
"""The event of a call log that this gateway makes when start and end of a call are in its store."""
MOST_CALLS = 1000
"""In one list."""


class CallEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A call in a list. Times are ISO 8601 in UTC."""

    call_id: str
    state: str
    """pending, open, ended, complete, timed_out or orphan."""
    late: bool
    agent_id: str | None
    customer_number: str | None
    environment: str | None
    started_at: str | None
    ended_at: str | None
    duration_seconds: float | None
    reason: str | None
    summary: Mapping[str, int | float] | None
    error: str | None
    first_part_at: str
    completed_at: str | None
    conflicts: int
    has_detail: bool


class CallList(msgspec.Struct, frozen=True):
    """Calls, the newest first."""

    calls: tuple[CallEntry, ...]


class CallDocument(CallEntry, frozen=True, kw_only=True):
    """One call with the trace of its records in the spool, and, if the client may read them, its original documents."""

    start: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET
    end: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET
    updates: tuple[msgspec.Raw, ...] | msgspec.UnsetType = msgspec.UNSET
    references: tuple[msgspec.Raw, ...] | msgspec.UnsetType = msgspec.UNSET
    records: tuple[RecordTrace, ...]


class CompleteCall(CallEntry, frozen=True, kw_only=True):
    """The call log `call_complete`: a whole call in one record, with its original documents."""

    wcall_event: str
    tenant: str | msgspec.UnsetType
    start: msgspec.Raw | None
    end: msgspec.Raw | None
    updates: tuple[msgspec.Raw, ...]


def complete_call_of(call: StoredCall) -> CompleteCall:
    """The announcement of a completed call."""
    return CompleteCall(
        **_columns(call.summary),
        wcall_event=CALL_COMPLETE,
        tenant=call.summary.project or msgspec.UNSET,
        start=next(iter(_documents(call, PartKind.START)), None),
        end=next(iter(_documents(call, PartKind.END, PartKind.CALL)), None),
        updates=_documents(call, PartKind.UPDATE),
    )


def _documents(call: StoredCall, *kinds: PartKind) -> tuple[msgspec.Raw, ...]:
    """The parts of these kinds that the call shows."""
    return tuple([msgspec.Raw(part.document) for part in call.parts if part.shown and part.kind in kinds])


def entry_of(call: CallSummary) -> CallEntry:
    """A call in a list."""
    return CallEntry(**_columns(call))


def _columns(call: CallSummary) -> dict[str, Any]:  # Any: what the columns of an entry are
    fields = call.fields
    return {
        "call_id": call.call_id,
        "state": call.state.name.lower(),
        "late": call.late,
        "agent_id": fields.agent_id,
        "customer_number": fields.customer_number,
        "environment": fields.environment,
        "started_at": _instant(fields.started_at),
        "ended_at": _instant(fields.ended_at),
        "duration_seconds": fields.duration_seconds,
        "reason": fields.reason,
        "summary": fields.summary,
        "error": call.error,
        "first_part_at": instant(call.first_part_at),
        "completed_at": _instant(call.completed_at),
        "conflicts": call.conflicts,
        "has_detail": call.has_detail,
    }


def _instant(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else instant(milliseconds)


def document_of(call: StoredCall, records: tuple[RecordTrace, ...], *, with_documents: bool) -> CallDocument:
    """A call from a store, with the trace of its records."""

    if not with_documents:
        return CallDocument(**_columns(call.summary), records=records)
    return CallDocument(
        **_columns(call.summary),
        start=next(iter(_documents(call, PartKind.START)), None),
        end=next(iter(_documents(call, PartKind.END, PartKind.CALL)), None),
        updates=_documents(call, PartKind.UPDATE),
        references=_documents(call, PartKind.REFERENCE),
        records=records,
    )


# Calls that go on, by their heartbeats.


class LiveEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A live call, or one whose agent was lost recently. Times are ISO 8601 in UTC."""

    call_id: str
    tenant: str | None
    agent_id: str | None
    state: str
    """live or lost."""
    first_heard_at: str
    last_heard_at: str
    silent_seconds: float | None
    """For how long nothing came from its agent, while the gateway listened; null for one that is lost."""
    turns: int
    """How many turns are durable."""
    bytes: int


class LiveList(msgspec.Struct, frozen=True):
    """Live calls, the longest silent first."""

    calls: tuple[LiveEntry, ...]
