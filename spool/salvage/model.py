"""Plain data of a salvage: what another database holds, the outcome of each record, and the tally."""

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from spool.db.sql import RECORD_COLUMNS
from spool.keys import WrappedKey
from spool.records import DeliveryState, Form, Lane, Record


@dataclass(frozen=True, slots=True)
class SourceDelivery:
    """A delivery as the other database has it; destinations by name, for their numbers are its own."""

    destination: str
    form: Form
    lane: Lane
    state: DeliveryState
    ordered: bool = True
    after: str | None = None
    attempts: int = 0
    due_at: int = 0
    first_failed_at: int | None = None
    settled_at: int | None = None
    location: str | None = None
    error: str | None = None
    held_for: int | None = None
    """Why it is held, as far as that could be read; a token's number is the other database's own."""


@dataclass(frozen=True, slots=True)
class SealedToken:
    """An agent's token as it lies encrypted in the other database."""

    value: str
    token_hash: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A record that could be read, with all that is known of its deliveries and the agent's own token."""

    record: Record
    deliveries: tuple[SourceDelivery, ...]
    token: str | None
    happened_at: int | None = None
    """When its event happened, as far as the sender's times say."""
    post_key: bytes | None = None
    """The digest of the idempotency key that its sender gave."""
    key: WrappedKey | None = None
    """Of its payload, where that is encrypted."""
    sealed_token: SealedToken | None = None
    """Its agent's token, where that is encrypted."""

    @property
    def open(self) -> bool:
        """Whether anything of it is still to be delivered, or is a dead letter."""
        return any(not delivery.state.ended for delivery in self.deliveries)


@dataclass(frozen=True, slots=True)
class UnreadableRecord:
    """A record that is known to have been there, and cannot be read."""

    record_id: int
    call_id: str | None
    """None where that cannot be read either."""
    reason: str


@dataclass(frozen=True, slots=True)
class SourceSpans:
    """Spans of a call that had not ended: a row of an open trace, with all that is known of the trace."""

    row_id: int
    trace_id: bytes
    principal: str
    spans: int
    """0 where nobody counted them (before version 11)."""
    crc32: int
    frame: bytes
    call_id: str | None = None
    agent_id: str | None = None
    ended: bool = False
    """Whether the root span of the trace had come."""
    closed: int = 0
    """How many call logs were made of the trace before."""
    token: str | None = None
    key: WrappedKey | None = None
    """Of the frame, where that is encrypted."""
    sealed_token: SealedToken | None = None


@dataclass(frozen=True, slots=True)
class SourceTurn:
    """A turn of a live call, with all that is known of the call; or the call alone. Times in milliseconds."""

    number: int
    """Counts these from 1, the same in every salvage of one database."""
    call_id: str
    principal: str
    turn: str | None
    """None: the call alone."""
    place: int | None = None
    raw_bytes: int = 0
    crc32: int = 0
    frame: bytes = b""
    agent_id: str | None = None
    started_at: int | None = None
    first_at: int = 0
    last_at: int = 0
    open: bool = True
    """Whether its agent was not lost."""
    token: str | None = None
    key: WrappedKey | None = None
    """Of the frame, where that is encrypted."""
    sealed_token: SealedToken | None = None


@dataclass(frozen=True, slots=True)
class UnreadableSpans:
    """A row of spans, or a turn, that is known to have been there, and cannot be read."""

    row_id: int


class Outcome(StrEnum):
    """The outcome of a record."""

    IMPORTED = "imported"
    """It is in this spool now, with its deliveries and its keys."""
    DAMAGED = "imported, with damaged parts"
    """Some of its payload could not be read: deliveries that need that become dead letters, the others are made."""
    THERE = "already there"
    """An earlier salvage imported it."""
    DUPLICATE = "posted again since"
    """The agent repeated the post, and this spool accepted it."""
    SUPERSEDED = "superseded"
    """A later event of its call was accepted since."""
    ERASED = "erased by order"
    """The call was erased here, and posts of it are still refused."""
    ENDED = "delivered before"
    """Nothing of it is owed any more."""
    UNREADABLE = "unreadable"
    """Nothing of it can be imported."""


@dataclass(slots=True)
class Tally:
    """The result of a salvage; counts of records."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    deliveries: Counter[DeliveryState] = field(default_factory=Counter)
    """Deliveries that were imported, by the state that they have now."""
    payload_bytes: int = 0
    unreadable: list[UnreadableRecord] = field(default_factory=list)
    spans: int = 0
    """Spans of calls that had not ended: their call logs are made here."""
    turns: int = 0
    """Turns of live calls: an agent that is not heard of here is lost."""
    lost_turns: int = 0
    lost_span_rows: int = 0
    """Rows of such spans that cannot be read: a post each, or a MiB of one."""
    without_token: int = 0
    """Records whose agent's token could not be read; they are sent without it."""
    incomplete: int = 0
    """Records that are here, imported now or before, of which the other database lacks a part or the token."""
    unchanged: bool = False
    """Whether the files of the other database were at the end as they were at the beginning."""

    @property
    def complete(self) -> bool:
        """Whether all that the other database held is here, or ended there: then nothing of it is needed any more."""
        return (
            self.unchanged
            and not self.outcomes[Outcome.UNREADABLE]
            and not (self.incomplete or self.lost_span_rows or self.lost_turns)
        )


