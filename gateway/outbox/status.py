"""How an outbox does: plain data for metrics, the status page and the command line."""

from dataclasses import dataclass, field
from enum import StrEnum

from gateway.outbox.rows import Outcome


class OutboxState(StrEnum):
    """How an outbox does."""

    MISSING = "missing"
    """There is no such file yet, or no table in it; it is taken up when it appears."""
    WATCHED = "watched"
    """What comes in is taken."""
    WAITING = "waiting"
    """Its rows cannot be taken at the moment."""
    UNUSABLE = "unusable"
    """Damaged, foreign or closed to this user."""


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """One outbox at a moment."""

    path: str
    state: OutboxState
    reason: str
    """Why it waits or is unusable; empty otherwise."""
    rows: int
    """Rows that lie in it: in use by the SDK, refused, or still to be taken."""
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    """What became of rows since the start."""
