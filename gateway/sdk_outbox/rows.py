"""Plain data about an outbox and its rows, and what can go wrong with either."""

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What became of a row."""

    RESCUED = "rescued"
    """A new record of the spool; deleted here."""
    DUPLICATE = "duplicate"
    """Its post had been accepted before; deleted here."""
    SUPERSEDED = "superseded"
    """An end without telemetry of a call whose end is known: recorded, sent to nobody, deleted here."""
    REFUSED = "refused"
    """It holds no call log; left here."""
    LATER = "later"
    """It could not be accepted yet; given back."""

    @property
    def done(self) -> bool:
        """Whether the row may be deleted."""
        return self in {Outcome.RESCUED, Outcome.DUPLICATE, Outcome.SUPERSEDED}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row that may be taken; `status` and `claimed_at` are what it had before it was claimed."""

    row_id: int
    call_id: str
    status: str
    claimed_at: float | None
    size: int
    """Bytes of its payload."""
    claimed: bool
    """False for a row that is too large to be rewritten with a claim: it is deleted only while it is unchanged."""
    payload: bytes | None = None
    """The payload, if it is small enough to be held in memory."""

    def __repr__(self) -> str:  # never a payload in a log
        return f"Row({self.row_id}, {self.call_id!r}, {self.size} bytes)"


class RefusedRow(msgspec.Struct, frozen=True):
    """A row that holds nothing that could be a call log: its payload is NULL or a number, say."""

    row_id: int
    reason: str


class Batch(msgspec.Struct, frozen=True):
    """The next rows of an outbox. There are no more where both are empty."""

    rows: tuple[Row, ...]
    refused: tuple[RefusedRow, ...]


class Survey(msgspec.Struct, frozen=True):
    """What lies in an outbox, looked at without changing anything."""

    ready: int = 0
    """Rows that may be taken."""
    ready_bytes: int = 0
    in_use: int = 0
    """Rows that the SDK is sending, or will soon send again."""
    by_kind: tuple[tuple[str, str, int], ...] = ()
    """Status, event and count."""
    unreadable: int = 0
    """Rows that hold no call log, or cannot be read."""
    rows: tuple[Row, ...] = ()
    """The first 10,000 of those that may be taken, without their payloads."""


class OutboxError(Exception):
    """An outbox file cannot be worked with at the moment."""


class OutboxBusy(OutboxError):
    """Another process holds its lock for longer than the SDK itself would wait: look again later."""


class OutboxUnusable(OutboxError):
    """It is damaged, foreign or closed to this user: nothing in it is touched until it changes."""


class RowRefused(Exception):
    """This row holds no call log that could be taken. It stays where it is, and holds up no other."""


class SinkUnavailable(Exception):
    """Nothing can be accepted at the moment: the spool is full, memory is used up, the gateway does not answer."""


class OutboxState(StrEnum):
    """How an outbox does."""

    MISSING = "missing"
    """There is no such file yet, or no table in it; it is watched until it appears."""
    WATCHED = "watched"
    """New rows are taken."""
    WAITING = "waiting"
    """Its rows cannot be taken at the moment."""
    UNUSABLE = "unusable"
    """Damaged, foreign, unsafe or closed to this user."""


class OutboxStatus(msgspec.Struct, frozen=True):
    """One outbox at a moment: plain data for metrics, the status page and the command line."""

    path: str
    state: OutboxState
    reason: str
    """Why it waits or is unusable; empty otherwise."""
    rows: int
    """Rows that lie in it: in use by the SDK, refused, or still to be taken."""
    outcomes: dict[Outcome, int] = {}
    """What became of rows since the start."""