# The statements of a salvage: what it reads of the other database, and writes into this one.

RECORDS = (
    f"SELECT {RECORD_COLUMNS}, r.settled_at, r.happened_at, r.post_key, r.key_epoch, r.payload_key FROM records r "
    "WHERE r.record_id BETWEEN ? AND ? ORDER BY r.record_id"
)
RECORDS_BEFORE_16 = RECORDS.replace("r.trace_context", "NULL")
RECORDS_BEFORE_13 = re.sub(r"r\.(key_epoch|payload_key)", "NULL", RECORDS_BEFORE_16)
RECORDS_BEFORE_7 = RECORDS_BEFORE_13.replace("r.via", "NULL")
RECORDS_BEFORE_6 = re.sub(r"r\.(tenant|principal|happened_at|post_key)", "NULL", RECORDS_BEFORE_7)
RECORDS_BEFORE_3 = re.sub(r"r\.(origin|checksum)", "NULL", RECORDS_BEFORE_6)
LARGEST = (
    "SELECT max(record_id) FROM records",
    "SELECT max(record_id) FROM deliveries",
    "SELECT seq FROM sqlite_sequence WHERE name = 'records'",
    "SELECT max(record_id) FROM records INDEXED BY records_by_call WHERE call_id > ''",
)
"""Each may be unreadable; the largest answer counts."""
CALLS = "SELECT record_id, call_id FROM records INDEXED BY records_by_call WHERE call_id > ''"
"""Read from the index alone: it may be sound where the table is not."""
KNOWN_BY_DELIVERIES = "SELECT DISTINCT record_id FROM deliveries WHERE record_id BETWEEN ? AND ?"
DELIVERIES = (
    "SELECT destination_id, form, lane, state, ordered, after_destination_id, attempts, due_at, first_failed_at, "
    "settled_at, location, error, held_for FROM deliveries WHERE record_id = ?"
)
OPEN_DELIVERIES = (
    "SELECT record_id, destination_id, form, lane, state FROM deliveries INDEXED BY deliveries_open WHERE +state <= 3"
)
"""Read from the index alone, likewise."""
CHUNK = "SELECT crc32, frame FROM chunks WHERE chunk_id = ?"
TOKEN = "SELECT value, token_hash, key_epoch FROM tokens WHERE token_id = ?"
TOKEN_BEFORE_13 = TOKEN.replace("key_epoch", "NULL")

TRACES = "SELECT trace_id, principal, call_id, agent_id, token_id, root_at, closed FROM traces"
SPAN_ROWS = (
    "SELECT row_id FROM trace_rows",
    "SELECT row_id FROM trace_rows INDEXED BY trace_rows_by_trace",
)
"""Each may be unreadable from some place on."""
SPANS = "SELECT trace_id, principal, spans, crc32, frame, key_epoch, payload_key FROM trace_rows WHERE row_id = ?"
SPANS_BEFORE_13 = "SELECT trace_id, principal, spans, crc32, frame, NULL, NULL FROM trace_rows WHERE row_id = ?"
SPANS_BEFORE_11 = "SELECT trace_id, NULL, 0, crc32, frame, NULL, NULL FROM trace_rows WHERE row_id = ?"
FIRST_WITH_TRACES = 8

LIVE_CALLS = (
    "SELECT call_id, principal, agent_id, started_at, first_at, last_at, open, token_id FROM live_calls "
    "ORDER BY call_id, principal"
)
TURN_ROWS = (
    "SELECT row_id FROM live_turns",
    "SELECT row_id FROM live_turns INDEXED BY live_turns_by_call WHERE call_id > ''",
)
"""Each may be unreadable from some place on."""
TURN = (
    "SELECT call_id, principal, turn, place, raw_bytes, crc32, frame, key_epoch, payload_key FROM live_turns "
    "WHERE row_id = ?"
)
FIRST_WITH_LIVE_CALLS = 14

LIVE_HERE = "SELECT open, last_at FROM live_calls WHERE call_id = ? AND principal = ?"
TURN_HERE = "SELECT 1 FROM live_turns WHERE call_id = ? AND principal = ? AND turn = ?"
KEEP_LIVE = "UPDATE live_calls SET first_at = min(first_at, ?), open = ? WHERE call_id = ? AND principal = ?"
SPANS_HERE = "SELECT 1 FROM trace_rows WHERE row_id = ? AND crc32 = ?"
KEEP_CLOSED = "UPDATE traces SET closed = max(closed, ?) WHERE trace_id = ? AND principal = ?"
WRITE_PLACE = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"

BY_ORIGIN = "SELECT 1 FROM records WHERE origin = ?"
ADD_DELIVERY = (
    "INSERT INTO deliveries (record_id, destination_id, form, lane, state, ordered, after_destination_id, attempts, "
    "due_at, first_failed_at, settled_at, held_for, location, error) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
